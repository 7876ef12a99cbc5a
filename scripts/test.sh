#!/usr/bin/env bash
# Sets up and runs the whole test suite; arguments go to pytest: bash scripts/test.sh -m "not slow"
set -euo pipefail
cd "$(dirname "$0")/.."
REQUIREMENTS=requirements-dev.txt
source scripts/setup.sh
ruff check .
exec python -m pytest "$@"
