"""Scores and what they weigh in one pass, on a TPU's chip.

Both products of `contractions.query_first`, without their scores, the largest
array of a lambda layer, ever leaving the chip: a kernel computes the scores
of a few examples into its own memory and weighs the values by them there. The
backward pass computes them again. `fused_kernels` says how.
"""

from keras import ops

from lambda_keras.layers.blocks import pad_to
from lambda_keras.layers.fused_kernels import EXAMPLES
from lambda_keras.layers.fused_kernels import LANES
from lambda_keras.layers.fused_kernels import Sizes
from lambda_keras.layers.fused_kernels import fit
from lambda_keras.layers.fused_kernels import make_kernels

# The TPUs that it pays on, by what JAX calls them, and the most positions that
# it pays for there, by the compiler's estimates. Earlier ones lack the
# instructions that pack bfloat16, or the memory.
CHIPS = {"TPU v5 lite": 28 * 28, "TPU v6 lite": 14 * 14}

# Of the chips' 128 MiB, the rest being of use to XLA between the kernels.
_MEMORY = 48 * 2**20


def supports(queries_shape, value_dim: int, dtype) -> bool:
    """Tells whether the kernels work for some shapes.

    Args:
        queries_shape: `(b, n, h, k)`, of which `None` is unknown.
        value_dim: The value depth.
        dtype: The dtype.

    Returns:
        Boolean.
    """
    batch, positions, num_heads, key_dim = queries_shape
    return (
        bool(batch and positions)
        and batch % EXAMPLES == 0
        and num_heads * key_dim <= LANES
        and key_dim in (8, 16)
        and value_dim in (64, 128)
        and str(dtype) in ("bfloat16", "float32")
    )


def weigh(
    queries, embeddings, values, memory: int = _MEMORY, interpret: bool = False
):
    """Weighs values by the scores of queries.

    Args:
        queries: Tensor of shape `(b, n, h, k)`.
        embeddings: Tensor of shape `(n, k, m)`.
        values: Tensor of shape `(b, m, v)`.
        memory: How many bytes of the chip's memory a kernel may take.
        interpret: Whether to run on any device, slowly, for tests.

    Returns:
        Tensor of shape `(b, n, h, v)`.

    Raises:
        ValueError: If the kernels do not work for these shapes.
    """
    batch, positions, heads, key_dim = queries.shape
    reach, value_dim = values.shape[1:]
    dtype = str(queries.dtype)
    if not supports(queries.shape, value_dim, dtype):
        raise ValueError(
            f"Expected a batch of a multiple of {EXAMPLES}, `key_dim` 8 or "
            "16 and `value_dim` 64 or 128. Received: "
            f"queries.shape={queries.shape}, values.shape={values.shape}, "
            f"dtype={dtype}"
        )
    sizes = fit(
        Sizes(
            batch=batch,
            positions=positions,
            reach=reach,
            heads=heads,
            key_dim=key_dim,
            value_dim=value_dim,
            dtype=dtype,
        ),
        memory,
    )
    # Heads are split and joined where the layer does that, too, so that the
    # compiler can undo it: features as two axes have another layout.
    queries = ops.reshape(queries, (batch, positions, heads * key_dim))
    queries = ops.transpose(queries, (1, 0, 2))
    embeddings = pad_to(embeddings, 2, 0, sizes.lanes)
    embeddings = pad_to(embeddings, 0, 0, sizes.tiles * sizes.tile)
    embeddings = ops.reshape(embeddings, (-1, sizes.lanes))
    values = ops.transpose(values, (1, 0, 2))
    output = _differentiable(sizes, interpret)(queries, embeddings, values)
    output = ops.transpose(output, (1, 0, 2))
    return ops.reshape(output, (batch, positions, heads, value_dim))


def _differentiable(sizes, interpret):
    """Returns the product of three arrays, with its gradients."""
    import jax

    forward, backward_values, backward_scores = make_kernels(sizes, interpret)

    @jax.custom_vjp
    def product(*arrays):
        return forward(*arrays)[0]

    def with_residuals(*arrays):
        return forward(*arrays)[0], arrays

    def gradients(arrays, gradient):
        queries, embeddings, values = arrays
        return (
            *backward_scores(queries, embeddings, values, gradient),
            *backward_values(queries, embeddings, gradient),
        )

    product.defvjp(with_residuals, gradients)
    return product
