"""LambdaNetworks (https://arxiv.org/abs/2102.08602) for Keras 3."""

import os
import sys

__version__ = "0.1.0.dev0"


def _is_command_line() -> bool:
    """Tells whether this process is `lambda-keras`.

    The command answers `--help` and mistakes at once, where importing Keras
    and its engine takes seconds. It imports the modules that it needs itself.
    """
    program = os.path.basename(sys.argv[0]) if sys.argv else ""
    if program == "-m":
        # As under any `python -m` that is still importing its package.
        return ("-m", __name__) in zip(sys.orig_argv, sys.orig_argv[1:])
    return program.removesuffix(".exe") == "lambda-keras"


if not _is_command_line():
    from lambda_keras import layers
    from lambda_keras import models
    from lambda_keras.layers import LambdaLayer
    from lambda_keras.models import LambdaResNet50
    from lambda_keras.models import LambdaResNet101
    from lambda_keras.models import LambdaResNet152
    from lambda_keras.models import LambdaResNet200
    from lambda_keras.models import LambdaResNet270
    from lambda_keras.models import LambdaResNet350
    from lambda_keras.models import LambdaResNet420
    from lambda_keras.models import build_model

__all__ = [
    "LambdaLayer",
    "LambdaResNet50",
    "LambdaResNet101",
    "LambdaResNet152",
    "LambdaResNet200",
    "LambdaResNet270",
    "LambdaResNet350",
    "LambdaResNet420",
    "build_model",
    "layers",
    "models",
]
