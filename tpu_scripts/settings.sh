# shellcheck shell=bash disable=SC2034
# Every setting of the scripts beside this file. Write a value after `:-`, or
# set the variable in the environment, which takes precedence.

# The Google Cloud project to bill, as `gcloud projects list` calls it.
TPU_PROJECT=${TPU_PROJECT:-}

# Where the TPU is. Which types are where:
# https://docs.cloud.google.com/tpu/docs/regions-zones
TPU_ZONE=${TPU_ZONE:-}

# A name of your own for the TPU: lower-case letters, digits and hyphens.
TPU_NAME=${TPU_NAME:-}

# Its type and size. The number counts cores up to v5p (`v3-8`, `v4-8`) and
# chips of v5e and v6e (`v5litepod-8`, `v6e-8`). Up to 8 is one machine; more is
# a slice of several, which needs ENGINE=jax and RUNS_BUCKET.
TPU_TYPE=${TPU_TYPE:-v5litepod-8}

# What is on its disk at the start. Empty for what Google names for the type:
# https://docs.cloud.google.com/tpu/docs/runtimes
TPU_RUNTIME=${TPU_RUNTIME:-}

# true for spare capacity: much cheaper, and taken away at any time.
TPU_SPOT=${TPU_SPOT:-false}

# tensorflow or jax. Keras itself is tested on TPUs with JAX only.
ENGINE=${ENGINE:-jax}

# What set-up installs beside the pins of pyproject.toml: the versions that the
# tests run with.
PYTHON_VERSION=${PYTHON_VERSION:-3.11}
KERAS_VERSION=${KERAS_VERSION:-3.15.1}
JAX_VERSION=${JAX_VERSION:-0.10.2}

# The name of a run: its directory is runs/RUN on the TPU's disk.
RUN=${RUN:-lambda_resnet_50}

# A bucket, gs://NAME, that keeps a copy of every run in NAME/runs. Without it a
# run ends where the TPU's disk does: when it is deleted or preempted.
RUNS_BUCKET=${RUNS_BUCKET:-}

# What `lambda-keras train` is told; start.sh takes further flags.
RECIPE=${RECIPE:-paper_resnet50_90ep}
MODEL=${MODEL:-lambda_resnet_50}
DATASET=${DATASET:-tfds:imagenet2012}
# Where tensorflow-datasets finds it, such as gs://NAME/tfds.
DATA_DIR=${DATA_DIR:-}
# Over all cores; the recipe's learning rate follows. 1024 is 128 per core of 8.
BATCH_SIZE=${BATCH_SIZE:-1024}

# Where fetch.sh puts runs on this machine.
LOCAL_RUNS=${LOCAL_RUNS:-runs}
