"""A saved lambda layer computes the same elsewhere."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import lambda_keras
from lambda_keras.layers import LambdaLayer
from tests import reference
from tests.layers.lambda_cases import ARGUMENTS
from tests.layers.lambda_cases import assert_close
from tests.layers.lambda_cases import compiled
from tests.layers.lambda_cases import expected
from tests.reference import as_numpy


def image_model(size: tuple, **arguments) -> keras.Model:
    inputs = keras.Input((*size, 5), name="image")
    layer = LambdaLayer(
        **{**ARGUMENTS, "intra_depth": 2, "receptive_field": 3, **arguments},
        position_bias=True,
        name="mix",
    )
    return keras.Model(inputs, layer(inputs))


def model_of_everything() -> keras.Model:
    """A model with a mask, a context, a global table and unknown sizes."""
    image = keras.Input((None, None, 5), name="image")
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    memory = keras.Input((4, 6), name="memory")
    x = keras.layers.Embedding(7, 5, mask_zero=True)(tokens)
    x = LambdaLayer(**ARGUMENTS, causal=True, implementation="blocked")(x)
    x = LambdaLayer(**ARGUMENTS, receptive_field=(5,))(x, context=memory)
    y = LambdaLayer(**ARGUMENTS, receptive_field=None)(memory)
    return keras.Model(
        {"image": image, "tokens": tokens, "memory": memory},
        [LambdaLayer(**ARGUMENTS, position_bias=True)(image), x, y],
    )


def random_image(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def run_fresh(code: str, folder: Path, engine: str) -> None:
    """Runs code in a process that shares nothing but the files of a folder."""
    root = Path(lambda_keras.__file__).parents[1]
    subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        check=True,
        cwd=root,
        env={**os.environ, "KERAS_BACKEND": engine},
        timeout=120,
    )


LOAD = """
import sys
import keras, numpy as np
import lambda_keras
folder = sys.argv[1]
model = keras.saving.load_model(f"{folder}/model.keras")
expected = np.load(f"{folder}/outputs.npz").values()
inputs = dict(np.load(f"{folder}/inputs.npz"))
outputs = model.predict(inputs, verbose=0)
for output, array in zip(outputs, expected, strict=True):
    np.testing.assert_allclose(output, array, rtol=1e-5, atol=1e-5)
"""


def test_keras_file_in_a_fresh_process_of_another_engine(tmp_path):
    model = model_of_everything()
    reference.randomize(model)
    inputs = {
        "image": random_image(2, 5, 4, 5),
        "tokens": np.array([[3, 1, 2, 6, 0], [1, 5, 2, 0, 0]]),
        "memory": random_image(2, 4, 6),
    }
    model.save(tmp_path / "model.keras")
    np.savez(tmp_path / "inputs.npz", **inputs)
    np.savez(tmp_path / "outputs.npz", *map(as_numpy, compiled(model)(inputs)))
    others = {"tensorflow": "jax", "jax": "tensorflow", "torch": "jax"}
    run_fresh(LOAD, tmp_path, others[keras.backend.backend()])


SERVE = """
import sys
# Whatever needs these fails to import them.
sys.modules["keras"] = sys.modules["lambda_keras"] = None
import numpy as np
import tensorflow as tf
folder = sys.argv[1]
served = tf.saved_model.load(f"{folder}/model")
for array in np.load(f"{folder}/calls.npz").values():
    image, outputs = array[..., :5], array[..., 5:]
    served_outputs = served.serve(image)
    np.testing.assert_allclose(served_outputs, outputs, rtol=1e-5, atol=1e-5)
"""


@pytest.mark.tf_only
def test_saved_model_needs_but_tensorflow(tmp_path):
    model = image_model((None, None))
    reference.randomize(model)
    model.export(tmp_path / "model", verbose=False)
    calls = []
    for shape in [(2, 5, 4, 5), (1, 9, 12, 5)]:
        image = random_image(*shape)
        calls.append(np.concatenate([image, as_numpy(model(image))], axis=-1))
    np.savez(tmp_path / "calls.npz", *calls)
    run_fresh(SERVE, tmp_path, "tensorflow")


@pytest.mark.parametrize("implementation", ["convolution", "blocked"])
def test_weights_of_one_resolution_serve_at_another(tmp_path, implementation):
    small = image_model((6, 6))
    reference.randomize(small)
    small.save_weights(tmp_path / "small.weights.h5")
    large = image_model((9, 7), implementation=implementation)
    large.load_weights(tmp_path / "small.weights.h5")
    image = random_image(2, 9, 7, 5)
    assert_close(
        as_numpy(compiled(large)(image)),
        expected(small.get_layer("mix"), image),
        1e-5,
    )


# Keras warns about a part of the model before it says what is wrong.
@pytest.mark.filterwarnings("ignore:Skipping nested container")
def test_global_tables_have_the_size_they_were_built_for(tmp_path):
    small = image_model((6, 6), receptive_field=None)
    small.save_weights(tmp_path / "small.weights.h5")
    image_model((6, 6), receptive_field=None).load_weights(
        tmp_path / "small.weights.h5"
    )
    large = image_model((9, 7), receptive_field=None)
    with pytest.raises(ValueError, match="position_embeddings"):
        large.load_weights(tmp_path / "small.weights.h5")
