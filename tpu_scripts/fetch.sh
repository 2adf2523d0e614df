#!/usr/bin/env bash
# fetch.sh [--dry_run] [--replace]: copies a run from the TPU to LOCAL_RUNS.
#
# The copy appears whole or not at all. --replace puts it in the place of an
# earlier one.
set -euo pipefail
# shellcheck source=tpu_scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
parse_flags "$@"
replace=false
if [ "${flags[*]-}" = --replace ]; then
  replace=true
  flags=()
fi
refuse_flags
check_settings

target=$LOCAL_RUNS/$RUN
partial=$LOCAL_RUNS/.partial-$RUN
if [ -e "$target" ] && ! "$replace"; then
  fail "$target exists; --replace puts the new copy in its place"
fi
if ! "$dry_run"; then
  trap 'rm -rf "$partial"' EXIT
fi
run rm -rf "$partial"
run mkdir -p "$partial"
copy 0 "$TPU_NAME:runs/$RUN" "$partial"
copy 0 "$TPU_NAME:runs/$RUN.log" "$partial"
# From here on the partial copy is the only one.
trap - EXIT
if "$replace"; then
  run rm -rf "$target"
fi
run mv "$partial/$RUN" "$target"
run mv "$partial/$RUN.log" "$target.log"
run rmdir "$partial"
