"""`lambda-keras predict`: labels files of images with a trained model."""

import contextlib
import dataclasses
import difflib
import importlib.util
import itertools
import os
import sys
import time
import warnings
from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow as tf

from lambda_keras.commands import FAILED
from lambda_keras.commands import CommandError
from lambda_keras.commands.progress import progress
from lambda_keras.models import MODEL_SPECS
from lambda_keras.models import ModelSpec
from lambda_keras.models import get_spec
from lambda_keras.models.imagenet import CLASSES
from lambda_keras.models.imagenet import imagenet_class_names
from lambda_keras.serving.images import OK
from lambda_keras.serving.named_models import build_named_model
from lambda_keras.serving.named_models import serve_in_memory
from lambda_keras.serving.prediction import BytesModel
from lambda_keras.serving.prediction import load_version
from lambda_keras.serving.prediction import predict_images
from lambda_keras.serving.prediction_inputs import Inputs
from lambda_keras.serving.prediction_inputs import find_inputs
from lambda_keras.serving.prediction_results import JsonRows
from lambda_keras.serving.prediction_results import PrintedResults
from lambda_keras.serving.prediction_results import Results
from lambda_keras.serving.prediction_results import TableRows
from lambda_keras.serving.prediction_results import open_results
from lambda_keras.serving.settings import PredictSettings
from lambda_keras.serving.versions import find_version
from lambda_keras.training.model_files import expand
from lambda_keras.training.model_files import expand_output
from lambda_keras.training.model_files import read_class_names
from lambda_keras.training.predictions import digest
from lambda_keras.training.progress import show_duration
from lambda_keras.weights.conversion import weights_digest
from lambda_keras.weights.loading import HOSTED
from lambda_keras.weights.loading import check_weights

