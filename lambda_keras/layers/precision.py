"""What a softmax takes to be safe in any precision."""

import keras
from keras import ops

# Less than any logit, yet finite: differences of it are not NaN. A power of
# two, because it must be the same number in float32 and float64.
LOWEST = -(2.0**99)


def at_least_float32(x):
    """Casts to float32, but leaves float64 as it is."""
    return ops.cast(x, wide_dtype(x.dtype))


def wide_dtype(dtype) -> str:
    """Returns float64 for float64, and float32 for all else."""
    # Not `keras.backend.result_type`: on JAX it turns float64 into float32.
    dtype = keras.backend.standardize_dtype(dtype)
    return dtype if dtype == "float64" else "float32"


def highest(keys, axis, keepdims=False):
    """Returns the largest key, to subtract: nothing depends on which it is."""
    # With an initial value an empty batch has a maximum, too.
    return ops.stop_gradient(
        ops.max(keys, axis=axis, keepdims=keepdims, initial=LOWEST)
    )


def divide_or_zero(x, total):
    """Divides, giving 0 where nothing was visible and `total` is 0."""
    safe = ops.where(total > 0, total, 1)
    return ops.where(total > 0, x / safe, 0)


def itemsize(dtype) -> int:
    """Returns the bytes of a number of a floating-point dtype."""
    dtype = keras.backend.standardize_dtype(dtype)
    return {"float64": 8, "float32": 4}.get(dtype, 2)
