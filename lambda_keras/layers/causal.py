"""Content lambdas of what came before each position."""

from keras import ops

from lambda_keras.layers.blocks import block_counts
from lambda_keras.layers.blocks import pad_to
from lambda_keras.layers.precision import LOWEST
from lambda_keras.layers.precision import at_least_float32
from lambda_keras.layers.precision import divide_or_zero
from lambda_keras.layers.precision import highest

# Positions of a chunk, and chunks of a group. Work and memory grow with it
# inside the chunks, and with its inverse among them.
_CHUNK = 16

# How often chunks are grouped: of 16 * 16^2 positions together there are few
# enough in any sequence to look at all pairs.
_LEVELS = 2


def causal_content_output(queries, keys, values, mask=None):
    """Applies to each query the content lambda of what came before it.

    Query `n` sees the context positions `m <= n`, and the softmax over keys
    is taken over those alone. The sequence is cut into chunks: a chunk's
    past enters as a running sum, its inside as a small triangle of pairs, so
    that time and memory grow with the length and not with its square. All
    exponentials are relative to the largest key seen so far, never to a
    later one, so nothing overflows and nothing leaks from the future.

    Args:
        queries: Tensor of shape `(b, n, h, k)`.
        keys: Tensor of shape `(b, n, k, u)`, before the softmax.
        values: Tensor of shape `(b, n, v, u)`.
        mask: Boolean tensor of shape `(b, n)`, or `None`. The context
            positions that count.

    Returns:
        Tensor of shape `(b, n, h, v)`.
    """
    dtype = queries.dtype
    queries, keys, values = map(at_least_float32, (queries, keys, values))
    length = ops.shape(keys)[1]
    visible = ops.ones_like(keys[:, :, :1])
    if mask is not None:
        mask = mask[:, :, None, None]
        keys = ops.where(mask, keys, LOWEST)
        values = ops.where(mask, values, 0)
        visible = ops.where(mask, visible, 0)
    queries, keys, values, visible = (
        _split(x, _CHUNK) for x in (queries, keys, values, visible)
    )

    # Weights are the exponentials that a softmax would normalize: `total` is
    # what they are to be divided by.
    top, weights = _weights(keys)
    totals, lambdas = (
        ops.einsum("bjmku,bjmvu->bjkuv", weights[:, :, -1], x)
        for x in (visible, values)
    )
    top_before, totals, lambdas = _sums_before(
        top[:, :, -1], [totals, lambdas], _LEVELS
    )
    _, inside, before = _decays(top, top_before[:, :, None])
    total = inside * ops.einsum("bjnmku,bjmxu->bjnku", weights, visible)
    total = total + before * totals[:, :, None, ..., 0]
    queries = divide_or_zero(queries[..., None], total[:, :, :, None])

    scores = ops.einsum(
        "bjnhku,bjnmku->bjnhmu", queries * inside[:, :, :, None], weights
    )
    output = ops.einsum("bjnhmu,bjmvu->bjnhv", scores, values)
    output = output + ops.einsum(
        "bjnhku,bjkuv->bjnhv", queries * before[:, :, :, None], lambdas
    )
    return ops.cast(_merge(output, length), dtype)


def _sums_before(top, sums, levels):
    """Sums over all chunks before each chunk.

    Args:
        top: Tensor of shape `(b, j, k, u)`. The largest key of each chunk.
        sums: List of tensors of shape `(b, j, k, u, v)`. Sums over each chunk
            that are weighted relative to its largest key.
        levels: How often to group chunks.

    Returns:
        The largest key before each chunk, and the sums relative to it.
    """
    count = ops.shape(top)[1]
    if isinstance(count, int) and count <= _CHUNK:
        levels = 0

    def split(x):
        return x[:, None] if levels == 0 else _split(x, _CHUNK)

    top, weights = _weights(split(top))
    sums = [
        ops.einsum("bjnmku,bjmkuv->bjnkuv", weights, split(x)) for x in sums
    ]
    if levels > 0:
        top_before, *sums_before = _sums_before(
            top[:, :, -1], [x[:, :, -1] for x in sums], levels - 1
        )
        top, inside, before = _decays(top, top_before[:, :, None])
        sums = [
            inside[..., None] * x + before[..., None] * y[:, :, None]
            for x, y in zip(sums, sums_before)
        ]
    fills = [LOWEST] + [0] * len(sums)
    return [
        _shift(_merge(x, count), fill) for x, fill in zip([top, *sums], fills)
    ]


def _weights(keys):
    """Compares the positions of each chunk with those up to them.

    Args:
        keys: Tensor of shape `(b, j, m, k, u)`.

    Returns:
        The largest key up to each position, of shape `(b, j, n, k, u)`, and
        the exponentials of the keys relative to it, of shape
        `(b, j, n, m, k, u)`, 0 for `m > n`.
    """
    index = ops.arange(ops.shape(keys)[2])
    up_to = index[:, None] >= index[None, :]
    # Less than what is masked, which has weights of 1 where all of it is.
    seen = ops.where(
        up_to[None, None, :, :, None, None], keys[:, :, None], 2 * LOWEST
    )
    top = highest(seen, axis=3)
    return top, ops.exp(seen - top[:, :, :, None])


def _decays(top, top_before):
    """Returns the larger, and what makes weights relative to it of both."""
    here = ops.where(top > top_before, top, top_before)
    return here, ops.exp(top - here), ops.exp(top_before - here)


def _split(x, size):
    """Splits `(b, n, ...)` into `(b, j, size, ...)`, filled with zeros."""
    (chunks,) = block_counts([ops.shape(x)[1]], [size])
    x = pad_to(x, 1, 0, chunks * size)
    return ops.reshape(x, (-1, chunks, size, *x.shape[2:]))


def _merge(x, length):
    """Joins `(b, j, size, ...)` to `(b, length, ...)`."""
    chunks, size = ops.shape(x)[1:3]
    x = ops.reshape(x, (-1, chunks * size, *x.shape[3:]))
    return x[:, :length]


def _shift(x, first):
    """Moves everything one place down axis 1."""
    start = ops.full_like(x[:, :1], first)
    return ops.concatenate([start, x[:, :-1]], axis=1)
