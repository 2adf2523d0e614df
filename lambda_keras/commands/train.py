"""`lambda-keras train`: from a data set to a SavedModel whose word is right."""

import contextlib
import datetime
import json
import os
import shlex
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import keras

from lambda_keras import provenance
from lambda_keras.commands import FAILED
from lambda_keras.commands import STARTED_AT
from lambda_keras.commands import CommandError
from lambda_keras.commands import program
from lambda_keras.data.crop import CENTER
from lambda_keras.data.crop import WHOLE
from lambda_keras.data.pipeline import load_examples
from lambda_keras.files import write_aside
from lambda_keras.models import count_parameters
from lambda_keras.serving.saved_model import Agreement
from lambda_keras.serving.saved_model import SavedModelError
from lambda_keras.serving.saved_model import check_saved_model
from lambda_keras.serving.saved_model import export_file
from lambda_keras.serving.saved_model import export_saved_model
from lambda_keras.training import run as training
from lambda_keras.training.checkpoints import CheckpointError
from lambda_keras.training.checkpoints import list_checkpoints
from lambda_keras.training.picture import draw_run
from lambda_keras.training.preparation import Prepared
from lambda_keras.training.preparation import prepare
from lambda_keras.training.processes import count_processes
from lambda_keras.training.processes import gather
from lambda_keras.training.recipe import Recipe
from lambda_keras.training.run_directory import RECIPE
from lambda_keras.training.run_directory import SUMMARY
from lambda_keras.training.run_directory import default_directory
from lambda_keras.training.run_directory import run_directory
from lambda_keras.training.stopping import Stopped
from lambda_keras.training.stopping import StopRequest

# As the shells have it: 128 and the number of the signal.
TERMINATED = 128 + signal.SIGTERM
# How many test images are drawn and compared with the SavedModel's word.
SAMPLE = 400


def run(recipe: Recipe) -> None:
    """Trains, evaluates, exports and checks; prints what it measured.

    Args:
        recipe: The settings.
    """
    try:
        _run(recipe)
        # The others stay as long as the first one has something to do.
        gather(0)
    except BaseException as error:
        if count_processes() > 1 and not _is_by_all(error):
            _leave(error)
        raise


def _is_by_all(error):
    stopped = error.__context__
    return isinstance(stopped, Stopped) and stopped.by_all


def _leave(error):
    """Ends this process, which others may wait for, at once.

    At a normal end, JAX would wait for them for minutes.
    """
    if isinstance(error, CommandError):
        print(f"lambda-keras train: {error}", file=sys.stderr)
    else:
        traceback.print_exception(error)
    sys.stderr.flush()
    os._exit(getattr(error, "status", FAILED))


def _run(recipe):
    with contextlib.ExitStack() as stack:
        try:
            prepared = prepare(recipe)
            directory = _find_directory(recipe, prepared)
            # One process of several writes; all of them read.
            if prepared.distribution.is_chief:
                stack.enter_context(run_directory(directory, recipe))
        # The last of these says what to install for `recipe.weights`.
        except (ValueError, OSError, ImportError) as error:
            raise CommandError(error) from None
        # From here on an error is no mistake in the arguments.
        try:
            stack.enter_context(StopRequest().listening())
            _train(prepared, directory)
        except (
            FloatingPointError,
            CheckpointError,
            SavedModelError,
            # Of files, a full disk, or images that cannot be read.
            OSError,
        ) as error:
            raise CommandError(
                f"{error}{_last_checkpoint(directory)}", status=FAILED
            ) from None
        except KeyboardInterrupt as error:
            raise _interruption(error, directory) from None


