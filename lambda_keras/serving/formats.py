"""Models in the formats of other runtimes, written by Keras' exporters."""

import contextlib
import dataclasses
import importlib.util
import logging
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

from lambda_keras.serving.precision import cast_model

INPUT, OUTPUT = "images", "probabilities"


class FormatError(RuntimeError):
    """An exporter could not write a model."""


@dataclasses.dataclass(frozen=True)
class Format:
    """A format beside the SavedModel.

    Args:
        files: The names of its files, first the one that runtimes are given.
        precisions: Those that it can be written with.
        packages: What has to be installed to write it.
        write: Writes a model with a precision to a path.
    """

    files: tuple[str, ...]
    precisions: tuple[str, ...]
    packages: tuple[str, ...]
    write: Callable[[keras.Model, Path, str], None]

    @property
    def file(self) -> str:
        """The name of the file that runtimes are given."""
        return self.files[0]


def check_format(name: str, precision: str = "float32") -> None:
    """Raises an error unless models can be written in a format.

    Args:
        name: A key of `FORMATS`.
        precision: What it is to be written with.

    Raises:
        ValueError: If there is no such format, or not with this precision, or
            if a package for it is not installed.

    Example:

    >>> check_format("openvino", "int8")
    Traceback (most recent call last):
    ...
    ValueError: `precision` must be one of: float32, float16 for openvino. ...
    """
    if name not in FORMATS:
        raise ValueError(
            f"A format must be one of: {', '.join(FORMATS)}. "
            f"Received: format={name}"
        )
    known = FORMATS[name]
    if precision not in known.precisions:
        raise ValueError(
            f"`precision` must be one of: {', '.join(known.precisions)} for "
            f"{name}. Received: precision={precision}"
        )
    missing = [
        package
        for package in known.packages
        if importlib.util.find_spec(package) is None
    ]
    if missing:
        raise ValueError(
            f"The format {name} needs {', '.join(missing)}: pip install "
            f'"lambda_keras[export]". Received: format={name}'
        )


def export_format(
    name: str,
    model: keras.Model,
    directory: str | os.PathLike[str],
    precision: str = "float32",
) -> Path:
    """Writes a model in a format, whole or not at all.

    The file has one input, `images`, float32, whose batch is free as are the
    other axes that the model leaves free, and one output, `probabilities`.

    - ONNX: float16 is what is computed in; int8 is dynamic, of the weights
      when written and of their inputs when run.
    - LiteRT: float16 is what weights are stored in; int8 is dynamic.
    - OpenVINO: float16 is what weights are stored in.

    Of the models that take any size, those with local self-attention do not
    run in ONNX Runtime: tf2onnx merges two reshapes of theirs into a wrong one.
    Where scores are made a few blocks at a time, which lambda layers do if
    those of one image take more than 512 MiB, LiteRT has no such loop.

    Args:
        name: A key of `FORMATS`.
        model: A Keras model with one input, on TensorFlow.
        directory: Where to write its files; they are replaced.
        precision: One of the format's precisions.

    Returns:
        The path of the file that runtimes are given.

    Raises:
        ValueError: As `check_format` does, or if the model has not one input
            and one output.
        FormatError: If the model cannot be expressed in the format.

    Example:

    ```python
    model = LambdaResNet50(weights="best.weights.h5")
    export_format("onnx", model, "models")  # models/model.onnx
    ```
    """
    check_format(name, precision)
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise ValueError(
            "`model` must have one input and one output. Received: "
            f"{len(model.inputs)} inputs and {len(model.outputs)} outputs"
        )
    known, directory = FORMATS[name], Path(directory)
    with tempfile.TemporaryDirectory(
        prefix=".partial-", dir=directory
    ) as scratch:
        path = Path(scratch, known.file)
        try:
            with _quiet():
                known.write(model, path, precision)
        except OSError:
            raise
        # Each exporter has errors of its own, of TensorFlow, C++ or none.
        except Exception as error:
            reason = str(error).strip().partition("\n")[0]
            raise FormatError(
                f"`model` must be one that {name} can express "
                f"({type(error).__name__}: {reason}). "
                f"Received: model={model.name}, precision={precision}"
            ) from error
        for file in known.files:
            os.replace(Path(scratch, file), directory / file)
    return directory / known.file


def _write_onnx(model, path, precision):
    import onnx

    half = precision == "float16"
    _export(cast_model(model, "float16" if half else "float32"), path, "onnx")
    # Of an operation that ONNX does not have, tf2onnx writes the name.
    onnx.checker.check_model(path)
    if precision == "int8":
        _quantize_onnx(path)


def _quantize_onnx(path):
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization import quantize_dynamic
    from onnxruntime.quantization import shape_inference

    merged = path.with_suffix(".merged.onnx")
    # Its symbolic inference knows less than TensorFlow wrote.
    shape_inference.quant_pre_process(path, merged, skip_symbolic_shape=True)
    # ONNX Runtime has no convolution for signed weights on a processor.
    quantize_dynamic(merged, path, weight_type=QuantType.QUInt8)


def _write_litert(model, path, precision):
    import tensorflow as tf

    # What plain LiteRT does not have is to be an error, not a file that only
    # a LiteRT with TensorFlow's own operations runs.
    target: dict[str, Any] = {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS]}
    if precision == "float16":
        target["supported_types"] = [tf.float16]
    optimizations = [] if precision == "float32" else [tf.lite.Optimize.DEFAULT]
    _export(
        cast_model(model, "float32"),
        path,
        "litert",
        target_spec=target,
        optimizations=optimizations,
    )


def _write_openvino(model, path, precision):
    full = path.with_name("full.xml")
    _export(cast_model(model, "float32"), full, "openvino")
    import openvino

    openvino.save_model(
        openvino.Core().read_model(full),
        path,
        compress_to_fp16=precision == "float16",
    )


def _export(model, path, name, **options):
    # Named, because an exporter numbers what has no name; and of a model with
    # one output of its own OpenVINO would make one of each activation, too.
    named = keras.Model(model.inputs, {OUTPUT: model.outputs[0]})
    signature = keras.InputSpec(
        shape=(None, *model.input_shape[1:]), dtype="float32", name=INPUT
    )
    named.export(
        os.fspath(path),
        format=name,
        verbose=False,
        input_signature=[signature],
        **options,
    )


@contextlib.contextmanager
def _quiet():
    # TensorFlow warns of each lookup table that there is anywhere in the
    # process, and tf2onnx of what is an error here.
    loggers = [logging.getLogger(name) for name in ("tensorflow", "tf2onnx")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            # For `np.object`, which NumPy no longer has, when Keras looks
            # whether it has to mend tf2onnx.
            warnings.filterwarnings("ignore", "In the future `np.object`")
            yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)


FORMATS = {
    "onnx": Format(
        ("model.onnx",),
        ("float32", "float16", "int8"),
        ("onnx", "onnxruntime", "tf2onnx"),
        _write_onnx,
    ),
    "litert": Format(
        ("model.tflite",), ("float32", "float16", "int8"), (), _write_litert
    ),
    "openvino": Format(
        ("model.xml", "model.bin"),
        ("float32", "float16"),
        ("openvino",),
        _write_openvino,
    ),
}
