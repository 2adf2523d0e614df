"""python examples/sequential.py

Trains a small Sequential image model, in which a lambda layer stands where a
3x3 convolution could, on scikit-learn's 8x8 scanned digits.
"""

import math

import keras
from absl import app
from absl import flags

from lambda_keras import LambdaLayer
from lambda_keras.data.digits import load_digits

_EPOCHS = flags.DEFINE_integer("epochs", 20, "Times to see each image.")
_SEED = flags.DEFINE_integer("seed", 0, "Of the weights and the batches.")

BATCH_SIZE = 64


def build_model():
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Conv2D(64, 3, padding="same", use_bias=False),
            # Keras' own momentum, 0.99, is for longer training than this.
            keras.layers.BatchNormalization(momentum=0.9),
            keras.layers.ReLU(),
            # Normalization and activation follow, as after a convolution; the
            # layer has batch normalization of its own for queries and values.
            LambdaLayer(64, num_heads=4, receptive_field=7),
            keras.layers.BatchNormalization(momentum=0.9),
            keras.layers.ReLU(),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )


def main(_):
    keras.utils.set_random_seed(_SEED.value)
    digits = load_digits()
    model = build_model()
    model.summary()
    steps = _EPOCHS.value * math.ceil(len(digits.train.labels) / BATCH_SIZE)
    learning_rate = keras.optimizers.schedules.CosineDecay(0.01, steps)
    model.compile(
        keras.optimizers.Adam(learning_rate),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    model.fit(
        digits.train.images,
        digits.train.labels,
        batch_size=BATCH_SIZE,
        epochs=_EPOCHS.value,
        validation_data=(digits.validation.images, digits.validation.labels),
        verbose=2,
    )
    _, accuracy = model.evaluate(
        digits.test.images, digits.test.labels, verbose=0
    )
    print(f"test accuracy {accuracy:.4f}")


if __name__ == "__main__":
    app.run(main)

# Measured on 2 CPU cores with TensorFlow 2.21, in 30 seconds:
#   test accuracy 0.9917
# and 0.9889 and 0.9917 with seeds 1 and 2.
