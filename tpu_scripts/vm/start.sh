#!/usr/bin/env bash
# On the TPU's machines, run by ../start.sh: start.sh RUN BUCKET COMMAND...
# starts COMMAND so that it outlives this connection.
set -euo pipefail
name=$1
directory=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tpu_scripts/vm/state.sh
source "$directory/state.sh"

if is_running; then
  echo "$name is running already: watch.sh shows what it prints"
  exit 0
fi
mkdir -p "$(dirname "$state")"
rm -f "$state.status" "$state.pid"
# No input, no terminal and a session of its own: nothing is left that closing
# the connection could end.
setsid nohup bash "$directory/run.sh" "$@" </dev/null >>"$state.log" 2>&1 &

for _ in {1..100}; do
  if [ -e "$state.pid" ]; then
    echo "$name is started: watch.sh shows what it prints"
    exit 0
  fi
  sleep 0.1
done
echo "$name did not start; $state.log says why" >&2
exit 1
