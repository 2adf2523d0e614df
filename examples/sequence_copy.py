"""python examples/sequence_copy.py

Copies symbols over a gap of 512 positions, with a causal lambda layer and with
causal convolutions.

A sequence is 16 random symbols, then 512 blanks, then 16 marks. At the marks,
the model has to write the symbols. The position lambda of the layer reaches
back over the gap with one embedding per offset; that is what it learns. The
convolutions have no fewer parameters, but their short kernels reach back 12
positions, where there are only blanks and marks: all they can do is guess. (The
task is that of Hochreiter & Schmidhuber, 1997, and Arjovsky et al., 2016.)
"""

import keras
import numpy as np
from absl import app
from absl import flags

from lambda_keras import LambdaLayer

_GAP = flags.DEFINE_integer("gap", 512, "Blanks between symbols and marks.")
_LENGTH = flags.DEFINE_integer("length", 16, "Symbols to copy.")
_STEPS = flags.DEFINE_integer("steps", 100, "Training steps.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 32, "Sequences per step.")
_SEED = flags.DEFINE_integer("seed", 0, "Of the weights and the sequences.")

NUM_SYMBOLS = 8
BLANK, MARK = NUM_SYMBOLS, NUM_SYMBOLS + 1
WIDTH = 32


def make_sequences(count, generator):
    symbols = generator.integers(NUM_SYMBOLS, size=(count, _LENGTH.value))
    blanks = np.full((count, _GAP.value), BLANK)
    marks = np.full((count, _LENGTH.value), MARK)
    return np.concatenate([symbols, blanks, marks], axis=1), symbols


def build_model(name, mixing_layers):
    """Puts the layers that look at other positions between two that do not."""
    model = keras.Sequential(
        [
            keras.Input((2 * _LENGTH.value + _GAP.value,)),
            keras.layers.Embedding(NUM_SYMBOLS + 2, WIDTH),
            *mixing_layers,
            keras.layers.BatchNormalization(),
            # The answer stands where the marks are.
            keras.layers.Cropping1D((_LENGTH.value + _GAP.value, 0)),
            keras.layers.Dense(NUM_SYMBOLS, activation="softmax"),
        ],
        name=name,
    )
    model.compile(
        keras.optimizers.Adam(0.01),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model


def lambda_model():
    # Odd, with the query in the middle: as far back as the first symbol.
    receptive_field = 2 * (_LENGTH.value + _GAP.value) + 1
    layer = LambdaLayer(WIDTH, receptive_field=receptive_field, causal=True)
    return build_model("lambda", [layer])


def convolutional_model():
    layers = [
        keras.layers.Conv1D(40, 5, padding="causal", activation="relu")
        for _ in range(3)
    ]
    return build_model("convolutions", layers)


def main(_):
    generator = np.random.default_rng(_SEED.value)
    train = make_sequences(_STEPS.value * _BATCH_SIZE.value, generator)
    test = make_sequences(256, generator)
    for make_model in (lambda_model, convolutional_model):
        keras.utils.set_random_seed(_SEED.value)
        model = make_model()
        model.fit(*train, batch_size=_BATCH_SIZE.value, verbose=2)
        _, accuracy = model.evaluate(*test, verbose=0)
        print(
            f"{model.name}: {accuracy:.1%} of the symbols right with "
            f"{model.count_params():,} parameters"
        )
    print(f"chance: {1 / NUM_SYMBOLS:.1%}")


if __name__ == "__main__":
    app.run(main)

# Measured on 2 CPU cores with TensorFlow 2.21, in 2 minutes:
#   lambda: 100.0% of the symbols right with 20,728 parameters
#   convolutions: 12.4% of the symbols right with 23,328 parameters
#   chance: 12.5%
# and 100.0% against 12.2% and 12.6% with seeds 1 and 2.
