"""`lambda-keras evaluate`: what any trained model is worth on a split."""

import dataclasses
import json
import sys
from typing import Any

from lambda_keras import provenance
from lambda_keras.commands import FAILED
from lambda_keras.commands import CommandError
from lambda_keras.files import write_aside
from lambda_keras.training.evaluation import evaluate
from lambda_keras.training.inference import Inference
from lambda_keras.training.inference import is_labelled
from lambda_keras.training.inference import prepare
from lambda_keras.training.model_files import expand_output
from lambda_keras.training.predictor import PredictorError
from lambda_keras.training.settings import EvaluateSettings


def run(settings: EvaluateSettings) -> None:
    """Measures, prints and, where asked to, writes.

    Args:
        settings: The settings.
    """
    try:
        output = None
        if settings.output is not None:
            output = expand_output(settings.output, "output")
        inference = prepare(settings)
        if not is_labelled(inference.split):
            raise ValueError(
                "`split` must have a label for each image. "
                f"Received: split={settings.split}"
            )
    except (ValueError, OSError) as error:
        raise CommandError(error) from None
    try:
        report = _measure(settings, inference)
        if not inference.distribution.is_chief:
            return
        if output is not None:
            with write_aside(output) as temporary:
                temporary.write_text(json.dumps(report, indent=2) + "\n")
    except PredictorError as error:
        raise CommandError(error) from None
    # Of files, a full disk, or images that cannot be read.
    except OSError as error:
        raise CommandError(error, status=FAILED) from None
    print(json.dumps(report) if settings.json else _describe(report))


def _measure(
    settings: EvaluateSettings, inference: Inference
) -> dict[str, Any]:
    # A bar redraws itself, which only a terminal shows as a bar.
    shows_bar = sys.stdout.isatty() and not settings.json
    with inference.reading():
        evaluation = evaluate(
            inference.predictor,
            inference.batches(inference.split),
            inference.steps(inference.split),
            verbose=1 if shows_bar else 0,
        )
    return {
        "model": str(inference.predictor.path),
        "dataset": settings.dataset,
        "split": settings.split,
        **{
            # As many digits as float32 has.
            name: round(value, 6) if isinstance(value, float) else value
            for name, value in dataclasses.asdict(evaluation).items()
        },
        "unreadable": len(inference.split) - evaluation.examples,
        "batch_size": settings.batch_size,
        "devices": inference.distribution.describe(),
        "versions": provenance.versions(),
    }


def _describe(report):
    top_5, unreadable = report["top_5_accuracy"], report["unreadable"]
    rows = {
        "top-1 accuracy": f"{report['accuracy']:.4f}",
        "top-5 accuracy": None if top_5 is None else f"{top_5:.4f}",
        "cross-entropy": f"{report['cross_entropy']:.4f}",
        "images": f"{report['examples']:,}",
        "unreadable": f"{unreadable:,}" if unreadable else None,
        "images per second": (
            f"{report['images_per_second']:,.1f} on {report['devices']}"
        ),
    }
    return "\n".join(
        [
            f"{report['model']} on {report['dataset']} ({report['split']}):",
            *(f"  {name:18} {text}" for name, text in rows.items() if text),
        ]
    )
