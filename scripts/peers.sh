#!/usr/bin/env bash
# Make the virtual environments of the peers that scripts/benchmark.py compares with.
#
#   scripts/peers.sh            # .venv-trl and .venv-tunix
#   scripts/peers.sh trl        # one of them
#
# They stay apart from .venv: each peer wants other versions of the same packages.
# PYTHON=python3.12 chooses the interpreter. Safe to run again: what is installed is
# reused without network, and a run that was interrupted continues.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/lib.sh

# Exact pins where a release decides what is measured: TRL has since removed PPO.
requirements() {
  case "$1" in
    trl) echo "torch==2.13.0 trl==0.24.0 transformers==4.57.6 datasets<5 accelerate" ;;
    tunix) echo "google-tunix==0.1.7" ;;
    *) fail "no peer is named '$1'; choose from trl, tunix" ;;
  esac
}

install_peer() { # NAME: does nothing where the same installation is complete
  local venv=".venv-$1" wanted
  wanted=$(requirements "$1")
  wanted="$(python_version "$PY") $wanted"
  [ "$(cat "$venv/installed-peer" 2>/dev/null)" != "$wanted" ] || return 0
  if [ "$(python_version "$venv/bin/python" 2>/dev/null)" != "${wanted%% *}" ]; then
    note "making $venv"
    "$PY" -m venv --clear "$venv" || fail "could not make $venv with $PY"
  fi
  note "installing into $venv (a few minutes): ${wanted#* }"
  # shellcheck disable=SC2086 # a list of requirements
  "$venv/bin/python" -m pip install -q --disable-pip-version-check ${wanted#* } ||
    fail "installation into $venv failed; run the same command again to resume"
  echo "$wanted" >"$venv/installed-peer"
}

[ $# -gt 0 ] || set -- trl tunix
for peer in "$@"; do requirements "$peer" >/dev/null; done
choose_python
for peer in "$@"; do install_peer "$peer"; done
