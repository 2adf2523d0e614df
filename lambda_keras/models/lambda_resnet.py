"""The named models as functions, called like those of `keras.applications`."""

# The docstrings of the models come from their specs.
# ruff: noqa: D103

import inspect
import textwrap
from collections.abc import Callable
from typing import Any

import keras

from lambda_keras.models.resnet import build_model
from lambda_keras.models.specs import ModelSpec
from lambda_keras.models.specs import get_spec

_DOCSTRING = """Instantiates the {name} architecture.

{description}

The model normalizes its inputs itself: images go in with values from 0 to
255. With `include_preprocessing=False` they must have been through
`lambda_keras.models.preprocess_input`.

Args:
    include_top: Whether to include the classifier.
    weights: `None` (random weights), `"imagenet"` for the models in
        `lambda_keras.weights.CHECKPOINTS`, or the path of a file of this
        model: `.weights.h5`, `.keras`, or timm's `.safetensors`.
    input_shape: The images' shape `(height, width, channels)`. Defaults to
        `({size}, {size}, 3)`; without the classifier, to
        `{headless_shape}`.
    pooling: What to return without the classifier: `None` (the last feature
        map), `"avg"` or `"max"` (its mean or maximum over all positions).
    classes: The number of classes.
    classifier_activation: The activation of the classifier; `None` gives
        logits.
    name: The name of the model. Defaults to `"{spec_name}"`.
    include_preprocessing: Whether the model normalizes its inputs.
    drop_path_rate, dropout_rate, sync_batch_norm, width, implementation,
        dtype: As in `lambda_keras.models.build_model`, which says more about
        all of them.

Returns:
    A `keras.Model`. With the default arguments it has {parameters:.1f} million
    parameters and takes {gflops:.1f} billion floating point operations per
    image.

Raises:
    ValueError: If an argument is out of its range, or the weights do not fit.
    OSError: If hosted weights cannot be downloaded.

References:
    - [LambdaNetworks](https://arxiv.org/abs/2102.08602)
    - {reference}
"""

_RESNET_RS = "[ResNet-RS](https://arxiv.org/abs/2103.07579)"
_TIMM = "[timm](https://github.com/huggingface/pytorch-image-models)"

_MIXERS = {
    "lambda": "a lambda layer",
    "global_attention": "global relative self-attention",
    "axial_attention": "axial relative self-attention",
    "local_attention": "local relative self-attention",
}


def _named_model(function: Callable) -> Callable:
    """Gives a function the signature of the builder and its docstring."""
    spec = get_spec(function.__name__)
    size = None if not spec.needs_image_size else spec.image_size
    function.__doc__ = _DOCSTRING.format(
        name=function.__name__,
        description=textwrap.fill(_describe(spec), 79),
        size=spec.image_size,
        headless_shape=(size, size, len(spec.mean)),
        spec_name=spec.name,
        parameters=spec.parameters / 1e6,
        gflops=spec.flops / 1e9,
        reference=_RESNET_RS if spec.average_pool_shortcut else _TIMM,
    )
    signature = inspect.signature(build_model)
    function.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=list(signature.parameters.values())[1:]
    )
    return function


def _describe(spec: ModelSpec) -> str:
    depths = ", ".join(map(str, spec.depths))
    base = "ResNet-RS" if spec.average_pool_shortcut else "ResNet by timm"
    sentence = f"A {base} with stages c2 to c5 of {depths} bottleneck blocks"
    if spec.mixer:
        places = "; ".join(
            f"{_name(blocks, depth)} of c{stage}"
            for stage, (blocks, depth) in enumerate(
                zip(spec.mixer_blocks, spec.depths), start=2
            )
            if blocks
        )
        sentence += (
            f". In the place of the 3x3 convolution is {_MIXERS[spec.mixer]} "
            f"in these blocks, counted from 0: {places}"
        )
    if spec.se_ratio:
        where = "The other blocks" if spec.mixer else "All of them"
        sentence += f". {where} have squeeze-and-excitation"
    return f"{sentence}."


def _name(blocks: tuple[int, ...], depth: int) -> str:
    return "all" if len(blocks) == depth else ", ".join(map(str, blocks))


@_named_model
def LambdaResNet50(*args: Any, **kwargs: Any) -> keras.Model:
    return build_model("lambda_resnet_50", *args, **kwargs)


@_named_model
def LambdaResNet101(*args: Any, **kwargs: Any) -> keras.Model:
    return build_model("lambda_resnet_101", *args, **kwargs)


@_named_model
def LambdaResNet152(*args: Any, **kwargs: Any) -> keras.Model:
    return build_model("lambda_resnet_152", *args, **kwargs)


@_named_model
def LambdaResNet200(*args: Any, **kwargs: Any) -> keras.Model:
    return build_model("lambda_resnet_200", *args, **kwargs)


