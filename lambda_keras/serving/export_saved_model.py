"""Exports the model of a `.keras` file, in a process of its own.

python -P export_saved_model.py MODEL.keras SAVED_MODEL
"""

import sys

import keras

# Registers the layers and optimizers of the file.
import lambda_keras  # noqa: F401
from lambda_keras.serving.saved_model import export_saved_model


def main(path: str, directory: str) -> None:
    """Writes the SavedModel.

    Args:
        path: The `.keras` file.
        directory: Where to write.
    """
    export_saved_model(keras.saving.load_model(path, compile=False), directory)


if __name__ == "__main__":
    main(*sys.argv[1:])
