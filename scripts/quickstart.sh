#!/usr/bin/env bash
# Install into .venv and run the whole chain, SFT -> reward model -> PPO, on the CPU.
#
#   scripts/quickstart.sh                          # runs/quickstart-seed0
#   scripts/quickstart.sh --config.seed=3          # runs/quickstart-seed3
#   scripts/quickstart.sh --workdir=/tmp/w --config.ppo.kl_coef=0.1
#
# Arguments go to `rlhf-jax train --config=experiments/quickstart.py`. PYTHON=python3.12
# chooses the interpreter (and its own .venv-3.12). Safe to run again: the installation
# is reused, and a run that was interrupted continues. Relative paths in arguments start
# at the folder that it is called from.
set -euo pipefail
caller=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/lib.sh

seed=0
workdir=
previous=
for argument in "$@"; do
  case "$previous$argument" in
    --config.seed=*) seed=${argument#--config.seed=} ;;
    --config.seed*) [ "$previous" = "--config.seed" ] && seed=$argument ;;
    --workdir*) workdir=given ;;
  esac
  case "$argument" in --config.seed) previous=$argument ;; *) previous= ;; esac
done

choose_python
make_venv "$PY" "$VENV" ""
root=
[ "$caller" = "$PWD" ] || root=$PWD/
[ -n "$workdir" ] || set -- --workdir="${root}runs/quickstart-seed$seed" "$@"
cd "$caller"
exec "$root$VENV/bin/python" -m rlhf_jax train \
  --config="${root}experiments/quickstart.py" "$@"
