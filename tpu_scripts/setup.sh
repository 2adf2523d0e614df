#!/usr/bin/env bash
# setup.sh [--dry_run]: installs what is committed in this clone on the TPU.
#
# Once after create.sh, and again after a change of the code or the engine while
# no run is on. Nothing that is not committed is sent.
set -euo pipefail
# shellcheck source=tpu_scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
parse_flags "$@"
refuse_flags
check_settings

repository=$(dirname "$scripts")
archive=${TMPDIR:-/tmp}/lambda_keras.tar.gz
if ! "$dry_run" && [ -n "$(git -C "$repository" status --porcelain)" ]; then
  printf '%s\n' "setup.sh: what is not committed is not sent" >&2
fi
check_devices=true
if is_slice; then
  check_devices=false
fi
install=$(quote bash lambda_keras/tpu_scripts/vm/setup.sh \
  "$ENGINE" "$PYTHON_VERSION" "$KERAS_VERSION" "$JAX_VERSION" "$check_devices")

run git -C "$repository" archive --format=tar.gz --output="$archive" HEAD
copy all "$archive" "$TPU_NAME:lambda_keras.tar.gz"
run_on all "rm -rf lambda_keras && mkdir lambda_keras && \
tar -xzf lambda_keras.tar.gz -C lambda_keras && $install"
