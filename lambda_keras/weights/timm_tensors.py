"""Which weights of ours each tensor of timm's LambdaResNets holds."""

import dataclasses
from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any

import numpy as np

from lambda_keras.models import ModelSpec

# A size that the file decides has a name; the same name is the same size.
Shape = tuple[int | str, ...]

CLASSES, ROWS, COLUMNS = "classes", "rows_", "columns_"

# What a spec must have, beside the bias of local layers, for timm to have a
# model that computes the same.
_FIELDS_OF_TIMM: dict[str, Any] = {
    "mixer": "lambda",
    "intra_depth": 1,
    "mixer_pool_size": 2,
    "max_pool": True,
    "average_pool_shortcut": False,
    "se_ratio": 0,
    "epsilon": 1e-5,
}


@dataclasses.dataclass(frozen=True)
class TimmTensor:
    """A tensor of timm's and the weights of ours that it holds.

    Axes are letters, the same letters on both sides, so that either layout
    follows from the other. `1` is an axis of size 1.

    Attributes:
        parts: Our shape of each weight, by its path. Several are joined along
            timm's first axis. None at all is a count of batches: timm keeps
            one beside each mean, and neither side computes with it.
        keras_axes: Our axes.
        timm_axes: Timm's axes.
    """

    parts: dict[str, Shape]
    keras_axes: str = "o"
    timm_axes: str = "o"

    @property
    def shape(self) -> Shape:
        """Timm's shape."""
        if not self.parts:
            return ()
        shapes = self._timm_shapes()
        if len(shapes) == 1:
            return shapes[0]
        # Of several, no size has a name.
        return (sum(int(shape[0]) for shape in shapes), *shapes[0][1:])

    def to_keras(self, array: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the weights that timm's array holds, by their paths."""
        sizes = [shape[0] for shape in self._timm_shapes()]
        pieces = np.split(array, np.cumsum(sizes[:-1], dtype="int64"))
        return {
            path: _rearrange(piece, self.timm_axes, self.keras_axes)
            for path, piece in zip(self.parts, pieces)
        }

    def to_timm(self, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
        """Returns timm's array of weights, which are found by their paths."""
        if not self.parts:
            return np.zeros((), "int64")
        return np.concatenate(
            [
                _rearrange(arrays[path], self.keras_axes, self.timm_axes)
                for path in self.parts
            ]
        )

    def _timm_shapes(self) -> list[Shape]:
        return [
            _rearranged_shape(shape, self.keras_axes, self.timm_axes)
            for shape in self.parts.values()
        ]


def list_timm_tensors(spec: ModelSpec) -> dict[str, TimmTensor]:
    """Lists the tensors of timm's model of the same architecture.

    Source: `timm/models/byobnet.py` and `timm/layers/lambda_layer.py`,
    version 1.0.31.

    Args:
        spec: A spec with timm's kinds of layers, at any width and depth.

    Returns:
        A `TimmTensor` for each of timm's names.

    Raises:
        ValueError: If timm has no such architecture.

    Example:

    >>> tensors = list_timm_tensors(get_spec("lambda_resnet_26t"))
    >>> tensors["head.fc.weight"].shape
    ('classes', 2048)
    >>> tensors["head.fc.weight"].parts
    {'predictions/kernel': (2048, 'classes')}
    """
    differences = differences_from_timm(spec)
    if differences:
        raise ValueError(
            f"Timm's LambdaResNets have {differences}. "
            f"Received: spec={spec.name!r}"
        )
    return dict(_tensors(spec))


def differences_from_timm(spec: ModelSpec) -> str:
    """Returns what a spec would need for timm to have its model, or ""."""
    required = {
        **_FIELDS_OF_TIMM,
        "position_bias": spec.receptive_field is not None,
    }
    return ", ".join(
        f"{name}={value!r}"
        for name, value in required.items()
        if getattr(spec, name) != value
    )


def _tensors(spec: ModelSpec) -> Iterator[tuple[str, TimmTensor]]:
    channels, stride = len(spec.mean), 1
    for i, (part, kernel, step) in enumerate(spec.stem):
        filters = int(part * spec.width)
        names = f"stem.conv{i + 1}", f"stem_conv{i}", f"stem_conv{i}_norm"
        yield from _conv_norm(*names, (kernel, channels, filters))
        channels, stride = filters, stride * step
    stride *= 2  # The max-pool's.
    for stage, depth in enumerate(spec.depths):
        for index in range(depth):
            yield from _block(spec, stage, index, channels, stride)
            channels = 4 * spec.filters(stage)
            stride *= spec.strides[stage] if index == 0 else 1
    kernel_shape = channels, CLASSES
    yield (
        "head.fc.weight",
        TimmTensor({"predictions/kernel": kernel_shape}, "io", "oi"),
    )
    yield "head.fc.bias", TimmTensor({"predictions/bias": (CLASSES,)})


def _block(spec, stage, index, channels, stride):
    timm, ours = f"stages.{stage}.{index}", f"c{stage + 2}_block{index}"
    filters = spec.filters(stage)
    if index == 0:
        yield from _conv_norm(
            f"{timm}.shortcut",
            f"{ours}_shortcut_conv",
            f"{ours}_shortcut_norm",
            (1, channels, 4 * filters),
        )
    yield from _conv_norm(
        f"{timm}.conv1_1x1",
        f"{ours}_conv1",
        f"{ours}_norm1",
        (1, channels, filters),
    )
    if index in spec.mixer_blocks[stage]:
        layer = f"{ours}_{spec.mixer}"
        # It sees the map before the stride of its block.
        yield from _lambda(f"{timm}.self_attn", layer, spec, filters, stride)
        yield from _norm(f"{timm}.post_attn", f"{ours}_norm2", filters)
    else:
        yield from _conv_norm(
            f"{timm}.conv2_kxk",
            f"{ours}_conv2",
            f"{ours}_norm2",
            (3, filters, filters),
        )
    yield from _conv_norm(
        f"{timm}.conv3_1x1",
        f"{ours}_conv3",
        f"{ours}_norm3",
        (1, filters, 4 * filters),
    )


def _conv_norm(timm, conv, norm, sizes):
    kernel, channels, filters = sizes
    shape = kernel, kernel, channels, filters
    yield (
        f"{timm}.conv.weight",
        TimmTensor({f"{conv}/kernel": shape}, "hwio", "oihw"),
    )
    yield from _norm(f"{timm}.bn", norm, filters)


def _norm(timm, ours, channels):
    for name, weight in {
        "weight": "gamma",
        "bias": "beta",
        "running_mean": "moving_mean",
        "running_var": "moving_variance",
    }.items():
        yield f"{timm}.{name}", TimmTensor({f"{ours}/{weight}": (channels,)})
    yield f"{timm}.num_batches_tracked", TimmTensor({})


def _lambda(timm, ours, spec, channels, stride):
    value_dim = channels // spec.num_heads
    depths = {
        "query": spec.num_heads * spec.key_dim,
        "key": spec.key_dim,
        "value": value_dim,
    }
    # One convolution makes all three.
    kernels = {
        f"{ours}/{name}_kernel": (channels, depth)
        for name, depth in depths.items()
    }
    yield f"{timm}.qkv.weight", TimmTensor(kernels, "io", "oi11")
    yield from _norm(f"{timm}.norm_q", f"{ours}/query_norm", depths["query"])
    yield from _norm(f"{timm}.norm_v", f"{ours}/value_norm", value_dim)
    table = f"{ours}/position_embeddings"
    if spec.receptive_field is None:
        sizes = f"{ROWS}{stride}", f"{COLUMNS}{stride}"
        shape = *sizes, spec.key_dim, 1
        yield f"{timm}.pos_emb", TimmTensor({table: shape}, "hwk1", "hwk")
        return
    # The kernel of a convolution over rows, columns and value channels.
    shape = spec.receptive_field, spec.receptive_field, spec.key_dim, 1
    yield (
        f"{timm}.conv_lambda.weight",
        TimmTensor({table: shape}, "hwk1", "k1hw1"),
    )
    bias = {f"{ours}/position_bias": (spec.key_dim,)}
    yield f"{timm}.conv_lambda.bias", TimmTensor(bias)


def _rearranged_shape(shape: Shape, source: str, target: str) -> Shape:
    sizes = {**dict(zip(source, shape)), "1": 1}
    return tuple(sizes[axis] for axis in target)


def _rearrange(array: np.ndarray, source: str, target: str) -> np.ndarray:
    axes = source.replace("1", "")
    array = array.squeeze(_unit_axes(source))
    order = [axes.index(axis) for axis in target.replace("1", "")]
    return np.expand_dims(array.transpose(order), _unit_axes(target))


def _unit_axes(axes: str) -> tuple[int, ...]:
    return tuple(i for i, axis in enumerate(axes) if axis == "1")
