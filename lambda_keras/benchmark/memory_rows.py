"""The rows of the memory table: their programs, and the paper's counting."""

import dataclasses
import math

import keras

from lambda_keras.benchmark.candidates import CLASSES
from lambda_keras.layers import LambdaLayer
from lambda_keras.layers import SelfAttention
from lambda_keras.models import build_model
from lambda_keras.models.resnet import mixing_layer
from lambda_keras.models.specs import ModelSpec
from lambda_keras.models.specs import get_spec

# Of the single layer, whose heads and positions the paper's example has; the
# paper does not say how many channels.
LAYER_HEADS, LAYER_CHANNELS = 8, 256

ITEMSIZES = {"float32": 4, "bf16": 2}


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of the memory table.

    Attributes:
        title: What the paper calls the layer.
        spec_name: The model whose layers the row is about.
        space: What the paper's counting grows with: b batch, l layers, h
            heads, n positions, m positions in the window, k key depth.
        paper: Gigabytes in the paper's table, if it has a figure.
        implementation: How a lambda layer contracts.
        receptive_field: If it is not the spec's.
        shares_embeddings: Whether the layers of a stage have one table.
    """

    title: str
    spec_name: str
    space: str | None
    paper: float | None = None
    implementation: str = "lambda_first"
    receptive_field: int | None = None
    shares_embeddings: bool = False

    @property
    def spec(self) -> ModelSpec:
        """The model's spec, with the row's own receptive field."""
        spec = get_spec(self.spec_name)
        field = self.receptive_field or spec.receptive_field
        return dataclasses.replace(spec, receptive_field=field)


# The figures are of the paper's Table 4, in the arXiv version: 128 images of
# 224 pixels, float32. The submission counted the embeddings at two bytes.
ROWS = {
    "global": Row(
        "Global self-attention", "global_attention_resnet_v1_50", "blhn²", 120
    ),
    "axial": Row(
        "Axial self-attention", "axial_attention_resnet_v1_50", "blhn√n", 4.8
    ),
    "local": Row(
        "Local self-attention 7x7", "local_attention_resnet_v1_50", "blhnm"
    ),
    "lambda": Row("Lambda layer", "lambda_resnet_v1_50", "lkn²", 1.9),
    "lambda_k8": Row(
        "Lambda layer, k=8", "lambda_resnet_v1_50_k8_h4_u1", "lkn²", 0.95
    ),
    "lambda_shared": Row(
        "Lambda layer, shared embeddings",
        "lambda_resnet_v1_50",
        "kn²",
        0.63,
        shares_embeddings=True,
    ),
    "lambda_convolution": Row(
        "Lambda convolution 7x7",
        "lambda_resnet_v1_50",
        "lknm",
        implementation="convolution",
        receptive_field=7,
    ),
    "lambda_auto": Row(
        'Lambda layer, implementation="auto"',
        "lambda_resnet_v1_50",
        None,
        implementation="auto",
    ),
}


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a mixing layer stands.

    Attributes:
        stage: The stage, from 0.
        size: Height and width of what the layer works on.
        channels: How many the layer makes.
    """

    stage: int
    size: int
    channels: int


