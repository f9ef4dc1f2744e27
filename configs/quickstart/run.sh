#!/bin/sh
# Installs lightning_kd and runs the quickstart: a tiny teacher, a tinier student without and with it. Offline once
# installed; under 90 s on 2 cores. Uses the active virtual environment, or makes .venv.
set -eu
cd "$(dirname "$0")/../.."
if [ -z "${VIRTUAL_ENV:-}" ]; then
    [ -d .venv ] || python3 -m venv .venv
    . .venv/bin/activate
fi
# the same PyTorch as tests/run.sh, unless there is one
python -c "import torch" 2>/dev/null || python -m pip install -q "torch==2.13.0"
python -m pip install -q -e .
export HF_HUB_OFFLINE=1
for step in teacher student distil; do
    echo "== configs/quickstart/$step.yaml"
    lightning-kd fit --config "configs/quickstart/$step.yaml" --trainer.enable_model_summary=false
done
