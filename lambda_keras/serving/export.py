"""Exported versions: a SavedModel with all that a server wants beside it."""

import dataclasses
import datetime
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from collections.abc import Sequence
from pathlib import Path

import keras
import tensorflow as tf

from lambda_keras import provenance
from lambda_keras.files import PARTIAL
from lambda_keras.files import locked
from lambda_keras.files import made_directory
from lambda_keras.files import write_aside
from lambda_keras.models import MODEL_SPECS
from lambda_keras.models import count_parameters
from lambda_keras.serving.formats import FORMATS
from lambda_keras.serving.formats import INPUT
from lambda_keras.serving.formats import OUTPUT
from lambda_keras.serving.formats import check_format
from lambda_keras.serving.formats import export_format
from lambda_keras.serving.images import STATUSES
from lambda_keras.serving.images import RequestPreprocessing
from lambda_keras.serving.precision import SAVED_MODEL_PRECISIONS
from lambda_keras.serving.precision import cast_model
from lambda_keras.serving.settings import PRECISIONS
from lambda_keras.serving.signatures import LABELS_FILE
from lambda_keras.serving.signatures import ServedModel
from lambda_keras.serving.signatures import check_classifier
from lambda_keras.serving.signatures import write_labels
from lambda_keras.serving.versions import SAVED_MODEL_FILE
from lambda_keras.serving.versions import list_versions
from lambda_keras.serving.versions import next_version
from lambda_keras.serving.warm_up import check_warm_up
from lambda_keras.serving.warm_up import write_warm_up_requests
from lambda_keras.weights.conversion import weights_digest

DESCRIPTION = "model.json"


