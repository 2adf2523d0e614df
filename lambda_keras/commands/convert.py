"""`lambda-keras convert`: between timm's files and those of Keras."""

import hashlib
from pathlib import Path

import keras

from lambda_keras.commands import FAILED
from lambda_keras.commands import CommandError
from lambda_keras.files import write_aside
from lambda_keras.models import count_parameters
from lambda_keras.training.model_files import expand
from lambda_keras.training.model_files import find_model
from lambda_keras.training.model_files import load_model
from lambda_keras.training.settings import MODEL_FILES
from lambda_keras.training.settings import ConvertSettings
from lambda_keras.training.strategy import hide_gpus
from lambda_keras.weights.conversion import save_as_timm
from lambda_keras.weights.conversion import weights_digest


def run(settings: ConvertSettings) -> None:
    """Reads a model, writes it as another kind of file, and says what it is.

    Args:
        settings: The settings.
    """
    if keras.backend.backend() == "tensorflow":
        # They may be in use, and nothing is computed here.
        hide_gpus()
    try:
        target = _find_target(settings)
        source = find_model(settings.from_, settings.architecture, "from")
        _check_kinds(source, target)
        model, _ = load_model(
            source,
            (None, None, None),
            architecture=settings.architecture,
            raw_weights=settings.raw_weights,
            name="from",
        )
        _write(model, target)
    except (ValueError, FileExistsError, ImportError) as error:
        raise CommandError(error) from None
    # Of the network, or a full disk.
    except OSError as error:
        raise CommandError(error, status=FAILED) from None
    print(_describe(model, source, target))


def _find_target(settings):
    target = expand(settings.to, "to")
    if target.exists() or target.is_symlink():
        raise FileExistsError(
            f"`to` must be a file that is not there yet. Received: to={target}"
        )
    if not target.parent.is_dir():
        raise ValueError(
            "`to` must be a file in a directory that exists. "
            f"Received: to={target}"
        )
    return target


def _check_kinds(source, target):
    if source.is_dir():
        raise ValueError(
            "`from` must be what a model can be made from: a run directory, or "
            f"a file that ends in .npz, {', '.join(MODEL_FILES)}. "
            f"Received: from={source}"
        )
    if _suffix(source) == _suffix(target):
        raise ValueError(
            "`to` must be another kind of file than `from`, of which a copy "
            f"will do. Received: from={source}, to={target}"
        )


def _suffix(path: Path) -> str:
    return next((x for x in MODEL_FILES if path.name.endswith(x)), path.suffix)


def _write(model: keras.Model, target: Path) -> None:
    if _suffix(target) == ".safetensors":
        save_as_timm(model, target)
        return
    with write_aside(target) as temporary:
        if _suffix(target) == ".keras":
            model.save(temporary)
        else:
            model.save_weights(temporary)


def _describe(model, source, target):
    height, width, _ = model.input_shape[1:]
    with open(target, "rb") as stream:
        file_digest = hashlib.file_digest(stream, "sha256").hexdigest()
    lines = [
        f"{model.name}: {count_parameters(model):,} parameters, "
        f"{model.output_shape[-1]:,} classes, images of {height}x{width}",
        f"  from     {source}",
        f"  to       {target} ({target.stat().st_size / 1e6:,.1f} MB)",
        f"  weights  sha256 {weights_digest(model)}",
        f"  file     sha256 {file_digest}",
    ]
    if _suffix(target) == ".safetensors":
        lines.append(
            "Counts of batches (num_batches_tracked), which Keras does not "
            "keep, start at 0."
        )
    return "\n".join(lines)
