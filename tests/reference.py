"""The lambda layer in float64 NumPy, written from the paper's equations.

LambdaNetworks (https://arxiv.org/abs/2102.08602), section 3 and appendix B.
One example, one query position and one context position at a time: slow, and
plain enough to be checked by eye. Nothing here comes from the package, so that
an error has to be made twice to pass.

    content lambda   L  = sum over m, u of softmax(K)[m, u] outer V[m, u]
    position lambda  Ln = sum over m, u of E[m - n, u] outer V[m, u]
    output           y[n, h] = (L + Ln)^T q[n, h]
"""

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops


def lambda_layer(
    inputs: np.ndarray,
    weights: Mapping[str, np.ndarray],
    *,
    num_heads: int,
    key_dim: int,
    intra_depth: int = 1,
    context: np.ndarray | None = None,
    mask: np.ndarray | None = None,
    causal: bool = False,
    use_content: bool = True,
    use_position: bool = True,
    training: bool = False,
    epsilon: float = 1e-5,
) -> np.ndarray:
    """Computes a lambda layer.

    Args:
        inputs: `(batch, *spatial, channels)`, which the queries come from.
        weights: `query_kernel` (head-major columns), `key_kernel` and
            `value_kernel` (u-major columns), `position_embeddings`
            `(*taps, key_dim, intra_depth)` with offset 0 in the middle,
            optionally `position_bias` `(key_dim,)`, and for each of
            `query_norm` and `value_norm` the arrays `<norm>/gamma`, `/beta`,
            `/moving_mean` and `/moving_variance`.
        num_heads: queries per position.
        key_dim: depth of a query and of a key.
        intra_depth: the paper's u.
        context: `(batch, *context spatial, context channels)`; the inputs
            themselves when left out.
        mask: `(batch, context positions)`; false positions do not exist.
        causal: position n sees the positions up to n.
        use_content: whether to add the content lambda.
        use_position: whether to add the position lambdas.
        training: normalise by the batch's moments, of positions that exist,
            in place of the moving ones.
        epsilon: added to the variances.

    Returns:
        `(batch, *spatial, num_heads * value_dim)`, head-major.
    """
    inputs = np.asarray(inputs, "float64")
    own_context = context is None
    context = inputs if own_context else np.asarray(context, "float64")
    weights = {name: np.asarray(w, "float64") for name, w in weights.items()}

    batch = inputs.shape[0]
    query_positions = list(np.ndindex(*inputs.shape[1:-1]))
    context_positions = list(np.ndindex(*context.shape[1:-1]))
    exists = np.ones((batch, len(context_positions)), bool)
    if mask is not None:
        exists &= np.asarray(mask, bool).reshape(exists.shape)
    query_exists = (
        exists if own_context else np.ones((batch, len(query_positions)), bool)
    )

    def project(source, name):
        flat = source.reshape(batch, -1, source.shape[-1])
        return flat @ weights[name]

    def normalize(x, name, exists):
        if training:
            mean, variance = moments(x, exists)
        else:
            mean = weights[f"{name}/moving_mean"]
            variance = weights[f"{name}/moving_variance"]
        scale = weights[f"{name}/gamma"] / np.sqrt(variance + epsilon)
        return (x - mean) * scale + weights[f"{name}/beta"]

    queries = project(inputs, "query_kernel")
    queries = normalize(queries, "query_norm", query_exists)
    queries = queries.reshape(batch, -1, num_heads, key_dim)
    if use_content:
        keys = project(context, "key_kernel")
        keys = keys.reshape(batch, -1, intra_depth, key_dim)
    values = project(context, "value_kernel")
    values = normalize(values, "value_norm", exists)
    values = values.reshape(batch, values.shape[1], intra_depth, -1)
    value_dim = values.shape[-1]

    outputs = np.zeros((batch, len(query_positions), num_heads, value_dim))
    for b in range(batch):
        for n, query_position in enumerate(query_positions):
            visible = [
                m
                for m in range(len(context_positions))
                if exists[b, m] and not (causal and m > n)
            ]
            lambda_n = np.zeros((key_dim, value_dim))
            if use_content and visible:
                attention = softmax(keys[b, visible])
                for key, m in zip(attention, visible, strict=True):
                    lambda_n += key.T @ values[b, m]
            if use_position:
                for m in visible:
                    embedding = embedding_at(
                        weights["position_embeddings"],
                        query_position,
                        context_positions[m],
                    )
                    lambda_n += embedding @ values[b, m]
            if "position_bias" in weights:
                lambda_n += weights["position_bias"][:, None]
            for h in range(num_heads):
                outputs[b, n, h] = lambda_n.T @ queries[b, n, h]
    return outputs.reshape(*inputs.shape[:-1], num_heads * value_dim)


