#!/usr/bin/env bash
# Run a command of rlhf-jax on every host of a TPU VM slice, as one run.
#
#     scripts/launch_tpu.sh --tpu=NAME --zone=ZONE [--project=P] [--slices=N]
#         [--directory=rlhf_jax] [--setup] [--dry-run] -- train --config=... --workdir=...
#
# The hosts find each other by themselves. `--setup` first copies this clone to every
# host and installs it there. --workdir must be a folder that all hosts share (a bucket
# mounted with gcsfuse, or NFS). With --slices=N the slices NAME-0 ... NAME-(N-1), made
# as one multislice, run together. The same command continues a run that was stopped.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
tpu='' zone='' project='' directory='rlhf_jax' slices=1 setup=false dry_run=false

fail() {
  echo "error: $1" >&2
  exit 2
}

while [ $# -gt 0 ]; do
  case "$1" in
    --tpu=*) tpu=${1#*=} ;;
    --zone=*) zone=${1#*=} ;;
    --project=*) project=${1#*=} ;;
    --slices=*) slices=${1#*=} ;;
    --directory=*) directory=${1#*=} ;;
    --setup) setup=true ;;
    --dry-run) dry_run=true ;;
    --) shift; break ;;
    -h | --help) sed -n '2,11s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
    *) fail "unknown argument $1 (see --help)" ;;
  esac
  shift
done
[ -n "$tpu" ] && [ -n "$zone" ] || fail "--tpu=NAME and --zone=ZONE are needed"
[ $# -gt 0 ] || fail "give a command after --, such as: -- train --config=FILE"
[[ "$slices" =~ ^[1-9][0-9]*$ ]] || fail "--slices=$slices is not a number from 1"
$dry_run || command -v gcloud >/dev/null || fail "gcloud is not installed"

do_it() {
  if $dry_run; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}

names=("$tpu")
if [ "$slices" -gt 1 ]; then
  names=()
  for ((i = 0; i < slices; i++)); do names+=("$tpu-$i"); done
fi
where=(--zone="$zone" --worker=all)
[ -z "$project" ] || where+=(--project="$project")
command=$(printf '%q ' .venv/bin/rlhf-jax "$@")
install='python3 -m venv .venv && .venv/bin/python -m pip install -e ".[tpu]" -c constraints/$(.venv/bin/python -c "import sys; print(\"%d.%d\" % sys.version_info[:2])").txt'

if $setup; then
  archive=${TMPDIR:-/tmp}/rlhf_jax.tar.gz
  do_it git -C "$here" archive --format=tar.gz --output="$archive" HEAD
  for name in "${names[@]}"; do
    do_it gcloud compute tpus tpu-vm scp "$archive" "$name:rlhf_jax.tar.gz" "${where[@]}"
    do_it gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" \
      --command="mkdir -p $directory && tar -xzf rlhf_jax.tar.gz -C $directory && cd $directory && $install"
  done
fi

# All slices at once: none gets past its first program before the others are there.
running=()
for name in "${names[@]}"; do
  start=(gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" --command="cd $directory && $command")
  if $dry_run; then
    do_it "${start[@]}"
  else
    "${start[@]}" &
    running+=($!)
  fi
done
code=0
for one in ${running[@]+"${running[@]}"}; do wait "$one" || code=$?; done
exit "$code"
