"""Several JAX processes that train one model together.

Whatever sets or computes with a variable of all of them, all must do at the
same time; one that is left alone waits for minutes before it fails.
"""

from collections.abc import Sequence

import keras
import numpy as np


def count_processes() -> int:
    """Returns how many processes there are; 1 on other engines."""
    if keras.backend.backend() != "jax":
        return 1
    import jax

    return jax.process_count()


def gather(number: int) -> list[int]:
    """Waits for all processes, and tells each the numbers of all of them."""
    if count_processes() == 1:
        return [number]
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(np.array(number)).tolist()


def broadcast(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Waits for all processes, and gives each the arrays of the first one.

    Args:
        arrays: Of the same shapes and types in all processes.
    """
    if count_processes() == 1:
        return list(arrays)
    from jax.experimental import multihost_utils

    return list(multihost_utils.broadcast_one_to_all(tuple(arrays)))
