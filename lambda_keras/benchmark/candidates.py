"""The models that are compared, by name and image size."""

import dataclasses
import difflib
import importlib
import os
import sys

import keras

from lambda_keras.layers import Dropout
from lambda_keras.layers.precision import wide_dtype
from lambda_keras.models import MODEL_SPECS
from lambda_keras.models import build_model
from lambda_keras.models import get_spec
from lambda_keras.models.imagenet import normalization_layer
from lambda_keras.models.specs import IMAGENET_MEAN
from lambda_keras.models.specs import IMAGENET_STD

CLASSES = 1000

# The function of `keras.applications`, the image size that the model was made
# for and the rate of dropout before its classifier. B0 to B7: Tan and Le
# (arXiv 1905.11946), as `keras.applications` has them.
EFFICIENTNETS = {
    "efficientnet_b0": ("EfficientNetB0", 224, 0.2),
    "efficientnet_b1": ("EfficientNetB1", 240, 0.2),
    "efficientnet_b2": ("EfficientNetB2", 260, 0.3),
    "efficientnet_b3": ("EfficientNetB3", 300, 0.3),
    "efficientnet_b4": ("EfficientNetB4", 380, 0.4),
    "efficientnet_b5": ("EfficientNetB5", 456, 0.4),
    "efficientnet_b6": ("EfficientNetB6", 528, 0.5),
    "efficientnet_b7": ("EfficientNetB7", 600, 0.5),
    "efficientnet_v2_b0": ("EfficientNetV2B0", 224, 0.2),
    "efficientnet_v2_b1": ("EfficientNetV2B1", 240, 0.2),
    "efficientnet_v2_b2": ("EfficientNetV2B2", 260, 0.2),
    "efficientnet_v2_b3": ("EfficientNetV2B3", 300, 0.2),
    "efficientnet_v2_s": ("EfficientNetV2S", 384, 0.2),
    "efficientnet_v2_m": ("EfficientNetV2M", 480, 0.2),
    "efficientnet_v2_l": ("EfficientNetV2L", 480, 0.2),
}


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A model at an image size, of 1,000 classes unless it is your own.

    Our models and EfficientNets take pixels from 0 to 255, normalize them by
    the same layer in float32, and pool and classify in float32 at least;
    dropout and stochastic depth are each model's own. A function's model is
    taken as it is.

    Attributes:
        name: A name of `MODEL_SPECS` or `EFFICIENTNETS`, or
            `module:function`, a function that takes `input_shape` and returns
            a Keras model.
        image_size: Height and width of the images.

    Example:

    >>> str(find_candidate("LambdaResNet50@160"))
    'lambda_resnet_50@160'
    """

    name: str
    image_size: int

    def __str__(self) -> str:
        return f"{self.name}@{self.image_size}"

    @property
    def family(self) -> str:
        """`"LambdaResNet"`, `"EfficientNet"` or `"other"`."""
        if self.name in EFFICIENTNETS:
            return "EfficientNet"
        if self.name in MODEL_SPECS and get_spec(self.name).mixer == "lambda":
            return "LambdaResNet"
        return "other"

    def build(self, precision: str = "float32") -> keras.Model:
        """Builds the model.

        Args:
            precision: The dtype policy, as `"mixed_bfloat16"`.

        Returns:
            A `keras.Model` that gives probabilities.

        Raises:
            ValueError: If the function of `name` returns no Keras model.
        """
        size = (self.image_size, self.image_size)
        if self.name in MODEL_SPECS:
            # Those for digits take one channel.
            shape = (*size, len(get_spec(self.name).mean))
            return build_model(self.name, input_shape=shape, dtype=precision)
        shape = (*size, 3)
        # These functions know the global policy alone.
        policy = keras.config.dtype_policy()
        keras.config.set_dtype_policy(precision)
        try:
            if self.name in EFFICIENTNETS:
                return _build_efficientnet(self.name, shape)
            model = _find_function(self.name)(input_shape=shape)
        finally:
            keras.config.set_dtype_policy(policy)
        if not isinstance(model, keras.Model) or len(model.output_shape) != 2:
            raise ValueError(
                f"`{self.name}` must return a keras.Model with outputs of "
                f"shape (batch, classes). Received: {model!r}"
            )
        return model


def find_candidate(text: str, imports: bool = True) -> Candidate:
    """Reads `MODEL` or `MODEL@SIZE`.

    Args:
        text: The name of one of our models or of an EfficientNet of
            `keras.applications` (case and underscores are ignored), or
            `module:function`; then the image size, which for a function there
            must be.
        imports: Whether to look for the function, which imports a module that
            may take hold of an accelerator.

    Returns:
        A `Candidate`.

    Raises:
        ValueError: If there is no such model, or the size is not positive.
    """
    name, at, size = text.partition("@")
    if at and not (size.isdecimal() and int(size)):
        raise ValueError(
            "The image size after @ must be an integer above 0. "
            f"Received: model={text}"
        )
    if ":" in name:
        if not at:
            raise ValueError(
                "A model of your own needs an image size, as "
                f"{name}@224. Received: model={text}"
            )
        if imports:
            _find_function(name)
        return Candidate(name, int(size))
    names = {_key(known): known for known in (*MODEL_SPECS, *EFFICIENTNETS)}
    if _key(name) not in names:
        closest = difflib.get_close_matches(_key(name), names, cutoff=0)
        raise ValueError(
            "Expected a model of lambda_keras, an EfficientNet of "
            "keras.applications or module:function. The closest are "
            f"{', '.join(names[key] for key in closest)}. "
            f"Received: model={text}"
        )
    name = names[_key(name)]
    if not at:
        known = EFFICIENTNETS.get(name)
        return Candidate(name, known[1] if known else get_spec(name).image_size)
    return Candidate(name, int(size))


def _key(name):
    return name.lower().replace("_", "")


def _find_function(name):
    module, _, function = name.partition(":")
    if os.getcwd() not in sys.path:
        # As `python -m` has it; an installed command has not.
        sys.path.insert(0, os.getcwd())
    try:
        return getattr(importlib.import_module(module), function)
    # It is someone else's program: anything may be wrong with it.
    except Exception as error:
        raise ValueError(
            "Expected module:function that can be imported "
            f"({type(error).__name__}: {error}). Received: model={name}"
        ) from error


def _build_efficientnet(name, shape):
    function, _, dropout_rate = EFFICIENTNETS[name]
    backbone = getattr(keras.applications, function)(
        include_top=False, weights=None, input_shape=shape
    )
    # Its own preprocessing would compute in half precision under such a
    # policy, and so would its head, where those of our models do not.
    preprocessing = [
        layer
        for layer in backbone.layers
        if isinstance(
            layer, (keras.layers.Rescaling, keras.layers.Normalization)
        )
    ]
    body = keras.Model(preprocessing[-1].output, backbone.output, name="body")
    policy = keras.config.dtype_policy()
    head_dtype = wide_dtype(policy.compute_dtype)
    inputs = keras.Input(shape, dtype="float32", name="images")
    x = normalization_layer(IMAGENET_MEAN, IMAGENET_STD)(inputs)
    x = body(x)
    x = keras.layers.GlobalAveragePooling2D(dtype=head_dtype)(x)
    x = Dropout(dropout_rate, dtype=head_dtype)(x)
    x = keras.layers.Dense(
        CLASSES, activation="softmax", dtype=head_dtype, name="predictions"
    )(x)
    return keras.Model(inputs, x, name=name)
