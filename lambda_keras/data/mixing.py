"""Mixup and CutMix: examples of a batch, mixed in pairs."""

import tensorflow as tf


def mix(
    images: tf.Tensor,
    labels: tf.Tensor,
    weights: tf.Tensor,
    seed: tf.Tensor,
    *,
    mixup_alpha: float = 0.0,
    cutmix_alpha: float = 0.0,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Mixes every example of a batch with another one, labels too.

    Mixup adds two images; CutMix puts a box of one into the other. With both,
    a fair coin decides for each example. A partner of weight 0 has no image
    worth its label, so it is left out and the example stays as it is.

    Args:
        images: Tensor `(batch, height, width, channels)`.
        labels: Float tensor `(batch, classes)`.
        weights: Float tensor `(batch,)`.
        seed: Two integers, which decide everything.
        mixup_alpha: An example's share is from Beta(alpha, alpha); 0 for
            no mixup.
        cutmix_alpha: Likewise the share outside the box, before what lies
            beyond the border is cut off; labels get the share after that.

    Returns:
        Images as float32, and labels.

    References:

    - [mixup](https://arxiv.org/abs/1710.09412)
    - [CutMix](https://arxiv.org/abs/1905.04899)
    """
    images = tf.cast(images, tf.float32)
    if not (mixup_alpha or cutmix_alpha):
        return images, labels
    batch = tf.shape(images)[0]
    height, width = images.shape[1:3]
    seeds = tf.unstack(tf.random.split(seed, 5))
    partners = tf.random.experimental.stateless_shuffle(
        tf.range(batch), seeds[0]
    )
    # How much of an example stays, pixel by pixel.
    if cutmix_alpha:
        share = sample_beta(batch, seeds[1], cutmix_alpha)
        outside = _outside_box(share, seeds[2], height, width)
    if mixup_alpha:
        share = sample_beta(batch, seeds[3], mixup_alpha)[:, None, None]
    if not cutmix_alpha:
        stays = share
    elif not mixup_alpha:
        stays = outside
    else:
        coin = tf.random.stateless_uniform((batch, 1, 1), seeds[4]) < 0.5
        stays = tf.where(coin, outside, share)
    can_be_read = tf.gather(weights, partners)[:, None, None] > 0
    stays = tf.where(can_be_read, stays, 1.0)

    others = tf.gather(images, partners)
    images = others + stays[..., None] * (images - others)
    share = tf.reduce_mean(stays, axis=(1, 2))[:, None]
    others = tf.gather(labels, partners)
    return images, others + share * (labels - others)


def sample_beta(count: tf.Tensor, seed: tf.Tensor, alpha: float) -> tf.Tensor:
    """Draws from Beta(alpha, alpha).

    Args:
        count: How many numbers.
        seed: Two integers.
        alpha: Both parameters of the distribution, above 0.

    Returns:
        A float32 tensor `(count,)`.
    """
    # For a small alpha nearly all gamma variates are too small for float32.
    one, other = tf.unstack(
        tf.random.stateless_gamma((2, count), seed, alpha, dtype=tf.float64)
    )
    return tf.cast(tf.math.divide_no_nan(one, one + other), tf.float32)


def _outside_box(share, seed, height, width):
    """1 outside a random box that leaves that share, 0 inside."""
    centers = tf.random.stateless_uniform((2, tf.shape(share)[0]), seed)
    side = tf.sqrt(1 - share)

    def is_inside(center, size):
        center = tf.floor(center * size)[:, None]
        half = tf.floor(side * size)[:, None] / 2
        first = tf.floor(center - half)
        position = tf.range(size, dtype=tf.float32)
        return (position >= first) & (position < first + 2 * half)

    rows = is_inside(centers[0], height)[:, :, None]
    columns = is_inside(centers[1], width)[:, None, :]
    return 1 - tf.cast(rows & columns, tf.float32)