def _find_directory(recipe, prepared):
    if recipe.output_dir is None and recipe.strategy == "multiworker":
        raise ValueError(
            "`output_dir` must be given to several processes, as a directory "
            "that all of them see. Received: output_dir=None"
        )
    if "://" in (recipe.output_dir or ""):
        raise ValueError(
            "`output_dir` must be a directory of this machine, which may be a "
            f"mounted bucket. Received: output_dir={recipe.output_dir}"
        )
    directory = Path(
        recipe.output_dir
        or default_directory(
            prepared.model.name, recipe, datetime.datetime.now()
        )
    )
    try:
        return directory.expanduser()
    # For a user that there is not.
    except RuntimeError as error:
        raise ValueError(f"{error} Received: output_dir={directory}") from error


def _last_checkpoint(directory):
    found = list_checkpoints(directory / "checkpoints")
    return f"; the last good checkpoint is {found[0]}" if found else ""


def _interruption(error, directory):
    """What to raise for a run that was stopped: what it keeps, in a line."""
    kept = sorted({path.name for path in directory.glob("[!.]*")} - {RECIPE})
    where = f"; {directory} keeps {', '.join(kept)}" if kept else ""
    if list_checkpoints(directory / "checkpoints"):
        flag = f"--output_dir={shlex.quote(str(directory))}"
        where += f"; the same command with {flag} goes on from there"
    if isinstance(error, Stopped) and error.signal_number == signal.SIGTERM:
        return CommandError(f"stopped by SIGTERM{where}", status=TERMINATED)
    return KeyboardInterrupt(where)


def _train(prepared, directory):
    recipe, dataset = prepared.recipe, prepared.dataset
    is_chief = prepared.distribution.is_chief
    if is_chief:
        _announce(prepared)
    # A bar redraws itself, which only a terminal shows as a bar.
    verbose = 1 if sys.stdout.isatty() else 2
    fitted = training.fit(prepared, directory, verbose=is_chief and verbose)
    if fitted is None:
        return
    with prepared.reading():
        test = _sample(prepared)
    predictions = fitted.model.predict(
        test.images, batch_size=recipe.batch_size, verbose=0
    )
    device = provenance.device(prepared.distribution.num_replicas)
    agreement, failure = None, None
    try:
        agreement = _export(prepared, fitted, directory, test, predictions)
    except SavedModelError as error:
        failure = error  # What was measured is kept first.
    report = _report(prepared, fitted, agreement, device)
    draw_run(
        directory / "results.png",
        f"{report['model']} on {recipe.dataset}: "
        f"test accuracy {report['test_accuracy']:.4f}",
        fitted.history,
        fitted.record.best_epoch,
        test,
        predictions,
        dataset.class_names,
        is_part=len(dataset.test) > SAMPLE,
    )
    report["seconds"]["all"] = round(time.monotonic() - STARTED_AT, 1)
    # Last: a run that has a summary is complete.
    with write_aside(directory / SUMMARY) as temporary:
        temporary.write_text(json.dumps(report, indent=2) + "\n")
    shutil.rmtree(directory / "checkpoints", ignore_errors=True)
    if failure:
        raise failure
    _print(report, agreement, directory)


def _announce(prepared):
    recipe, dataset = prepared.recipe, prepared.dataset
    print(
        f"{prepared.model.name} ({count_parameters(prepared.model):,} "
        f"parameters) on {recipe.dataset}: {len(dataset.train):,} images to "
        f"train on, {len(dataset.validation):,} to choose by, "
        f"{len(dataset.test):,} to report on."
    )
    for note in dataset.notes:
        print(note)
    if recipe.weights:
        fresh = ", ".join(prepared.fresh) or "nothing"
        print(f"Starts from {recipe.weights}; {fresh} starts anew.")
    if prepared.frozen_parameters:
        print(
            f"{prepared.frozen_parameters:,} parameters are frozen, and with "
            "them the statistics of batch normalization: the backbone."
        )
    if prepared.distribution.name not in ("none", "auto"):
        print(f"On {prepared.distribution.describe()}.")
    print()


