"""`lambda-keras pseudo_label`: labels images by a trained model."""

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from lambda_keras import provenance
from lambda_keras.commands import FAILED
from lambda_keras.commands import CommandError
from lambda_keras.data.record_writer import write_labels
from lambda_keras.files import write_aside
from lambda_keras.training.inference import Inference
from lambda_keras.training.inference import prepare
from lambda_keras.training.model_files import expand
from lambda_keras.training.predictions import PredictionFiles
from lambda_keras.training.predictions import Predictions
from lambda_keras.training.predictions import ProgressLines
from lambda_keras.training.predictions import digest
from lambda_keras.training.predictor import PredictorError
from lambda_keras.training.processes import gather
from lambda_keras.training.pseudo_labels import Selection
from lambda_keras.training.pseudo_labels import select
from lambda_keras.training.pseudo_labels import write_selection
from lambda_keras.training.pseudo_picture import draw_pseudo_labels
from lambda_keras.training.run_directory import run_directory
from lambda_keras.training.settings import PseudoLabelSettings

SUMMARY = "pseudo_labels.json"
PICTURE = "pseudo_labels.png"
# Hidden, as nobody is to read it, and gone in the end.
PREDICTIONS = ".predictions"
# A table of more classes would be longer than a screen.
MOST_ROWS = 20


def run(settings: PseudoLabelSettings) -> None:
    """Predicts, chooses, writes, and prints what it kept.

    Args:
        settings: The settings.
    """
    with contextlib.ExitStack() as stack:
        try:
            directory = expand(settings.output_dir, "output_dir")
            inference = prepare(settings, settings.labels)
            # One process of several writes; all of them predict.
            if inference.distribution.is_chief:
                stack.enter_context(run_directory(directory, settings, SUMMARY))
        except (ValueError, OSError) as error:
            raise CommandError(error) from None
        try:
            _label(settings, inference, directory)
            # JAX would take the first process down some minutes after the
            # others have ended.
            gather(0)
        except PredictorError as error:
            raise CommandError(error) from None
        # Of files, a full disk, or images that cannot be read.
        except OSError as error:
            raise CommandError(error, status=FAILED) from None


def _label(
    settings: PseudoLabelSettings, inference: Inference, directory: Path
) -> None:
    split, teacher = inference.split, inference.predictor.path
    is_chief = inference.distribution.is_chief
    if is_chief:
        print(
            f"{teacher} labels {len(split):,} images of {settings.dataset} "
            f"({settings.split}) on {inference.distribution.describe()}.",
            flush=True,
        )
        (directory / PREDICTIONS).mkdir(exist_ok=True)
    files = PredictionFiles(
        directory / PREDICTIONS,
        inference,
        digest(teacher),
        settings.save_batches,
        settings.min_confidence if settings.kind == "soft" else None,
    )
    files.predict(
        ProgressLines(len(split), settings.batch_size, is_silent=not is_chief)
    )
    if not is_chief:
        return
    predictions = files.read()
    selection = select(
        predictions,
        inference.predictor.num_classes,
        settings.min_confidence,
        settings.per_class,
        settings.repeat,
    )
    if len(selection.indices) < settings.shards:
        # They cannot be taken up by a command with another threshold.
        shutil.rmtree(directory / PREDICTIONS)
        raise PredictorError(
            "`min_confidence` must leave at least one image for each of the "
            f"{settings.shards} shards. Received: "
            f"min_confidence={settings.min_confidence}, which leaves "
            f"{len(selection.indices)}"
        )
    write_selection(
        directory,
        split,
        selection,
        predictions,
        files,
        inference.class_names,
        shards=settings.shards,
        name=f"{settings.dataset}/{settings.split}",
    )
    if inference.class_names:
        write_labels(directory, inference.class_names)
    # Their numbers, where the images come without names.
    names = inference.class_names or tuple(
        str(number + 1) for number in range(inference.predictor.num_classes)
    )
    report = _report(settings, inference, files, predictions, selection, names)
    draw_pseudo_labels(
        directory / PICTURE,
        f"{report['kept']:,} of {report['images']:,} images kept",
        predictions,
        selection,
        settings.min_confidence,
        names,
    )
    # Last: a directory that has it is complete.
    with write_aside(directory / SUMMARY) as temporary:
        temporary.write_text(json.dumps(report, indent=2) + "\n")
    shutil.rmtree(directory / PREDICTIONS)
    _print(report, directory)


def _report(
    settings: PseudoLabelSettings,
    inference: Inference,
    files: PredictionFiles,
    predictions: Predictions,
    selection: Selection,
    names: tuple[str, ...],
) -> dict[str, Any]:
    """Gathers what is known, none of which differs after an interruption."""
    chosen = np.unique(selection.indices)
    known = predictions.known[chosen]
    is_right = predictions.predicted[chosen] == known
    return {
        "teacher": str(inference.predictor.path),
        "teacher_sha256": files.teacher,
        "dataset": settings.dataset,
        "split": settings.split,
        "kind": settings.kind,
        "min_confidence": settings.min_confidence,
        "per_class": selection.per_class,
        "repeat": settings.repeat,
        "shards": settings.shards,
        "images": len(inference.split),
        "unreadable": int(np.sum(predictions.predicted < 0)),
        "confident": int(selection.confident.sum()),
        "kept": int(selection.kept.sum()),
        "written": int(selection.written.sum()),
        # Where the source has labels, which are not used otherwise.
        "with_known_class": int(np.sum(known >= 0)),
        "of_these_right": int(np.sum(is_right & (known >= 0))),
        "classes": [
            {
                "name": name,
                "confident": int(a),
                "kept": int(b),
                "written": int(c),
            }
            for name, a, b, c in zip(
                names,
                selection.confident,
                selection.kept,
                selection.written,
            )
        ],
        "versions": provenance.versions(),
    }


def _print(report, directory):
    classes = report["classes"]
    if len(classes) > MOST_ROWS:
        classes = sorted(classes, key=lambda row: row["kept"])[:MOST_ROWS]
        print(f"\nThe {MOST_ROWS} classes with the fewest images:")
    width = max(5, *(len(row["name"]) for row in classes))
    print(f"\n{'class':{width}}  confident      kept   written")
    for row in classes:
        print(
            f"{row['name']:{width}}  {row['confident']:9,} {row['kept']:9,} "
            f"{row['written']:9,}"
        )
    print(
        f"{'all':{width}}  {report['confident']:9,} {report['kept']:9,} "
        f"{report['written']:9,}\n\n"
        f"Kept {report['kept']:,} of {report['images']:,} images: those with a "
        f"confidence of at least {report['min_confidence']:g}, at most "
        f"{report['per_class']:,} of a class."
    )
    if report["unreadable"]:
        print(f"{report['unreadable']:,} could not be read.")
    if report["with_known_class"]:
        share = report["of_these_right"] / report["with_known_class"]
        print(
            f"Of {report['with_known_class']:,} whose class is known, "
            f"{share:.2%} have the right label."
        )
    print(
        f"\n{directory}\n"
        f"  {PICTURE}   confidences, images of each class\n"
        f"  {SUMMARY}  everything above\n"
        "  train-*             TFRecords, for lambda-keras train "
        f"--pseudo={directory}"
    )
