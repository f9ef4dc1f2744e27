#!/bin/sh
# Installs lightning_kd with what the tests need and runs them. Uses the active virtual environment, or makes .venv.
set -eu
cd "$(dirname "$0")/.."
. .ci/environment.sh
python -m pip install -q -e ".[dev]"
ruff check .
ruff format --check .
mypy
lint-imports
python -m pytest -n 2 "$@"  # half of the tests wait for processes of their own
