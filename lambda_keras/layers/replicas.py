"""What layers ask of a distribution over devices, if there is one."""

import keras


def replica_id():
    """Returns the replica's number, or None where there is but one."""
    context = _replica_context()
    return None if context is None else context.replica_id_in_sync_group


def sum_over_replicas(x):
    """Adds up a tensor over all replicas; its gradient is summed likewise."""
    context = _replica_context()
    return x if context is None else context.all_reduce("SUM", x)


def count_batch_parts() -> int:
    """Returns how many devices share a batch that is traced as a whole.

    That is how Keras distributes on JAX; a replica of TensorFlow traces its
    own part.
    """
    distribution = keras.distribution.distribution()
    if distribution is None:
        return 1
    mesh = distribution.device_mesh
    return mesh.shape[mesh.axis_names.index(distribution.batch_dim_name)]


def _replica_context():
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return None
    return context
