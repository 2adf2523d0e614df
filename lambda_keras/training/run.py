"""One training run: prepared, fitted, evaluated, each in a call."""

import time
from dataclasses import dataclass
from pathlib import Path

import keras

from lambda_keras.data.dataset import ImageDataset
from lambda_keras.data.pipeline import evaluation_batches
from lambda_keras.data.pipeline import steps_per_epoch
from lambda_keras.data.pipeline import training_batches
from lambda_keras.data.sources import load_dataset
from lambda_keras.models import MODEL_SPECS
from lambda_keras.models import build_model
from lambda_keras.models import get_spec
from lambda_keras.training.callbacks import Checkpoints
from lambda_keras.training.callbacks import FailOnDivergence
from lambda_keras.training.callbacks import HistoryFile
from lambda_keras.training.optimization import build_optimizer
from lambda_keras.training.recipe import Recipe


@dataclass(frozen=True)
class Fitted:
    """What training leaves behind.

    Args:
        model: The best model, read back from its file.
        history: Losses and accuracies per epoch.
        best_epoch: The number of the epoch behind the model, from 1.
        seconds: Wall-clock seconds of `Model.fit`.
    """

    model: keras.Model
    history: dict[str, list[float]]
    best_epoch: int
    seconds: float


def prepare(recipe: Recipe) -> tuple[ImageDataset, keras.Model]:
    """Loads the data and builds the compiled model; writes nothing.

    Args:
        recipe: The settings. Sets Keras' random seed.

    Returns:
        The data set and the model.

    Raises:
        ValueError: If the recipe names an unknown model or data set, or if
            they do not fit each other or the batch size.
    """
    dataset = load_dataset(recipe.dataset)
    keras.utils.set_random_seed(recipe.seed)
    model = build_model(
        _find_spec(recipe.model, dataset),
        input_shape=dataset.image_shape,
        classes=len(dataset.class_names),
    )
    model.compile(
        optimizer=build_optimizer(
            recipe, steps_per_epoch(dataset.train, recipe.batch_size)
        ),
        loss=keras.losses.CategoricalCrossentropy(
            label_smoothing=recipe.label_smoothing
        ),
        metrics=[keras.metrics.CategoricalAccuracy(name="accuracy")],
    )
    # With every variable made here, the first step is traced once: one that
    # makes variables is traced again without.
    model.optimizer.build(model.trainable_variables)
    return dataset, model


def _find_spec(name, dataset):
    """Looks up a model that takes images with the channels of the data."""
    fitting = [
        spec.name
        for spec in MODEL_SPECS.values()
        if len(spec.mean) == dataset.image_shape[-1]
    ]
    try:
        spec = get_spec(name)
    except ValueError:
        spec = None
    if spec is None or spec.name not in fitting:
        raise ValueError(
            f"`model` must be one of those for images like {dataset.name}: "
            f"{', '.join(fitting)}. Received: model={name}"
        )
    return spec


def fit(
    recipe: Recipe,
    dataset: ImageDataset,
    model: keras.Model,
    directory: Path,
    verbose: int = 1,
) -> Fitted:
    """Trains the model and reads its best checkpoint back.

    Args:
        recipe: The settings.
        dataset: As from `prepare`.
        model: As from `prepare`.
        directory: Where `best.keras`, `last.keras` and `history.csv` go.
        verbose: As in `Model.fit`.

    Returns:
        A `Fitted`.

    Raises:
        FloatingPointError: If the loss becomes NaN or infinite.
    """
    num_classes = len(dataset.class_names)
    checkpoints = Checkpoints(directory)
    started_at = time.monotonic()
    history = model.fit(
        training_batches(
            dataset.train,
            recipe.batch_size,
            num_classes,
            augmentation=dataset.augmentation,
            seed=recipe.seed,
        ),
        epochs=recipe.epochs,
        steps_per_epoch=steps_per_epoch(dataset.train, recipe.batch_size),
        validation_data=evaluation_batches(
            dataset.validation, recipe.batch_size, num_classes
        ),
        callbacks=[
            FailOnDivergence(),
            HistoryFile(directory / "history.csv"),
            checkpoints,
        ],
        # The pipeline has shuffled already; Keras warns when it is to do it.
        shuffle=False,
        verbose=verbose,
    ).history
    seconds = time.monotonic() - started_at
    best = keras.saving.load_model(directory / "best.keras")
    return Fitted(best, history, checkpoints.best_epoch, seconds)
