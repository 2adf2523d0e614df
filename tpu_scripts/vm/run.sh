#!/usr/bin/env bash
# On the TPU's machines, run by start.sh: run.sh RUN BUCKET COMMAND... runs
# COMMAND, keeps a copy of the run in BUCKET, and writes how it ended.
set -euo pipefail
name=$1 bucket=$2
shift 2
# shellcheck source=tpu_scripts/vm/state.sh
source "$(dirname "${BASH_SOURCE[0]}")/state.sh"
cd "$HOME"
export PATH=$HOME/lambda_keras_environment/bin:$PATH

# The command inherits the lock, and holds it should it outlive this process.
exec 9>"$state.lock"
flock --nonblock 9 || exit 1
echo $$ >"$state.pid"
trap 'echo $? >"$state.status.partial"
mv "$state.status.partial" "$state.status"' EXIT

printf '\n%s  %s\n' "$(date '+%F %T')" "$*"
worker=0
if [ -n "$bucket" ]; then
  worker=$(worker_number)
  # What the first machine has is newer than the bucket, since it writes the
  # run; the others read it.
  if [ "$worker" != 0 ] || [ ! -e "$state" ]; then
    restore
  fi
fi

"$@" &
command=$!
# A run that is told to end has a checkpoint to write first.
trap 'kill -TERM "$command"' TERM
if [ -n "$bucket" ] && [ "$worker" = 0 ]; then
  # Without the lock, and no longer than this process, whatever ends that.
  (
    exec 9>&-
    trap 'kill "$timer"; exit' TERM
    while kill -0 $$ 2>/dev/null; do
      sleep "${SAVE_SECONDS:-300}" &
      timer=$!
      wait "$timer"
      save || true
    done
  ) &
  saving=$!
fi
status=0
wait "$command" || status=$?
# A signal ends a wait before the process that is waited for.
while kill -0 "$command" 2>/dev/null; do
  status=0
  wait "$command" || status=$?
done
if [ -n "${saving:-}" ]; then
  kill "$saving"
  wait "$saving" || true
  save
fi
exit "$status"
