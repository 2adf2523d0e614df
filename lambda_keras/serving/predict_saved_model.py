"""Predicts with a SavedModel in a process where Keras cannot be imported.

Run by its path, so that the package around it is not imported either:

    python -P predict_saved_model.py SAVED_MODEL IMAGES.npy PREDICTIONS.npy
"""

import sys

import numpy as np

FORBIDDEN = ("keras", "lambda_keras", "tf_keras")
BATCH_SIZE = 256


def main(saved_model: str, images_path: str, predictions_path: str) -> None:
    """Loads, predicts batch by batch, saves the predictions."""
    # TensorFlow imports Keras by itself where it can. None makes every import
    # of a module fail, so the model runs without these or not at all.
    sys.modules.update(dict.fromkeys(FORBIDDEN))  # type: ignore[arg-type]
    import tensorflow as tf

    serve = tf.saved_model.load(saved_model).signatures["serving_default"]
    (input_name,) = serve.structured_input_signature[1]
    images = np.load(images_path)
    predictions = []
    for start in range(0, len(images), BATCH_SIZE):
        batch = tf.constant(images[start : start + BATCH_SIZE], tf.float32)
        (output,) = serve(**{input_name: batch}).values()
        predictions.append(output.numpy())
    np.save(predictions_path, np.concatenate(predictions))

    loaded = {
        name.partition(".")[0]
        for name, module in sys.modules.items()
        if module is not None and name.partition(".")[0] in FORBIDDEN
    }
    if loaded:
        raise SystemExit(f"imported after all: {', '.join(sorted(loaded))}")


if __name__ == "__main__":
    main(*sys.argv[1:])
