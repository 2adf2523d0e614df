"""Optimizer and learning-rate schedule of a recipe."""

import functools
from typing import Any

import keras
from keras import ops

from lambda_keras.layers.replicas import sum_over_replicas
from lambda_keras.training.recipe import Recipe

# Substrings of the names of weights that are scales or offsets. Pulling those
# towards zero is no regularisation: it changes what a normalisation means.
NOT_DECAYED = ("gamma", "beta", "bias")


class _GradientClipping(keras.optimizers.Optimizer):
    """Scales the gradient of all replicas down to a largest norm.

    Keras' `global_clipnorm` scales the gradient of each replica, and adds
    them up then: the step may be as many times too long as there are
    replicas. It comes before another class of optimizer, as a mixin.

    Args:
        clip_norm: Float or `None`. The largest norm of the gradient of all
            weights together, without weight decay; `None` for no limit.
        **kwargs: The arguments of the other class.
    """

    def __init__(self, *, clip_norm: float | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.clip_norm = clip_norm

    def apply(self, grads, trainable_variables=None):
        if self.clip_norm is not None:
            summed = sum_over_replicas([g for g in grads if g is not None])
            squares = [ops.sum(ops.square(grad)) for grad in summed]
            norm = ops.sqrt(functools.reduce(ops.add, squares))
            # Of NaN or infinity this makes NaN, for whoever looks at the loss.
            scale = self.clip_norm / ops.maximum(norm, self.clip_norm)
            # Keras is still to sum them over the replicas.
            grads = [
                None if grad is None else grad * ops.cast(scale, grad.dtype)
                for grad in grads
            ]
        super().apply(grads, trainable_variables)

    def get_config(self) -> dict:
        return {**super().get_config(), "clip_norm": self.clip_norm}


@keras.saving.register_keras_serializable(package="lambda_keras")
class AdamW(_GradientClipping, keras.optimizers.AdamW):
    """AdamW whose gradient is clipped after it is summed over the replicas.

    Weights named like scales or offsets (`gamma`, `beta`, `bias`) are not
    decayed.

    Args:
        clip_norm: Float or `None`. The largest norm of the gradient of all
            weights together; `None` for no limit.
        **kwargs: Every argument of `keras.optimizers.AdamW`.

    Example:

    >>> AdamW(learning_rate=0.001, weight_decay=0.02, clip_norm=1.0).clip_norm
    1.0
    """

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        # Here, because a saved optimizer does not remember it.
        self.exclude_from_weight_decay(var_names=list(NOT_DECAYED))


@keras.saving.register_keras_serializable(package="lambda_keras")
class SGD(_GradientClipping, keras.optimizers.SGD):
    """SGD with weight decay in the gradient, clipped over all replicas.

    With a gradient `g`, clipped first, a step is

    ```python
    velocity = momentum * velocity - learning_rate * (g + l2 * w)
    w = w + velocity
    ```

    as if `l2 / 2 * sum(w**2)` were part of the loss. `weight_decay` of
    `keras.optimizers.SGD` is not that: it bypasses the momentum. Weights
    named like scales or offsets (`gamma`, `beta`, `bias`) are not decayed.

    Args:
        l2: Float. The weight decay.
        clip_norm: Float or `None`. The largest norm of the gradient of all
            weights together; `None` for no limit.
        **kwargs: Every argument of `keras.optimizers.SGD`.

    Example:

    >>> SGD(learning_rate=0.1, momentum=0.9, l2=4e-5).l2
    4e-05
    """

    def __init__(self, *, l2: float = 0.0, **kwargs: Any):
        super().__init__(**kwargs)
        self.l2 = l2

    def update_step(self, gradient, variable, learning_rate):
        # Here the gradient is that of all replicas.
        if self.l2 and not any(part in variable.name for part in NOT_DECAYED):
            decay = ops.cast(self.l2, variable.dtype)
            gradient = ops.cast(gradient, variable.dtype) + decay * variable
        super().update_step(gradient, variable, learning_rate)

    def get_config(self) -> dict:
        return {**super().get_config(), "l2": self.l2}


@keras.saving.register_keras_serializable(package="lambda_keras")
class LossScaleOptimizer(keras.optimizers.LossScaleOptimizer):
    """Scales the loss for float16, and skips steps that any replica overflows.

    Keras' own looks at the gradient of the first replica only: infinity on
    another one goes into the weights.

    Args:
        **kwargs: Every argument of `keras.optimizers.LossScaleOptimizer`.

    Example:

    >>> LossScaleOptimizer(SGD(learning_rate=0.1)).initial_scale
    32768.0
    """

    def check_finite(self, grads):
        overflows = ops.logical_not(super().check_finite(grads))
        return sum_over_replicas(ops.cast(overflows, "int32")) == 0


def peak_learning_rate(recipe: Recipe) -> float:
    """The highest learning rate, scaled to the batch if the recipe says so.

    Args:
        recipe: Gives the learning rate and the batch size that it is for.

    Example:

    >>> peak_learning_rate(
    ...     Recipe(learning_rate=0.1, reference_batch_size=256, batch_size=4096)
    ... )
    1.6
    """
    if recipe.reference_batch_size is None:
        return recipe.learning_rate
    scale = recipe.batch_size / recipe.reference_batch_size
    return recipe.learning_rate * scale


def build_schedule(
    recipe: Recipe, steps_per_epoch: int
) -> keras.optimizers.schedules.LearningRateSchedule:
    """Makes a linear rise to the peak followed by half a cosine to zero.

    Args:
        recipe: Gives the peak, the number of epochs and the share of warm-up.
        steps_per_epoch: Steps per epoch.

    Returns:
        A schedule that ends with the last step.
    """
    peak = peak_learning_rate(recipe)
    steps = recipe.epochs * steps_per_epoch
    warmup_steps = round(recipe.warmup_share * steps)
    if not warmup_steps:
        return keras.optimizers.schedules.CosineDecay(peak, steps)
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0,
        warmup_target=peak,
        warmup_steps=warmup_steps,
        # Keras counts the steps of decay from the end of the warm-up.
        decay_steps=max(1, steps - warmup_steps),
    )


def build_optimizer(
    recipe: Recipe, steps_per_epoch: int
) -> keras.optimizers.Optimizer:
    """Makes the recipe's optimizer on its schedule.

    Args:
        recipe: Gives the optimizer, learning rate, epochs, weight decay,
            clipping and precision.
        steps_per_epoch: Steps per epoch.

    Returns:
        An `AdamW` or `SGD` of this module, in a `LossScaleOptimizer` for
        float16.
    """
    settings: dict[str, Any] = {
        "learning_rate": build_schedule(recipe, steps_per_epoch),
        "clip_norm": recipe.clip_norm,
    }
    if recipe.optimizer == "sgd":
        optimizer = SGD(
            momentum=recipe.momentum, l2=recipe.weight_decay, **settings
        )
    else:
        optimizer = AdamW(weight_decay=recipe.weight_decay, **settings)
    if recipe.precision == "mixed_float16":
        return LossScaleOptimizer(optimizer)
    return optimizer
