"""Self-attention and squeeze-and-excitation in float64 NumPy.

Written from the equations of the papers, one example, head and query position
at a time; nothing here comes from the package.

    logits  a[n, m] = q[n] . (k[m] + sum over axes of e_axis[m - n]) / sqrt(k)
    output  y[n]    = sum over m of softmax_m(a[n])[m] v[m]
"""

from collections.abc import Mapping
from collections.abc import Sequence

import numpy as np

from tests.reference import softmax


def self_attention(
    inputs: np.ndarray,
    weights: Mapping[str, np.ndarray],
    *,
    num_heads: int,
    context: np.ndarray | None = None,
    mask: np.ndarray | None = None,
    reach: Sequence[int] | None = None,
) -> np.ndarray:
    """Computes relative self-attention, of all positions or a neighbourhood.

    Args:
        inputs: `(batch, *spatial, channels)`, which the queries come from.
        weights: `query_kernel`, `key_kernel` and `value_kernel` with
            head-major columns, and for each axis `position_embeddings_<axis>`
            `(taps, key_dim)` with offset 0 in the middle.
        num_heads: attention maps.
        context: `(batch, *context spatial, context channels)`; the inputs
            themselves when left out.
        mask: `(batch, *context spatial)`; false positions do not exist.
        reach: for each axis, the largest distance that a query sees; no limit
            when left out.

    Returns:
        `(batch, *spatial, num_heads * value_dim)`, head-major.
    """
    inputs = np.asarray(inputs, "float64")
    context = inputs if context is None else np.asarray(context, "float64")
    rank = inputs.ndim - 2
    if mask is None:
        mask = np.ones(context.shape[:-1], bool)
    if reach is None:
        reach = [np.inf] * rank

    def project(source, name):
        projected = source @ np.asarray(weights[name], "float64")
        return projected.reshape(*source.shape[:-1], num_heads, -1)

    queries = project(inputs, "query_kernel")
    keys = project(context, "key_kernel")
    values = project(context, "value_kernel")
    tables = [weights[f"position_embeddings_{axis}"] for axis in range(rank)]

    outputs = np.zeros((*queries.shape[:-1], values.shape[-1]))
    for b in range(len(inputs)):
        for n in np.ndindex(*inputs.shape[1:-1]):
            visible = [
                m
                for m in np.ndindex(*context.shape[1:-1])
                if mask[(b, *m)]
                and all(
                    abs(i - j) <= r for i, j, r in zip(m, n, reach, strict=True)
                )
            ]
            if not visible:
                continue
            for h in range(num_heads):
                query = queries[(b, *n, h)]
                logits = []
                for m in visible:
                    key = keys[(b, *m, h)]
                    for axis, table in enumerate(tables):
                        offset = m[axis] - n[axis]
                        key = key + table[offset + len(table) // 2]
                    logits.append(query @ key / np.sqrt(len(query)))
                weight = softmax(np.array(logits))
                for w, m in zip(weight, visible, strict=True):
                    outputs[(b, *n, h)] += w * values[(b, *m, h)]
    return outputs.reshape(*inputs.shape[:-1], -1)


def axial_attention(
    inputs: np.ndarray,
    weights: Sequence[Mapping[str, np.ndarray]],
    *,
    num_heads: int,
    mask: np.ndarray | None = None,
) -> np.ndarray:
    """Computes self-attention along the first axis, then along the next.

    Args:
        inputs: `(batch, *spatial, channels)`.
        weights: for each axis, weights of `self_attention` on sequences.
        num_heads: attention maps.
        mask: `(batch, *spatial)`; false positions do not exist.

    Returns:
        `(batch, *spatial, num_heads * value_dim)`, head-major.
    """
    x = np.asarray(inputs, "float64")
    for axis, axis_weights in enumerate(weights):
        width = axis_weights["value_kernel"].shape[-1]
        output = np.zeros((*x.shape[:-1], width))
        others = list(x.shape[:-1])
        del others[axis + 1]
        for line in np.ndindex(*others):
            line = (*line[: axis + 1], slice(None), *line[axis + 1 :])
            output[line] = self_attention(
                x[line][None],
                axis_weights,
                num_heads=num_heads,
                mask=None if mask is None else mask[line][None],
            )[0]
        x = output
    return x


def squeeze_excite(
    inputs: np.ndarray, weights: Mapping[str, np.ndarray]
) -> np.ndarray:
    """Computes squeeze-and-excitation with a ReLU bottleneck.

    Args:
        inputs: `(batch, *spatial, channels)`.
        weights: `kernel` and `bias` of `reduce/` and `expand/`.

    Returns:
        The gated inputs.
    """
    inputs = np.asarray(inputs, "float64")
    output = np.zeros_like(inputs)
    for b, example in enumerate(inputs):
        positions = example.reshape(-1, example.shape[-1])
        mean = sum(positions) / len(positions)
        hidden = mean @ weights["reduce/kernel"] + weights["reduce/bias"]
        hidden = np.maximum(hidden, 0)
        gate = hidden @ weights["expand/kernel"] + weights["expand/bias"]
        output[b] = example / (1 + np.exp(-gate))
    return output
