"""Named models made small enough to run, one for each different shape."""

import dataclasses

import keras
import numpy as np

from lambda_keras.models import MODEL_SPECS
from lambda_keras.models import ModelSpec

# Width 16 is the least that the specs with 16 heads divide.
WIDTH = 16
# At stride 32 one position is left, four where c5's first block mixes. Keys
# of one position have no gradient: their softmax is 1.
SIZE = 32


def shallow(spec: ModelSpec) -> ModelSpec:
    """Keeps what a spec's blocks are made of, and one or two of each stage.

    A stage of which some blocks mix keeps its first and one that mixes.
    """
    depths, mixer_blocks = [], []
    for depth, blocks in zip(spec.depths, spec.mixer_blocks, strict=True):
        some = 0 < len(blocks) < depth
        depths.append(2 if some else 1)
        mixer_blocks.append((1,) if some else blocks[:1])
    size = 2 * SIZE if mixer_blocks[-1] == (1,) else SIZE
    return dataclasses.replace(
        spec,
        depths=tuple(depths),
        mixer_blocks=tuple(mixer_blocks),
        width=WIDTH,
        image_size=min(spec.image_size, size),
        drop_path_rate=0.1,
        dropout_rate=0.1,
        parameters=None,
        flops=None,
        paper=(),
    )


def _distinct() -> dict[str, ModelSpec]:
    """Small specs by the first name that gives them: depths are alike."""
    distinct = {}
    for name, spec in MODEL_SPECS.items():
        nameless = dataclasses.replace(shallow(spec), name="variant")
        distinct.setdefault(nameless, name)
    return {name: spec for spec, name in distinct.items()}


VARIANTS = _distinct()

# One of each kind of block and stem.
REPRESENTATIVES = (
    "lambda_resnet_50",
    "axial_attention_resnet_50",
    "local_attention_resnet_50",
    "se_resnet_v1_50",
    "lambda_resnet_50ts",
    "attention_tiny",
)


def images(spec: ModelSpec, count: int = 4) -> np.ndarray:
    shape = (count, spec.image_size, spec.image_size, len(spec.mean))
    random = np.random.default_rng(0)
    return random.integers(0, 256, shape).astype("float32")


def wake(model: keras.Model) -> keras.Model:
    """Gives every scale and offset a value, as training would.

    The last scale of each block starts at zero, which stops all gradients
    and hides what the block computes.
    """
    random = np.random.default_rng(0)
    for variable in model.trainable_variables:
        if variable.path.endswith("gamma"):
            variable.assign(random.uniform(0.5, 1.5, variable.shape))
        elif variable.path.endswith(("beta", "bias")):
            variable.assign(random.normal(0, 0.1, variable.shape))
    return model


def outputs(model: keras.Model, inputs: np.ndarray) -> np.ndarray:
    # JAX compiles each operation of an eager call by itself.
    if keras.backend.backend() == "jax":
        return model.predict_on_batch(inputs)
    return keras.ops.convert_to_numpy(model(inputs))