def _sample(prepared):
    """Decodes the first test images, and leaves out what cannot be read."""
    return load_examples(
        prepared.dataset.test.part(0, SAMPLE),
        prepared.preprocessing,
        prepared.recipe.batch_size,
        len(prepared.dataset.class_names),
        bad_images=prepared.bad_images["test"],
    )


def _export(prepared, fitted, directory, test, predictions):
    target = directory / "saved_model"
    # An earlier process may have been stopped between this and the summary.
    shutil.rmtree(target, ignore_errors=True)
    is_exact = (
        provenance.device()["kind"] == "CPU"
        and prepared.recipe.precision == "float32"
    )

    def check(saved_model):
        # The check runs on the processor. A GPU multiplies float32 with ten
        # bits of mantissa (TF32) unless it is told otherwise, and bfloat16
        # has seven: then it is for the class, where that is clear.
        return check_saved_model(
            saved_model,
            test.images,
            predictions,
            tolerance=1e-4 if is_exact else 0.1,
        )

    if (
        keras.backend.backend() != "tensorflow"
        or prepared.distribution.name == "tpu"
    ):
        return export_file(directory / "best.keras", target, check)
    return export_saved_model(fitted.model, target, check)


def _report(
    prepared: Prepared,
    fitted: training.Fitted,
    agreement: Agreement | None,
    device: dict[str, Any],
) -> dict[str, Any]:
    recipe, dataset, record = prepared.recipe, prepared.dataset, fitted.record
    best = record.history[record.best_epoch - 1]
    accuracy, speed = fitted.test["accuracy"], fitted.images_per_second
    images = {
        name: len(getattr(dataset, name))
        for name in ("train", "validation", "test")
    }
    return {
        "model": fitted.model.name,
        "dataset": recipe.dataset,
        "class_names": list(dataset.class_names),
        "seed": recipe.seed,
        "test_accuracy": round(accuracy, 6),
        "test_errors": round((1 - accuracy) * images["test"]),
        "validation_accuracy": round(best["val_accuracy"], 6),
        "best_epoch": record.best_epoch,
        "images": images,
        # How to serve encoded images: evaluation leaves arrays as they are.
        "crop": CENTER if prepared.preprocessing.image_size else WHOLE,
        "bad_images": sum(map(len, prepared.bad_names().values())),
        "parameters": count_parameters(fitted.model),
        "frozen_parameters": prepared.frozen_parameters,
        "fresh_layers": list(prepared.fresh),
        "seconds": {"fit": round(record.seconds, 1)},
        "images_per_second_per_device": speed and round(speed, 1),
        "resumed": record.resumed,
        "saved_model": agreement
        and {
            "same_class": agreement.same_class,
            "largest_difference": agreement.largest_difference,
        },
        "strategy": prepared.distribution.name,
        "replicas": prepared.distribution.num_replicas,
        "device": device,
        "versions": provenance.versions(),
        "recipe": vars(recipe),
    }


def _print(report, agreement, directory):
    device, seconds = report["device"], report["seconds"]
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
    for command in _suggestions(report, directory):
        print(f"  {program()} {command}")


def _suggestions(report, directory):
    export = " ".join(
        [
            "export",
            shlex.quote(f"--model={directory}"),
            f"--output_dir=models/{report['model']}",
        ]
    )
    if report["dataset"] != "digits":
        flags = {"model": directory} | {
            name: report["recipe"][name]
            for name in ("dataset", "data_dir", "max_bad_images")
            if report["recipe"][name] != getattr(Recipe, name)
        }
        return [
            " ".join(
                [
                    "evaluate",
                    *(shlex.quote(f"--{k}={v}") for k, v in flags.items()),
                ]
            ),
            export,
        ]
    others = [
        f"train --model={name}"
        for name in ("lambda_resnet_tiny", "resnet_tiny", "attention_tiny")
        if name != report["model"]
    ]
    again = f"train --model={report['model']} --seed={report['seed'] + 1}"
    return [*others, again, export]
