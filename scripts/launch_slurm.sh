#!/usr/bin/env bash
# Run a command of rlhf-jax as a SLURM job, one process for each GPU, as one run.
#
#     scripts/launch_slurm.sh --nodes=N [--gpus-per-node=G] [--time=HH:MM:SS]
#         [--partition=P] [--account=A] [--dry-run] -- train --config=... --workdir=...
#
# The processes find each other by the variables of SLURM. --workdir must be a folder
# that all nodes share. Five minutes before the time is up SLURM sends SIGTERM: the run
# saves and leaves with exit code 143, and the same command continues it. When a
# process fails, `--kill-on-bad-exit` ends the others. With --gpus-per-node=0 each node
# is one process on its CPUs.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
nodes='' gpus=8 limit='' partition='' account='' dry_run=false

fail() {
  echo "error: $1" >&2
  exit 2
}

while [ $# -gt 0 ]; do
  case "$1" in
    --nodes=*) nodes=${1#*=} ;;
    --gpus-per-node=*) gpus=${1#*=} ;;
    --time=*) limit=${1#*=} ;;
    --partition=*) partition=${1#*=} ;;
    --account=*) account=${1#*=} ;;
    --dry-run) dry_run=true ;;
    --) shift; break ;;
    -h | --help) sed -n '2,12s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
    *) fail "unknown argument $1 (see --help)" ;;
  esac
  shift
done
[[ "$nodes" =~ ^[1-9][0-9]*$ ]] || fail "--nodes=$nodes is not a number from 1"
[[ "$gpus" =~ ^[0-9]+$ ]] || fail "--gpus-per-node=$gpus is not a number"
[ $# -gt 0 ] || fail "give a command after --, such as: -- train --config=FILE"
$dry_run || command -v sbatch >/dev/null || fail "sbatch is not installed"

tasks=$((gpus > 0 ? gpus : 1))
options=(--job-name=rlhf_jax --nodes="$nodes" --ntasks-per-node="$tasks" --signal=TERM@300)
[ "$gpus" = 0 ] || options+=(--gpus-per-node="$gpus")
[ -z "$limit" ] || options+=(--time="$limit")
[ -z "$partition" ] || options+=(--partition="$partition")
[ -z "$account" ] || options+=(--account="$account")
run="cd $(printf '%q' "$here") && exec srun --kill-on-bad-exit=1 --label $(printf '%q ' .venv/bin/rlhf-jax "$@")"

if $dry_run; then
  printf '%q ' sbatch "${options[@]}" --wrap="$run"
  echo
else
  exec sbatch "${options[@]}" --wrap="$run"
fi
