#!/usr/bin/env bash
# delete.sh [--dry_run] [--yes]: deletes the TPU, its disk and its request.
#
# That ends the billing. Runs that are neither fetched nor in RUNS_BUCKET are
# lost, so it asks, unless told --yes.
set -euo pipefail
# shellcheck source=tpu_scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
parse_flags "$@"
confirmed=$dry_run
if [ "${flags[*]-}" = --yes ]; then
  confirmed=true
  flags=()
fi
refuse_flags
check_settings

if ! "$confirmed"; then
  printf 'Delete the TPU %s in %s of %s, with its disk? [y/N] ' \
    "$TPU_NAME" "$TPU_ZONE" "$TPU_PROJECT"
  read -r answer || answer=
  case $answer in
    y | Y | yes) ;;
    *) fail "nothing was deleted" ;;
  esac
fi
# --force: without it a TPU that is in use is not deleted.
queued_resource delete --force --quiet
