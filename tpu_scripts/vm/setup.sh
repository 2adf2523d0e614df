#!/usr/bin/env bash
# On the TPU's machines, run by ../setup.sh: installs the repository that this
# file is in, into an environment of its own.
set -euo pipefail
engine=$1 python_version=$2 keras_version=$3 jax_version=$4 check_devices=$5
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

case $engine in
  # The extra pins tensorflow-tpu and the libtpu that it loads.
  tensorflow) packages=(".[tpu,tfds]") ;;
  # tf.data reads the images: TensorFlow's ordinary build leaves the TPU alone.
  jax) packages=(".[tf,tfds]" "jax[tpu]==$jax_version") ;;
esac
packages+=("keras==$keras_version")

# The machine's own Python may be older than the package needs; uv brings one.
PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --quiet --user --upgrade uv
environment=$HOME/lambda_keras_environment
rm -rf "$environment"
python3 -m uv venv --quiet --python "$python_version" "$environment"
python3 -m uv pip install --quiet --python "$environment/bin/python" \
  "${packages[@]}"

export KERAS_BACKEND=$engine CHECK_DEVICES=$check_devices
"$environment/bin/python" - <<'PYTHON'
import os
import socket
from importlib import metadata

import lambda_keras

print(f"installed on {socket.gethostname()}:")
print(f"  lambda_keras {lambda_keras.__version__}")
for name in ("keras", "jax", "libtpu", "tensorflow", "tensorflow-tpu"):
    try:
        print(f"  {name} {metadata.version(name)}")
    except metadata.PackageNotFoundError:
        continue
print("Those who chose these versions have not run them on a TPU.")

if os.environ["CHECK_DEVICES"] == "true":
    if os.environ["KERAS_BACKEND"] == "jax":
        import jax

        devices = [d for d in jax.devices() if d.platform == "tpu"]
    else:
        import tensorflow as tf

        tpu = tf.distribute.cluster_resolver.TPUClusterResolver("local")
        tf.tpu.experimental.initialize_tpu_system(tpu)
        devices = tf.config.list_logical_devices("TPU")
    if not devices:
        raise SystemExit("There is no TPU that these versions can use.")
    print(f"TPU cores: {len(devices)}")
PYTHON
