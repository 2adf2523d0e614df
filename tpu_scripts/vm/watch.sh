#!/usr/bin/env bash
# On the TPU's first machine, run by ../watch.sh: watch.sh RUN
set -euo pipefail
name=$1
# shellcheck source=tpu_scripts/vm/state.sh
source "$(dirname "${BASH_SOURCE[0]}")/state.sh"

if [ ! -e "$state.log" ]; then
  echo "there is no run $name: start.sh starts it" >&2
  exit 2
fi
if is_running; then
  tail --lines=100 --follow --pid="$(cat "$state.pid")" "$state.log"
else
  tail --lines=20 "$state.log"
fi
if [ ! -e "$state.status" ]; then
  echo "$name was cut off, by a restart of the machine or a lack of memory:" \
    "start.sh lets it continue" >&2
  exit 1
fi
status=$(cat "$state.status")
echo "$name ended with status $status"
exit "$status"
