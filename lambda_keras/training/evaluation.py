"""Trained models measured on a split."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
from keras import ops

from lambda_keras.training.predictor import MakeBatches
from lambda_keras.training.predictor import Predictor
from lambda_keras.training.predictor import PredictorError

# Outputs that are probabilities sum to 1, in half precision nearly so.
SUM_TOLERANCE = 1e-2


@dataclass(frozen=True)
class Evaluation:
    """What a model was measured at.

    Args:
        examples: The number of images behind the figures, each counted once.
        accuracy: The part whose likeliest class is the right one.
        top_5_accuracy: The part with the right one among the five likeliest;
            None if there are no more than five.
        cross_entropy: The mean of minus the logarithm of the probability of
            the right class.
        images_per_second: Over all devices; if there was more than one batch,
            without the first, which the model is compiled for.
    """

    examples: int
    accuracy: float
    top_5_accuracy: float | None
    cross_entropy: float
    images_per_second: float


class Count(keras.metrics.Sum):
    """Counts the examples with a weight above 0 of which something is true.

    Args:
        of: Function of labels and predictions.
        name: The name of the metric.
    """

    def __init__(self, of: Callable[[Any, Any], Any], name: str):
        super().__init__(name=name)
        self.of = of

    def update_state(self, y_true, y_pred, sample_weight=None):
        counted = ops.logical_and(self.of(y_true, y_pred), sample_weight > 0)
        return super().update_state(ops.cast(counted, self.dtype))


def build_metrics(num_classes: int) -> list[keras.metrics.Metric]:
    """Makes what `Evaluation` has, and what tells that it means nothing.

    All are to be weighted by the weights of the batches, whose padding and
    unreadable images then count for nothing.

    Args:
        num_classes: The number of classes.

    Returns:
        A list of metrics.
    """
    metrics = [
        Count(lambda labels, _: labels[:, 0] == labels[:, 0], name="examples"),
        Count(
            lambda labels, _: ops.sum(labels, axis=-1) == 0, name="unlabelled"
        ),
        Count(
            # Written so that a NaN counts.
            lambda _, predictions: ops.logical_not(
                ops.abs(ops.sum(predictions, axis=-1) - 1) < SUM_TOLERANCE
            ),
            name="improper",
        ),
        keras.metrics.CategoricalAccuracy(name="accuracy"),
        keras.metrics.CategoricalCrossentropy(name="cross_entropy"),
    ]
    if num_classes > 5:
        metrics.append(
            keras.metrics.TopKCategoricalAccuracy(5, name="top_5_accuracy")
        )
    return metrics


class Stopwatch(keras.callbacks.Callback):
    """Takes the time, and the time without the first batch."""

    def __init__(self):
        super().__init__()
        self.started_at = time.monotonic()
        self.first_done_at = self.started_at

    def on_test_batch_end(self, batch, logs=None):
        if batch == 0:
            self.first_done_at = time.monotonic()


def evaluate(
    predictor: Predictor,
    make: MakeBatches,
    steps: int,
    verbose: int = 0,
) -> Evaluation:
    """Measures a model on batches.

    Args:
        predictor: The model.
        make: Function of the part of each batch that is wanted.
        steps: The number of batches, all of one size.
        verbose: As in `Model.evaluate`.

    Returns:
        An `Evaluation`.

    Raises:
        PredictorError: If there is no image that could be read, if any has no
            label, or if the model does not give probabilities.
    """
    watch = Stopwatch()
    measured = predictor.measure(
        make,
        steps,
        lambda: build_metrics(predictor.num_classes),
        watch,
        verbose,
    )
    ended_at = time.monotonic()
    examples = int(measured["examples"])
    if not examples:
        raise PredictorError("`split` must have images that can be read.")
    for name, expected in (
        ("unlabelled", "`split` must be labelled"),
        ("improper", "`model` must give probabilities, which sum to 1,"),
    ):
        if measured[name]:
            raise PredictorError(
                f"{expected} for each image. Received: {int(measured[name])} "
                f"of {examples} that are not so"
            )
    if steps > 1:
        rate = examples * (steps - 1) / steps / (ended_at - watch.first_done_at)
    else:
        rate = examples / (ended_at - watch.started_at)
    return Evaluation(
        examples=examples,
        accuracy=float(measured["accuracy"]),
        top_5_accuracy=measured.get("top_5_accuracy"),
        cross_entropy=float(measured["cross_entropy"]),
        images_per_second=rate,
    )
