#!/usr/bin/env bash
# Install the development extra into .venv, then lint, format check, types and tests.
#
#   scripts/test.sh                          # everything, then what CI runs
#   scripts/test.sh --id C18 --id B9         # the tests of one identity or bug
#   scripts/test.sh tests/ops -k gae         # any arguments of pytest
#   PYTHON=python3.12 scripts/test.sh        # another interpreter, in .venv-3.12
#
# Arguments go to pytest. Those that select tests (--id, -k, -m, a path) run these tests
# alone, in one process. The full run on the default interpreter also runs the tests
# marked `smoke` on the newest Python that is found beside it. Skipped tests are listed
# and counted; more than tests/allowed_skips.txt says is a failure.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/lib.sh

selected=
for argument in "$@"; do
  case "$argument" in
    --id* | -k* | -m* | tests | tests/* | *.py | *.py::*) selected=yes ;;
  esac
done

failed=()
step() { # step NAME COMMAND...: run it, remember its failure, go on
  local name=$1
  shift
  note "$name"
  "$@" || failed+=("$name")
}

smoke_on_newest() { # the part marked `smoke`, on a newer Python than the default's
  local minor newest
  minor=$("$PY" -c 'import sys; print(sys.version_info[1])')
  for ((newest = 13; newest > minor; newest--)); do
    if other=$(find_python "python3.$newest"); then
      make_venv "$other" ".venv-3.$newest" dev
      step "smoke tests on Python 3.$newest" \
        ".venv-3.$newest/bin/python" -m pytest -q -m smoke
      return
    fi
  done
  note "no Python newer than 3.$minor found: no smoke tests on a second version"
}

choose_python
make_venv "$PY" "$VENV" dev
bin="$VENV/bin"
parallel=()
if [ -z "$selected" ]; then
  step "lint" "$bin/python" -m ruff check .
  step "format" "$bin/python" -m ruff format --check .
  step "types" "$bin/python" -m pyright --pythonpath "$bin/python"
  [ -n "${PYTHON:-}" ] || smoke_on_newest
  workers=$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
  parallel=(-n "$((workers < 8 ? workers : 8))" --dist=loadfile --no-loadscope-reorder
    --durations=15)
fi
step "tests" "$bin/python" -m pytest ${parallel[@]+"${parallel[@]}"} "$@"

if [ ${#failed[@]} -gt 0 ]; then
  (IFS=, && echo "failed: ${failed[*]}" >&2)
  exit 1
fi