def export_version(
    model: keras.Model,
    directory: str | os.PathLike[str],
    *,
    preprocessing: RequestPreprocessing,
    class_names: Sequence[str] = (),
    version: int | None = None,
    top_k: int = 5,
    formats: Sequence[str] = (),
    precision: str = "float32",
    warm_up: bool = True,
    check: Callable[[Path], None] | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> Path:
    """Writes a model as a new version that servers can take.

    The version appears whole or not at all: it is written beside the others
    in a hidden directory, which is renamed at the end. It has

    - a SavedModel with the signatures of `ServedModel`;
    - `assets/labels.txt`, the names of the classes, which the SavedModel reads;
    - `assets.extra/tf_serving_warmup_requests`, what TensorFlow Serving runs
      before it takes requests;
    - `model.json`: spec, versions, hash of the weights, preprocessing;
    - the other formats, from float images to probabilities.

    Args:
        model: A Keras model, on TensorFlow, from one batch of images, pixels
            from 0 to 255, to probabilities.
        directory: That of all versions of the model; made if it is missing.
        preprocessing: What is done to encoded images.
        class_names: The names of the classes; by default their numbers.
        version: The number of the version. By default the next one.
        top_k: How many of the likeliest classes the signatures name.
        formats: Names of `FORMATS`.
        precision: One of `PRECISIONS`; the SavedModel keeps float32 where it
            is `"int8"`.
        warm_up: Whether to write requests for warming up.
        check: Called with the path of the version before it appears, which it
            never does if this raises.
        tell: Told what is done next, a line at a time.

    Returns:
        The directory of the version.

    Raises:
        ValueError: If the model does not give probabilities, or a format does
            not have this precision or is not installed.
        FileExistsError: If there is such a version, or another process is
            writing one.
        PermissionError: If `directory` cannot be made or written to.

    Example:

    ```python
    export_version(
        LambdaResNet50(weights="best.weights.h5"),
        "models/lambda_resnet_50",
        preprocessing=RequestPreprocessing((224, 224, 3)),
    )  # models/lambda_resnet_50/1
    ```

    Reference:

    - [TensorFlow Serving](https://www.tensorflow.org/tfx/serving/serving_basic)
    """
    directory = Path(directory)
    if version is not None and version < 1:
        raise ValueError(
            f"`version` must be at least 1. Received: version={version}"
        )
    if (directory / SAVED_MODEL_FILE).exists():
        raise ValueError(
            "`output_dir` must be the directory of all versions, not of one. "
            f"Received: output_dir={directory}"
        )
    check_classifier(model)
    if warm_up:
        check_warm_up()
    of_saved_model = _precision_of_saved_model(precision, formats)
    for name in formats:
        check_format(name, precision)
    with made_directory(directory), locked(directory):
        _remove_leftovers(directory)
        number = next_version(directory) if version is None else version
        target = directory / str(number)
        if number in list_versions(directory) or os.path.lexists(target):
            raise FileExistsError(
                "`version` must be one that is not there yet. "
                f"Received: version={version}, output_dir={directory}"
            )
        with write_aside(target) as temporary:
            # At once: by this a leftover is known.
            temporary.mkdir()
            tell(f"SavedModel, {of_saved_model}")
            description = _save(
                cast_model(model, of_saved_model),
                temporary,
                class_names,
                preprocessing,
                top_k,
            )
            if warm_up:
                write_warm_up_requests(
                    temporary, directory.resolve().name, preprocessing
                )
            for name in formats:
                tell(f"{name}, {precision}")
                export_format(name, model, temporary, precision)
            description |= {
                "version": number,
                "weights_sha256": weights_digest(model),
                "precision": of_saved_model,
                "formats": {
                    name: {
                        "file": FORMATS[name].file,
                        "precision": precision,
                        "inputs": {INPUT: _float32(model.input_shape)},
                        "outputs": {OUTPUT: _float32(model.output_shape)},
                    }
                    for name in formats
                },
            }
            (temporary / DESCRIPTION).write_text(
                json.dumps(description, indent=2) + "\n"
            )
            if check:
                check(temporary)
    return target


def _remove_leftovers(directory):
    """Removes versions that a killed export had only half written."""
    # Not all that is half written: a directory may have other writers too.
    for path in directory.glob(f"{PARTIAL}*/[0-9]*"):
        shutil.rmtree(path.parent, ignore_errors=True)


def _precision_of_saved_model(precision, formats):
    if precision in SAVED_MODEL_PRECISIONS:
        return precision
    if precision in PRECISIONS and formats:
        return "float32"
    others = ", ".join(sorted({*PRECISIONS} - {*SAVED_MODEL_PRECISIONS}))
    raise ValueError(
        f"`precision` must be one of: {', '.join(SAVED_MODEL_PRECISIONS)}, or "
        f"{others} where `formats` are given that have it. "
        f"Received: precision={precision}, formats={tuple(formats)}"
    )


def _save(model, directory, class_names, preprocessing, top_k):
    """Writes the SavedModel, and returns what there is to say of it."""
    with tempfile.TemporaryDirectory() as scratch:
        labels = Path(scratch, LABELS_FILE)
        write_labels(labels, class_names, model.output_shape[-1])
        served = ServedModel(model, labels, preprocessing, top_k)
        signatures = served.signatures()
        tf.saved_model.save(served, os.fspath(directory), signatures)
    spec = MODEL_SPECS.get(model.name)
    return {
        "model": model.name,
        "spec": spec and _describe_spec(spec),
        "parameters": count_parameters(model),
        "pixels": "0 to 255, channels last",
        "input_shape": model.input_shape[1:],
        "num_classes": model.output_shape[-1],
        "labels": f"assets/{LABELS_FILE}",
        "signatures": {
            name: {
                "inputs": _describe(
                    {
                        spec.name: spec
                        for spec in function.structured_input_signature[0]
                    }
                ),
                "outputs": _describe(function.structured_outputs),
            }
            for name, function in signatures.items()
        },
        "preprocessing": dataclasses.asdict(preprocessing),
        "statuses": STATUSES,
        "created": datetime.datetime.now(datetime.UTC).isoformat(
            timespec="seconds"
        ),
        "versions": provenance.versions(),
    }


def _describe_spec(spec):
    fields = dataclasses.asdict(spec)
    # Figures of the model at its default size and number of classes.
    for name in ("parameters", "flops", "paper", "image_size"):
        del fields[name]
    return fields


def _describe(specs):
    return {
        name: {"dtype": spec.dtype.name, "shape": spec.shape.as_list()}
        for name, spec in specs.items()
    }


def _float32(shape):
    return {"dtype": "float32", "shape": list(shape)}
