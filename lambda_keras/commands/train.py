"""`lambda-keras train`: from a data set to a SavedModel whose word is right."""

import datetime
import json
import os
import shlex
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from lambda_keras.commands import FAILED
from lambda_keras.commands import STARTED_AT
from lambda_keras.commands import CommandError
from lambda_keras.data.dataset import ImageDataset
from lambda_keras.files import write_aside
from lambda_keras.models import count_parameters
from lambda_keras.serving.saved_model import Agreement
from lambda_keras.serving.saved_model import SavedModelError
from lambda_keras.serving.saved_model import check_saved_model
from lambda_keras.serving.saved_model import export_saved_model
from lambda_keras.training import run as training
from lambda_keras.training import summary
from lambda_keras.training.picture import draw_run
from lambda_keras.training.recipe import Recipe
from lambda_keras.training.run_directory import default_directory
from lambda_keras.training.run_directory import run_directory


def run(recipe: Recipe) -> None:
    """Trains, evaluates, exports and checks; prints what it measured.

    Args:
        recipe: The settings.
    """
    try:
        dataset, model = training.prepare(recipe)
        directory = Path(
            recipe.output_dir
            or default_directory(model.name, recipe, datetime.datetime.now())
        ).expanduser()
        with run_directory(directory):
            # From here on an error is no mistake in the arguments.
            try:
                _train(recipe, dataset, model, directory)
            except (FloatingPointError, SavedModelError, OSError) as error:
                raise CommandError(error, status=FAILED) from None
            except KeyboardInterrupt:
                kept = sorted(path.name for path in directory.glob("[!.]*"))
                where = f"; {directory} keeps {', '.join(kept)}" if kept else ""
                raise KeyboardInterrupt(where) from None
    # `expanduser` raises a RuntimeError for a user that there is not.
    except (ValueError, OSError, RuntimeError) as error:
        raise CommandError(error) from None


def _train(recipe, dataset, model, directory):
    print(
        f"{model.name} ({count_parameters(model):,} parameters) on "
        f"{recipe.dataset}: {len(dataset.train.labels):,} images to train on, "
        f"{len(dataset.validation.labels)} to choose by, "
        f"{len(dataset.test.labels)} to report on.\n"
    )
    fitted = training.fit(
        recipe,
        dataset,
        model,
        directory,
        # A bar redraws itself, which only a terminal shows as a bar.
        verbose=1 if sys.stdout.isatty() else 2,
    )
    predictions = fitted.model.predict(
        dataset.test.images.astype("float32"), verbose=0
    )
    device = summary.device()
    agreement, failure = None, None
    try:
        agreement = export_saved_model(
            fitted.model,
            directory / "saved_model",
            check=lambda saved_model: check_saved_model(
                saved_model,
                dataset.test.images,
                predictions,
                # The check runs on the processor. A GPU multiplies float32
                # with ten bits of mantissa (TF32) unless it is told otherwise.
                tolerance=1e-4 if device["kind"] == "CPU" else 1e-2,
            ),
        )
    except SavedModelError as error:
        failure = error  # What was measured is kept first.
    report = _report(recipe, dataset, fitted, predictions, agreement, device)
    draw_run(
        directory / "results.png",
        f"{report['model']} on {recipe.dataset}: "
        f"test accuracy {report['test_accuracy']:.4f}",
        fitted.history,
        fitted.best_epoch,
        dataset.test,
        predictions,
        dataset.class_names,
    )
    report["seconds"]["all"] = round(time.monotonic() - STARTED_AT, 1)
    # Last: a run that has a summary is complete.
    with write_aside(directory / "summary.json") as temporary:
        temporary.write_text(json.dumps(report, indent=2) + "\n")
    if failure:
        raise failure
    _print(report, agreement, directory)


def _report(
    recipe: Recipe,
    dataset: ImageDataset,
    fitted: training.Fitted,
    predictions: np.ndarray,
    agreement: Agreement | None,
    device: dict[str, Any],
) -> dict[str, Any]:
    right = predictions.argmax(axis=-1) == dataset.test.labels
    best = fitted.best_epoch - 1
    return {
        "model": fitted.model.name,
        "dataset": recipe.dataset,
        "seed": recipe.seed,
        "test_accuracy": round(float(right.mean()), 6),
        "test_errors": int((~right).sum()),
        "validation_accuracy": round(fitted.history["val_accuracy"][best], 6),
        "best_epoch": fitted.best_epoch,
        "images": {
            name: len(getattr(dataset, name).labels)
            for name in ("train", "validation", "test")
        },
        "parameters": count_parameters(fitted.model),
        "seconds": {"fit": round(fitted.seconds, 1)},
        "saved_model": agreement
        and {
            "same_class": agreement.same_class,
            "largest_difference": agreement.largest_difference,
        },
        "device": device,
        "versions": summary.versions(),
        "recipe": vars(recipe),
    }


def _print(report, agreement, directory):
    device, seconds = report["device"], report["seconds"]
    others = [
        name
        for name in ("lambda_resnet_tiny", "resnet_tiny", "attention_tiny")
        if name != report["model"]
    ]
    print(
        f"""
Test accuracy {report["test_accuracy"]:.4f}: {report["test_errors"]} of \
{report["images"]["test"]} images wrong, with the weights of epoch \
{report["best_epoch"]}
(validation accuracy {report["validation_accuracy"]:.4f}).
{seconds["fit"]:.0f} s of training, {seconds["all"]:.0f} s in all, on \
{device["kind"]} ({device["count"]} x {device["name"]}).
The SavedModel, in a process without Keras, agrees on {agreement.same_class} \
of {agreement.examples} test images;
the largest difference of a probability is {agreement.largest_difference:.1g}.

{directory}
  results.png              learning curves, test images with predictions
  summary.json             everything above, settings and versions
  best.keras, last.keras   keras.saving.load_model, after import lambda_keras
  saved_model              runs wherever TensorFlow does
  history.csv              loss and accuracy of every epoch

Next:"""
    )
    flags = [f"--model={name}" for name in others]
    flags.append(f"--model={report['model']} --seed={report['seed'] + 1}")
    for choice in flags:
        print(f"  {_program()} train {choice}")


def _program():
    """What to type for this program, where it may not be on the path."""
    name = "lambda-keras"
    if shutil.which(name):
        return name
    # Beside Python, in an environment that was not activated.
    beside = Path(sys.executable).with_name(name)
    if beside.exists():
        return shlex.quote(os.path.relpath(beside))
    return f"{shlex.quote(sys.executable)} -m lambda_keras"