def embedding_at(
    table: np.ndarray,
    query_position: Sequence[int],
    context_position: Sequence[int],
    center: Sequence[int] | None = None,
) -> np.ndarray:
    """Looks up the embedding of one offset, context minus query.

    The offset of nothing is in the middle of each axis, or at `center`;
    embeddings beyond the table are zero.
    """
    rank = len(query_position)
    taps = table.shape[:rank]
    if center is None:
        center = [tap // 2 for tap in taps]
    index = tuple(
        m - n + c
        for m, n, c in zip(
            context_position, query_position, center, strict=True
        )
    )
    if all(0 <= i < tap for i, tap in zip(index, taps, strict=True)):
        return table[index]
    return np.zeros(table.shape[rank:])


def position_output(
    queries: np.ndarray,
    values: np.ndarray,
    table: np.ndarray,
    center: Sequence[int],
    query_shape: Sequence[int],
    context_shape: Sequence[int],
) -> np.ndarray:
    """Applies position lambdas to queries.

    Args:
        queries: `(batch, n, heads, key_dim)`.
        values: `(batch, m, intra_depth, value_dim)`.
        table: `(*taps, key_dim, intra_depth)`.
        center: index of offset 0 in the table.
        query_shape: sizes of the axes that n flattens.
        context_shape: sizes of the axes that m flattens.

    Returns:
        `(batch, n, heads, value_dim)`.
    """
    outputs = np.zeros((*queries.shape[:3], values.shape[-1]))
    for n, query_position in enumerate(np.ndindex(*query_shape)):
        for m, context_position in enumerate(np.ndindex(*context_shape)):
            embedding = embedding_at(
                table, query_position, context_position, center
            )
            for b in range(len(queries)):
                position_lambda = embedding @ values[b, m]
                outputs[b, n] += queries[b, n] @ position_lambda
    return outputs


def content_output(
    queries: np.ndarray,
    keys: np.ndarray,
    values: np.ndarray,
    mask: np.ndarray,
    causal: bool = False,
) -> np.ndarray:
    """What content lambdas give, a position at a time.

    Args:
        queries: (b, n, h, k).
        keys: (b, m, k, u), before the softmax.
        values: (b, m, v, u).
        mask: (b, m), which context positions count.
        causal: position n sees the positions up to n.

    Returns:
        (b, n, h, v).
    """
    outputs = np.zeros((*queries.shape[:3], values.shape[2]))
    for b, n in np.ndindex(queries.shape[:2]):
        seen = mask[b] & (np.arange(len(mask[b])) <= n) if causal else mask[b]
        if seen.any():
            weights = softmax(keys[b, seen])
            content_lambda = np.einsum("mku,mvu->kv", weights, values[b, seen])
            outputs[b, n] = queries[b, n] @ content_lambda
    return outputs


def softmax(x: np.ndarray) -> np.ndarray:
    """Normalises over the first axis."""
    exponentials = np.exp(x - x.max(axis=0))
    return exponentials / exponentials.sum(axis=0)


def moments(
    x: np.ndarray, exists: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and (biased) variance of the last axis, of what exists."""
    rows = x.reshape(-1, x.shape[-1])
    if exists is not None:
        rows = rows[np.asarray(exists, bool).reshape(-1)]
    return rows.mean(axis=0), rows.var(axis=0)


def global_taps(
    query_shape: Sequence[int], context_shape: Sequence[int] | None = None
) -> tuple[int, ...]:
    """Sizes of a table that holds every offset between two grids."""
    return tuple(
        2 * max(n, m) - 1
        for n, m in zip(query_shape, context_shape or query_shape, strict=True)
    )


def randomize(layer: Any, seed: int = 0, kernel_scale: float = 1.0) -> None:
    """Gives every weight of a built layer a value that matters.

    Fresh layers hide errors: a moving mean of 0, a gamma of 1 and a bias of 0
    can be forgotten without a trace.
    """
    generator = np.random.default_rng(seed)
    for variable in layer.variables:
        if variable.path.endswith(("variance", "gamma")):
            value = generator.uniform(0.5, 1.5, variable.shape)
        elif variable.path.endswith("kernel"):
            value = generator.normal(size=variable.shape)
            value *= kernel_scale / np.sqrt(variable.shape[0])
        elif "seed" in variable.path:
            continue
        else:
            value = generator.normal(size=variable.shape)
        variable.assign(value)


def lambda_weights(layer: Any) -> dict[str, np.ndarray]:
    """Reads the weights of a built `LambdaLayer` under the oracle's names."""
    names = ["query_kernel", "key_kernel", "value_kernel"]
    names += ["position_embeddings", "position_bias"]
    weights = {}
    for name in names:
        variable = getattr(layer, name, None)
        if variable is not None:
            weights[name] = as_numpy(variable).astype("float64")
    for norm in ("query_norm", "value_norm"):
        for name in ("gamma", "beta", "moving_mean", "moving_variance"):
            variable = getattr(getattr(layer, norm), name)
            weights[f"{norm}/{name}"] = as_numpy(variable).astype("float64")
    return weights


def as_numpy(value: Any) -> np.ndarray:
    """Copies a tensor or variable of any engine."""
    return ops.convert_to_numpy(value)