def find_places(program: str, spec: ModelSpec, size: int) -> list[Place]:
    """Lists the mixing layers of a program in their order.

    Args:
        program: `"stack"`: as many layers as each stage of the model has, at
            the size of the stage's output, which is what the paper counts.
            `"model"`: the layers of the model itself, of which the first of
            a stage works at the size before the stride. `"layer"`: one.
        spec: The model.
        size: Height and width of the images, or of the input of a layer.

    Returns:
        A `Place` for each layer.
    """
    if program == "layer":
        return [Place(0, size, LAYER_CHANNELS)]
    stem = math.prod(stride for _, _, stride in spec.stem)
    size = -(-size // (stem * (2 if spec.max_pool else 1)))
    places = []
    for stage, blocks in enumerate(spec.mixer_blocks):
        before, size = size, -(-size // spec.strides[stage])
        first = before if program == "model" else size
        places += [
            Place(stage, size if block else first, spec.filters(stage))
            for block in blocks
        ]
    return places


def count_bytes(
    row: Row, program: str, size: int, batch: int, precision: str = "float32"
) -> int | None:
    """Counts attention maps or position embeddings, as the paper does.

    Nothing else is counted: no activations, no lambdas, no gradients.

    Args:
        row: The row.
        program: As `find_places` takes it.
        size: Height and width of the images, or of the input of a layer.
        batch: The number of images.
        precision: `"float32"` or `"bf16"`.

    Returns:
        Bytes; `None` where the paper's counting does not apply.

    Example:

    >>> count_bytes(ROWS["global"], "layer", size=64, batch=128) / 2**30
    64.0
    """
    if row.space is None:
        return None
    total, seen = 0, set()
    for place in find_places(program, row.spec, size):
        if row.shares_embeddings and place.stage in seen:
            continue
        seen.add(place.stage)
        layer = _layer(row, program, place, "float32")
        total += _count_numbers(layer, place.size, batch)
    return ITEMSIZES[precision] * total


def _count_numbers(layer, size, batch):
    positions = size**2
    if isinstance(layer, SelfAttention):
        reach = {
            "global": positions,
            "axial": 2 * size,
            "local": layer.receptive_field**2,
        }[layer.scope]
        return batch * layer.num_heads * positions * reach
    reach = positions
    if layer.implementation == "convolution":
        reach = layer.receptive_field**2
    return layer.key_dim * layer.intra_depth * positions * reach


def build_program(
    row: Row, program: str, size: int, precision: str = "float32"
) -> keras.Model:
    """Builds the model whose steps need memory.

    A stack is the mixing layers alone, one after the other, each stage
    smaller than the last by an average pool. Stacks and single layers end in
    pooling and a classifier, so that they train as a model does.

    Args:
        row: The row.
        program: As `find_places` takes it.
        size: Height and width of the images, or of the input of a layer.
        precision: `"float32"` or `"bf16"`.

    Returns:
        A `keras.Model` that gives probabilities.

    Raises:
        ValueError: If there is no such model.
    """
    policy = keras.dtype_policies.get(
        "mixed_bfloat16" if precision == "bf16" else precision
    )
    if program == "model":
        if row.shares_embeddings:
            raise ValueError(
                "No model has layers with shared embeddings. "
                f"Received: row={row.title}"
            )
        return build_model(
            row.spec,
            input_shape=(size, size, 3),
            implementation=row.implementation,
            dtype=policy,
        )
    places = find_places(program, row.spec, size)
    shape = (places[0].size, places[0].size, places[0].channels)
    x = inputs = keras.Input(shape)
    before, table = places[0], None
    for place in places:
        if place.stage > before.stage:
            stride = row.spec.strides[place.stage]
            x = keras.layers.AveragePooling2D(
                stride, padding="same", dtype=policy
            )(x)
            table = None
        layer = _layer(row, program, place, policy)
        if table is not None:
            config = {**layer.get_config(), "table": table}
            layer = _Borrower.from_config(config)
        x = layer(x)
        if row.shares_embeddings:
            table = layer.position_embeddings
        before = place
    x = keras.layers.GlobalAveragePooling2D(dtype="float32")(x)
    x = keras.layers.Dense(CLASSES, activation="softmax", dtype="float32")(x)
    model = keras.Model(inputs, x)
    model.dtype_policy = policy
    return model


def _layer(row, program, place, policy):
    spec = row.spec
    if program == "layer":
        spec = dataclasses.replace(spec, num_heads=LAYER_HEADS)
    return mixing_layer(spec, place.channels, row.implementation, dtype=policy)


class _Borrower(LambdaLayer):
    """A lambda layer with the position embeddings of another one."""

    def __init__(self, table, **kwargs):
        super().__init__(**kwargs)
        self._table = table

    def _add_embeddings(self, name, shape, stddev):
        return self._table
