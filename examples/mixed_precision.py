"""python examples/mixed_precision.py

Trains the same model in float32, in bfloat16 (for TPUs and recent GPUs) and in
float16 (for older GPUs), by nothing but the dtype policy.

Weights stay in float32. Keras scales the loss where float16 needs it. The
softmax over keys, the content lambda and the classifier are computed in float32
under every policy. A CPU has no units for half precision and is slower with it.
"""

import time

import keras
from absl import app
from absl import flags

from lambda_keras.data.digits import load_digits
from lambda_keras.models import build_model

_EPOCHS = flags.DEFINE_integer("epochs", 6, "Times to see each image.")
_POLICIES = flags.DEFINE_list(
    "policies",
    ["float32", "mixed_bfloat16", "mixed_float16"],
    "The dtype policies to train under.",
)
_SEED = flags.DEFINE_integer("seed", 0, "Of the weights and the batches.")

ROW = "{:15} {:8} {:9} {:8} {:19} {:8} {:>7}"


def train(policy, digits):
    keras.utils.set_random_seed(_SEED.value)
    # Not `build_model(..., dtype=policy)`, which is for the layers: Keras
    # scales the loss if the model's own policy, the global one, is float16.
    keras.config.set_dtype_policy(policy)
    model = build_model("lambda_resnet_tiny", classes=10)
    model.compile(
        keras.optimizers.Adam(0.002),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    model.fit(
        digits.train.images,
        digits.train.labels,
        batch_size=64,
        epochs=_EPOCHS.value,
        verbose=0,
    )
    return model


def main(_):
    digits = load_digits()
    print(
        ROW.format(
            "policy",
            "weights",
            "inside",
            "output",
            "optimizer",
            "accuracy",
            "seconds",
        )
    )
    for policy in _POLICIES.value:
        start = time.perf_counter()
        model = train(policy, digits)
        seconds = time.perf_counter() - start
        _, accuracy = model.evaluate(
            digits.test.images, digits.test.labels, verbose=0
        )
        print(
            ROW.format(
                policy,
                model.weights[0].dtype,
                model.get_layer("c5").output.dtype,
                model.output.dtype,
                type(model.optimizer).__name__,
                f"{accuracy:.4f}",
                f"{seconds:.0f}",
            )
        )


if __name__ == "__main__":
    app.run(main)

# Measured on 2 CPU cores with TensorFlow 2.21, in 1 to 2 minutes (without the
# column of seconds):
#   policy          weights  inside    output   optimizer           accuracy
#   float32         float32  float32   float32  Adam                0.9889
#   mixed_bfloat16  float32  bfloat16  float32  Adam                0.9917
#   mixed_float16   float32  float16   float32  LossScaleOptimizer  0.9917
