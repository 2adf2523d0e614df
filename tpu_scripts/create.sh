#!/usr/bin/env bash
# create.sh [--dry_run]: queues a request for the TPU and waits until it is met.
#
# Billing begins when the TPU is there and ends with delete.sh. Interrupting the
# wait leaves the request in the queue; the same command waits again.
set -euo pipefail
# shellcheck source=tpu_scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
parse_flags "$@"
refuse_flags
check_settings

runtime=$TPU_RUNTIME
if [ -z "$runtime" ]; then
  case $TPU_TYPE in
    v6e-*) runtime=v2-alpha-tpuv6e ;;
    v5p-*) runtime=v2-alpha-tpuv5 ;;
    v5litepod-*) runtime=v2-alpha-tpuv5-lite ;;
    v[234]-*) runtime=tpu-ubuntu2204-base ;;
    *) require TPU_RUNTIME "none is known for TPU_TYPE=$TPU_TYPE" ;;
  esac
fi
# The scope lets it read and write the buckets that its account may.
request=(--node-id="$TPU_NAME" --accelerator-type="$TPU_TYPE"
  --runtime-version="$runtime" --scopes=cloud-platform)
if [ "$TPU_SPOT" = true ]; then
  request+=(--spot)
fi

state() {
  queued_resource describe --format='value(state.state)'
}

if "$dry_run"; then
  queued_resource create "${request[@]}"
  state
  exit
fi

if ! current=$(state 2>/dev/null); then
  queued_resource create "${request[@]}"
  current=$(state)
fi
shown=
while true; do
  if [ "$current" != "$shown" ]; then
    printf '%s  %s: %s\n' "$(date +%H:%M:%S)" "$TPU_NAME" "$current"
    shown=$current
  fi
  case $current in
    ACTIVE) exit 0 ;;
    FAILED | SUSPENDING | SUSPENDED | DELETING)
      printf '%s\n' "create.sh: the request is $current; what Google says:" >&2
      queued_resource describe >&2
      printf '%s\n' "Delete it with delete.sh before creating it again." >&2
      exit 1
      ;;
  esac
  sleep "${POLL_SECONDS:-30}"
  current=$(state)
done
