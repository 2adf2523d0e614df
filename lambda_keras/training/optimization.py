"""Optimizer and learning-rate schedule of a recipe."""

import keras

from lambda_keras.training.recipe import Recipe

# Substrings of the names of weights that are scales or offsets. Pulling those
# towards zero is no regularisation: it changes what a normalisation means.
NOT_DECAYED = ("gamma", "beta", "bias")


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
    steps = recipe.epochs * steps_per_epoch
    warmup_steps = round(recipe.warmup_share * steps)
    if not warmup_steps:
        return keras.optimizers.schedules.CosineDecay(
            recipe.learning_rate, steps
        )
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0,
        warmup_target=recipe.learning_rate,
        warmup_steps=warmup_steps,
        # Keras counts the steps of decay from the end of the warm-up.
        decay_steps=max(1, steps - warmup_steps),
    )


def build_optimizer(
    recipe: Recipe, steps_per_epoch: int
) -> keras.optimizers.Optimizer:
    """Makes AdamW on the recipe's schedule.

    Args:
        recipe: Gives learning rate, epochs and weight decay.
        steps_per_epoch: Steps per epoch.

    Returns:
        An optimizer that decays neither normalisation weights nor biases.
    """
    optimizer = keras.optimizers.AdamW(
        learning_rate=build_schedule(recipe, steps_per_epoch),
        weight_decay=recipe.weight_decay,
    )
    optimizer.exclude_from_weight_decay(var_names=list(NOT_DECAYED))
    return optimizer
