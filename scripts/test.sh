#!/usr/bin/env bash
# Sets up and runs the whole test suite; arguments go to pytest: bash scripts/test.sh -m "not slow"
set -euo pipefail
cd "$(dirname "$0")/.."
REQUIREMENTS=requirements-dev.txt
source scripts/setup.sh
ruff check .
ruff format --check .
# a process for each core, each with one thread; a file's tests stay together, for they share what they set up
export OMP_NUM_THREADS=1
exec python -m pytest -n auto --dist loadfile "$@"
