"""Numbers that half precision is too coarse for."""

import keras
from keras import ops

# Less than any logit, yet finite: differences of it are not NaN. A power of
# two, because it must be the same number in float32 and float64.
LOWEST = -(2.0**99)


def at_least_float32(x):
    """Casts to float32, but leaves float64 as it is."""
    dtype = keras.backend.standardize_dtype(x.dtype)
    return x if dtype == "float64" else ops.cast(x, "float32")
