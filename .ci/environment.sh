# Sourced from the root of the repository: the active virtual environment or .venv, with a PyTorch in it.
if [ -z "${VIRTUAL_ENV:-}" ]; then
    [ -d .venv ] || python3 -m venv .venv
    . .venv/bin/activate
fi
python -c "import torch" 2>/dev/null || python -m pip install -q "torch==2.13.0"
