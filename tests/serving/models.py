"""Small models to serve, and where they are exported to."""

import keras
import numpy as np

from lambda_keras.layers import LambdaLayer

CLASS_NAMES = ("ant", "bee", "cat", "dog", "eel", "fox")


def tiny_classifier(image_shape=(8, 8, 3), receptive_field=3):
    """Returns a model that takes pixels and answers six probabilities."""
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input(image_shape, name="images"),
            keras.layers.Rescaling(1 / 255),
            LambdaLayer(
                8, num_heads=2, key_dim=4, receptive_field=receptive_field
            ),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(len(CLASS_NAMES), dtype="float32"),
            # Far enough apart for rounding not to change the order.
            keras.layers.Rescaling(5.0, dtype="float32"),
            keras.layers.Softmax(dtype="float32"),
        ],
        name="tiny_classifier",
    )


def random_images(count, image_shape=(8, 8, 3)):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, *image_shape), dtype="uint8")
