#!/bin/sh
# Installs lightning_kd with what the tests need and runs them. Uses the active virtual environment, or makes .venv.
set -eu
cd "$(dirname "$0")/.."
if [ -z "${VIRTUAL_ENV:-}" ]; then
    [ -d .venv ] || python3 -m venv .venv
    . .venv/bin/activate
fi
python -c "import torch" 2>/dev/null || python -m pip install -q "torch==2.13.0"
python -m pip install -q -e ".[dev]"
ruff check .
ruff format --check .
mypy
lint-imports
python -m pytest "$@"