@_named_model
def LambdaResNet270(*args: Any, **kwargs: Any) -> keras.Model:
    return build_model("lambda_resnet_270", *args, **kwargs)


@_named_model
def LambdaResNet350(*args: Any, **kwargs: Any) -> keras.Model:
    return build_model("lambda_resnet_350", *args, **kwargs)


@_named_model
def LambdaResNet420(*args: Any, **kwargs: Any) -> keras.Model:
    return build_model("lambda_resnet_420", *args, **kwargs)


@_named_model
def ResNet50(*args: Any, **kwargs: Any) -> keras.Model:
    return build_model("resnet_50", *args, **kwargs)


@_named_model
def ResNet101(*args: Any, **kwargs: Any) -> keras.Model:
    return build_model("resnet_101", *args, **kwargs)


@_named_model
def ResNet152(*args: Any, **kwargs: Any) -> keras.Model:
    return build_model("resnet_152", *args, **kwargs)


@_named_model
def ResNet200(*args: Any, **kwargs: Any) -> keras.Model:
    return build_model("resnet_200", *args, **kwargs)


@_named_model
def ResNet270(*args: Any, **kwargs: Any) -> keras.Model:
    return build_model("resnet_270", *args, **kwargs)


@_named_model
def ResNet350(*args: Any, **kwargs: Any) -> keras.Model:
    return build_model("resnet_350", *args, **kwargs)


@_named_model
def ResNet420(*args: Any, **kwargs: Any) -> keras.Model:
    return build_model("resnet_420", *args, **kwargs)


@_named_model
def SEResNet50(*args: Any, **kwargs: Any) -> keras.Model:
    return build_model("se_resnet_50", *args, **kwargs)


@_named_model
def SEResNet101(*args: Any, **kwargs: Any) -> keras.Model:
    return build_model("se_resnet_101", *args, **kwargs)


@_named_model
def SEResNet152(*args: Any, **kwargs: Any) -> keras.Model:
    return build_model("se_resnet_152", *args, **kwargs)


@_named_model
def SEResNet200(*args: Any, **kwargs: Any) -> keras.Model:
    return build_model("se_resnet_200", *args, **kwargs)


@_named_model
def SEResNet270(*args: Any, **kwargs: Any) -> keras.Model:
    return build_model("se_resnet_270", *args, **kwargs)


@_named_model
def SEResNet350(*args: Any, **kwargs: Any) -> keras.Model:
    return build_model("se_resnet_350", *args, **kwargs)


@_named_model
def SEResNet420(*args: Any, **kwargs: Any) -> keras.Model:
    return build_model("se_resnet_420", *args, **kwargs)


@_named_model
def GlobalAttentionResNet50(*args: Any, **kwargs: Any) -> keras.Model:
    return build_model("global_attention_resnet_50", *args, **kwargs)


@_named_model
def GlobalAttentionResNet101(*args: Any, **kwargs: Any) -> keras.Model:
    return build_model("global_attention_resnet_101", *args, **kwargs)


@_named_model
def GlobalAttentionResNet152(*args: Any, **kwargs: Any) -> keras.Model:
    return build_model("global_attention_resnet_152", *args, **kwargs)


@_named_model
def AxialAttentionResNet50(*args: Any, **kwargs: Any) -> keras.Model:
    return build_model("axial_attention_resnet_50", *args, **kwargs)


@_named_model
def AxialAttentionResNet101(*args: Any, **kwargs: Any) -> keras.Model:
    return build_model("axial_attention_resnet_101", *args, **kwargs)


@_named_model
def AxialAttentionResNet152(*args: Any, **kwargs: Any) -> keras.Model:
    return build_model("axial_attention_resnet_152", *args, **kwargs)


@_named_model
def LocalAttentionResNet50(*args: Any, **kwargs: Any) -> keras.Model:
    return build_model("local_attention_resnet_50", *args, **kwargs)


@_named_model
def LocalAttentionResNet101(*args: Any, **kwargs: Any) -> keras.Model:
    return build_model("local_attention_resnet_101", *args, **kwargs)


@_named_model
def LocalAttentionResNet152(*args: Any, **kwargs: Any) -> keras.Model:
    return build_model("local_attention_resnet_152", *args, **kwargs)


@_named_model
def LambdaResNet26T(*args: Any, **kwargs: Any) -> keras.Model:
    return build_model("lambda_resnet_26t", *args, **kwargs)


@_named_model
def LambdaResNet26RPT(*args: Any, **kwargs: Any) -> keras.Model:
    return build_model("lambda_resnet_26rpt", *args, **kwargs)


@_named_model
def LambdaResNet50TS(*args: Any, **kwargs: Any) -> keras.Model:
    return build_model("lambda_resnet_50ts", *args, **kwargs)
