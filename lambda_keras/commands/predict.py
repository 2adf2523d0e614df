"""`lambda-keras predict`: labels files of images with an exported model."""

import contextlib
import os
import sys
import time
from collections.abc import Callable

import tensorflow as tf

from lambda_keras.commands import FAILED
from lambda_keras.commands import CommandError
from lambda_keras.commands.progress import progress
from lambda_keras.serving.images import OK
from lambda_keras.serving.prediction import BytesModel
from lambda_keras.serving.prediction import predict_images
from lambda_keras.serving.prediction_inputs import Inputs
from lambda_keras.serving.prediction_inputs import find_inputs
from lambda_keras.serving.prediction_results import Results
from lambda_keras.serving.prediction_results import open_results
from lambda_keras.serving.settings import PredictSettings
from lambda_keras.serving.versions import find_version
from lambda_keras.training.model_files import expand
from lambda_keras.training.predictions import digest
from lambda_keras.training.progress import show_duration

# A terminal has one line, which is overwritten; a log keeps all of them.
SECONDS_ON_TERMINAL, SECONDS_IN_LOG = 0.2, 10.0
BAR_WIDTH = 20


def run(settings: PredictSettings) -> None:
    """Predicts, writes and says what there is; some images may be without.

    Args:
        settings: The settings.
    """
    try:
        output = _find_output(settings)
        version = find_version(expand(settings.model, "model"))
        with progress() as tell:
            tell("finds the images")
            inputs = find_inputs(settings.images)
            tell("loads the model")
            model = BytesModel(version)
            with open_results(
                output,
                {
                    "model": f"sha256 {digest(version)[:16]}",
                    "images": f"{len(inputs):,}, sha256 {inputs.digest()[:16]}",
                    "batch_size": settings.batch_size,
                },
                model.top_k,
                len(inputs),
                settings.batch_size,
            ) as results:
                rate = _predict(settings, model, inputs, results, tell)
    except (ValueError, FileExistsError, PermissionError) as error:
        raise CommandError(error) from None
    except (OSError, tf.errors.OpError) as error:
        raise CommandError(error, status=FAILED) from None
    _finish(output, version, results, rate)


def _find_output(settings):
    path = expand(settings.output, "output")
    if os.path.lexists(path) or not path.parent.is_dir():
        raise ValueError(
            "`output` must be a new file in a directory that exists. "
            f"Received: output={path}"
        )
    return path


def _predict(
    settings: PredictSettings,
    model: BytesModel,
    inputs: Inputs,
    results: Results,
    tell: Callable[[str], None],
) -> float:
    """Predicts what there is no row of yet; returns images per second."""
    first = results.done
    started_at = said_at = time.monotonic()
    wait = SECONDS_ON_TERMINAL if sys.stderr.isatty() else SECONDS_IN_LOG
    if first:
        tell(f"goes on: {_count_done(results)}")
    predictions = predict_images(model, inputs.read(first), settings.batch_size)
    try:
        with contextlib.closing(predictions):
            for batch in predictions:
                results.write(batch)
                now = time.monotonic()
                if now - said_at >= wait:
                    said_at = now
                    rate = (results.done - first) / (now - started_at)
                    tell(_bar(results.done, results.total, rate))
    # Of files, a full disk; of TensorFlow, no memory left.
    except (OSError, tf.errors.OpError) as error:
        raise CommandError(
            f"{error}; {_go_on(results)}", status=FAILED
        ) from None
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"; {_go_on(results)}") from None
    return (results.done - first) / (time.monotonic() - started_at)


def _bar(done, total, rate):
    filled = "#" * (BAR_WIDTH * done // total)
    return (
        f"[{filled:.<{BAR_WIDTH}}] {done:,} of {total:,}, {rate:,.1f} images/s,"
        f" {show_duration((total - done) / rate)} left"
    )


def _go_on(results):
    return f"{_count_done(results)}; the same command goes on from there"


def _count_done(results):
    return f"{results.done:,} of {results.total:,} images are done"


def _finish(output, version, results, rate):
    rows = [f"{count:,} {status}" for status, count in _sorted(results)]
    print(
        f"{output}: {results.total:,} in all, {', '.join(rows)}; "
        f"{version}, {rate:,.1f} images/s."
    )
    without = results.total - results.statuses[OK]
    if without:
        raise CommandError(
            f"{without:,} of {results.total:,} have no labels; the "
            f"status in {output} says why",
            status=FAILED,
        )


def _sorted(results):
    return sorted(results.statuses.items(), key=lambda item: item[0] != OK)
