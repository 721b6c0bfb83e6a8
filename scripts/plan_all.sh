#!/usr/bin/env bash
# Plan every recipe for a pod and compare with what its header says.
#
#   scripts/plan_all.sh                      # all of them, into runs/plans (an hour)
#   scripts/plan_all.sh --only=qwen3         # some of them
#   scripts/plan_all.sh --write              # write the numbers into the headers
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/lib.sh
choose_python
make_venv "$PY" "$VENV" dev
exec "$VENV/bin/python" scripts/plan_all.py "$@"
