#!/usr/bin/env bash
# On the TPU's first machine, run by ../start.sh: save.sh RUN BUCKET
set -euo pipefail
name=$1 bucket=$2
# shellcheck source=tpu_scripts/vm/state.sh
source "$(dirname "${BASH_SOURCE[0]}")/state.sh"

is_running || save
