"""Strategies for tests of `tf.distribute` on the CPU."""

import functools


@functools.cache
def two_replicas():
    """Returns the one strategy of the process, on two logical CPUs.

    A second one would number its collective operations from the same start,
    and TensorFlow takes those of one number for the same operation.
    """
    import tensorflow as tf

    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
