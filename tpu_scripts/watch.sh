#!/usr/bin/env bash
# watch.sh [--dry_run]: shows what a run prints until it ends.
#
# Ends with the exit status of the run. Interrupting it leaves the run alone.
set -euo pipefail
# shellcheck source=tpu_scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
parse_flags "$@"
refuse_flags
check_settings

run_on 0 "$(quote bash lambda_keras/tpu_scripts/vm/watch.sh "$RUN")"
