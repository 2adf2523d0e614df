"""LambdaNetworks (https://arxiv.org/abs/2102.08602) for Keras 3."""

import importlib
import os
import sys
import typing

__version__ = "0.1.0.dev0"

__all__ = [
    "LambdaLayer",
    "LambdaResNet26RPT",
    "LambdaResNet26T",
    "LambdaResNet50",
    "LambdaResNet50TS",
    "LambdaResNet101",
    "LambdaResNet152",
    "LambdaResNet200",
    "LambdaResNet270",
    "LambdaResNet350",
    "LambdaResNet420",
    "build_model",
    "layers",
    "models",
    "weights",
]


def _is_command_line() -> bool:
    """Tells whether this process is `lambda-keras`.

    The command answers `--help` and mistakes at once, where importing Keras
    and its engine takes seconds; there, names are imported when asked for.
    Elsewhere importing the package must register its layers with Keras.
    """
    program = os.path.basename(sys.argv[0]) if sys.argv else ""
    if program == "-m":
        # As under any `python -m` that is still importing its package.
        return ("-m", __name__) in zip(sys.orig_argv, sys.orig_argv[1:])
    return program.removesuffix(".exe") == "lambda-keras"


def __getattr__(name: str) -> typing.Any:
    if name in __all__:
        for room in ("layers", "models", "weights"):
            module = importlib.import_module(f"{__name__}.{room}")
            if name == room:
                return module
            if name in module.__all__:
                return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


if not _is_command_line():
    from lambda_keras import layers
    from lambda_keras import models
    from lambda_keras import weights
    from lambda_keras.layers import LambdaLayer
    from lambda_keras.models import LambdaResNet26RPT
    from lambda_keras.models import LambdaResNet26T
    from lambda_keras.models import LambdaResNet50
    from lambda_keras.models import LambdaResNet50TS
    from lambda_keras.models import LambdaResNet101
    from lambda_keras.models import LambdaResNet152
    from lambda_keras.models import LambdaResNet200
    from lambda_keras.models import LambdaResNet270
    from lambda_keras.models import LambdaResNet350
    from lambda_keras.models import LambdaResNet420
    from lambda_keras.models import build_model

    # Registers the optimizers of saved models.
    from lambda_keras.training import optimization as _optimization  # noqa: F401
