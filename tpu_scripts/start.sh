#!/usr/bin/env bash
# start.sh [--dry_run] [FLAG...]: starts `lambda-keras train` on the TPU.
#
# FLAGs are for train and come after those that the settings make, for example
# --epochs=1. The run goes on when this terminal closes. If it was stopped, or
# the TPU was preempted and made again, the same command lets it continue.
set -euo pipefail
# shellcheck source=tpu_scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
parse_flags "$@"
check_settings
case $DATASET in
  tfds:*) require DATA_DIR "where tensorflow-datasets finds $DATASET" ;;
esac

train=(lambda-keras train --recipe="$RECIPE" --model="$MODEL"
  --dataset="$DATASET" --batch_size="$BATCH_SIZE")
if [ -n "$DATA_DIR" ]; then
  train+=(--data_dir="$DATA_DIR")
fi
if is_slice; then
  train+=(--strategy=multiworker)
else
  train+=(--strategy=tpu --tpu=local)
fi
train+=(--output_dir="runs/$RUN")

if is_slice; then
  # What the first machine has, the others take from the bucket.
  run_on 0 "$(quote bash lambda_keras/tpu_scripts/vm/save.sh \
    "$RUN" "$RUNS_BUCKET")"
fi
run_on all "$(quote bash lambda_keras/tpu_scripts/vm/start.sh \
  "$RUN" "$RUNS_BUCKET" env KERAS_BACKEND="$ENGINE" \
  "${train[@]}" ${flags[@]+"${flags[@]}"})"