# A terminal has one line, which is overwritten; a log keeps all of them.
SECONDS_ON_TERMINAL, SECONDS_IN_LOG = 0.2, 10.0
BAR_WIDTH = 20


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A model beside what there is to say of it.

    Args:
        model: The model.
        source: What it is, for people.
        identity: What tells it from others.
        notes: What is not as it might be.
    """

    model: BytesModel
    source: str
    identity: str
    notes: tuple[str, ...] = ()


def run(settings: PredictSettings) -> None:
    """Predicts, writes and says what there is; some images may be without.

    Args:
        settings: The settings.
    """
    try:
        output = _find_output(settings)
        picture = _find_picture(settings)
        load = _find_model(settings)
        with progress() as tell:
            tell("finds the images")
            inputs = find_inputs(settings.images, settings.paths)
            tell("loads the model")
            loaded = load()
            for note in loaded.notes:
                tell("")
                print(note, file=sys.stderr)
            with _open_results(settings, output, loaded, inputs) as results:
                rate = _predict(settings, loaded.model, inputs, results, tell)
            if picture is not None:
                tell("draws the picture")
                _draw(settings, loaded, inputs, picture)
    # `ImportError` for a package of an extra.
    except (ValueError, ImportError, FileExistsError, PermissionError) as error:
        raise CommandError(error) from None
    # Who reads the table has gone, which is no failure of this program.
    except BrokenPipeError:
        raise
    except (OSError, tf.errors.OpError) as error:
        raise CommandError(error, status=FAILED) from None
    _finish(settings, output, picture, loaded, results, rate)


def _find_output(settings):
    if settings.output is None:
        return None
    path = expand(settings.output, "output")
    if os.path.lexists(path) or not path.parent.is_dir():
        raise ValueError(
            "`output` must be a new file in a directory that exists. "
            f"Received: output={path}"
        )
    return path


def _find_picture(settings):
    if settings.picture is None:
        return None
    if importlib.util.find_spec("matplotlib") is None:
        raise ValueError(
            "`picture` needs Matplotlib: pip install matplotlib. "
            f"Received: picture={settings.picture}"
        )
    return expand_output(settings.picture, "picture")


def _find_model(settings: PredictSettings) -> Callable[[], Loaded]:
    """Finds out, without loading it, which model is meant."""
    path = expand(settings.model, "model")
    spec = None if path.exists() else _find_spec(settings)
    if spec is not None:
        weights = _find_weights(settings, spec)
        return lambda: _load_named(settings, spec, weights)
    for name in "weights", "image_size":
        value = getattr(settings, name)
        if value is not None:
            raise ValueError(
                f"`{name}` must be left out unless `model` is the name of "
                f"one. Received: {name}={value}, model={path}"
            )
    version = find_version(path)
    return lambda: Loaded(
        load_version(version), str(version), f"sha256 {digest(version)[:16]}"
    )


def _find_spec(settings):
    if "/" in settings.model:
        return None
    try:
        return get_spec(settings.model)
    except ValueError:
        near = difflib.get_close_matches(settings.model, MODEL_SPECS, cutoff=0)
        raise ValueError(
            "`model` must be a directory that `lambda-keras export` wrote, or "
            f"the name of a model, of which the closest are {', '.join(near)}. "
            f"Received: model={settings.model}, which is no directory"
        ) from None


def _find_weights(settings, spec):
    weights = settings.weights
    if weights is None:
        weights = HOSTED
    elif weights != HOSTED:
        weights = expand(weights, "weights")
    check_weights(weights, spec)
    return weights


def _load_named(
    settings: PredictSettings, spec: ModelSpec, weights: str | Path
) -> Loaded:
    # Such as that tables were resampled: no place in the code is to blame.
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = build_named_model(spec, weights, settings.image_size)
    names, note = _find_class_names(weights, model.output_shape[-1])
    notes = [*(str(warning.message) for warning in caught), note]
    return Loaded(
        serve_in_memory(model, names),
        f"{spec.name} with {weights}",
        f"{spec.name} {model.input_shape[1:]}, "
        f"sha256 {weights_digest(model)[:16]}",
        tuple(filter(None, notes)),
    )


def _find_class_names(weights, classes):
    """Returns names of classes, and what there is to say if there are none."""
    names = read_class_names(weights) if isinstance(weights, Path) else ()
    reason = f"no names are known of {classes} classes."
    if not names and classes == CLASSES:
        try:
            names = imagenet_class_names()
        except OSError as error:
            reason = str(error)
    if len(names) == classes:
        return names, ""
    return (), f"The labels are the numbers of the classes: {reason}"


@contextlib.contextmanager
def _open_results(
    settings: PredictSettings,
    output: Path | None,
    loaded: Loaded,
    inputs: Inputs,
) -> Iterator[Results | PrintedResults]:
    top_k = loaded.model.top_k
    if output is None:
        rows = JsonRows(top_k) if settings.json else TableRows(top_k)
        yield PrintedResults(rows, len(inputs))
        return
    identity: dict[str, Any] = {
        "model": loaded.identity,
        "images": f"{len(inputs):,}, sha256 {inputs.digest()[:16]}",
        "batch_size": settings.batch_size,
    }
    with open_results(
        output, identity, top_k, len(inputs), settings.batch_size
    ) as results:
        yield results


def _predict(
    settings: PredictSettings,
    model: BytesModel,
    inputs: Inputs,
    results: Results | PrintedResults,
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
                if settings.output is None:
                    # The row would begin behind the bar.
                    tell("")
                results.write(batch)
                now = time.monotonic()
                if now - said_at >= wait:
                    said_at = now
                    rate = (results.done - first) / (now - started_at)
                    tell(_bar(results.done, results.total, rate))
    except BrokenPipeError:
        raise
    # Of files, a full disk; of TensorFlow, no memory left.
    except (OSError, tf.errors.OpError) as error:
        raise CommandError(
            f"{error}; {_go_on(settings, results)}", status=FAILED
        ) from None
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"; {_go_on(settings, results)}") from None
    return (results.done - first) / (time.monotonic() - started_at)


def _bar(done, total, rate):
    filled = "#" * (BAR_WIDTH * done // total)
    return (
        f"[{filled:.<{BAR_WIDTH}}] {done:,} of {total:,}, {rate:,.1f} images/s,"
        f" {show_duration((total - done) / rate)} left"
    )


def _go_on(settings, results):
    if settings.output is None:
        return _count_done(results)
    return f"{_count_done(results)}; the same command goes on from there"


def _count_done(results):
    return f"{results.done:,} of {results.total:,} images are done"


def _draw(
    settings: PredictSettings, loaded: Loaded, inputs: Inputs, path: Path
) -> None:
    """Predicts the first images again, which a stopped command may have."""
    # Matplotlib is of use for nothing else here.
    from lambda_keras.serving.prediction_picture import MOST_IMAGES
    from lambda_keras.serving.prediction_picture import draw_predictions

    images = list(itertools.islice(inputs.read(), MOST_IMAGES))
    batches = predict_images(loaded.model, images, settings.batch_size)
    predictions = list(itertools.chain.from_iterable(batches))
    title = loaded.source
    if len(images) < len(inputs):
        title = f"The first {len(images)} of {len(inputs):,} images: {title}"
    draw_predictions(path, title, images, predictions)


def _finish(settings, output, picture, loaded, results, rate):
    rows = [f"{count:,} {status}" for status, count in _sorted(results)]
    # Beside a table it says what one sees.
    if output is not None:
        print(
            f"{output}: {results.total:,} in all, {', '.join(rows)}; "
            f"{loaded.source}, {rate:,.1f} images/s."
        )
    if picture is not None:
        print(f"The picture is in {picture}.", file=sys.stderr)
    without = results.total - results.statuses[OK]
    if not without:
        return
    if output is not None:
        reason = f"the status in {output} says why"
    else:
        more = ", ..." if without > len(results.without) else ""
        reason = f"{', '.join(results.without)}{more}"
    raise CommandError(
        f"{without:,} of {results.total:,} have no labels; {reason}",
        status=FAILED,
    )


def _sorted(results):
    return sorted(results.statuses.items(), key=lambda item: item[0] != OK)
