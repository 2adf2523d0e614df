"""Models that compute in another precision with the same weights."""

from typing import Any

import keras

# The dtype policy that a SavedModel of each precision has.
_POLICIES = {
    "float32": "float32",
    "bfloat16": "mixed_bfloat16",
    "float16": "mixed_float16",
}
SAVED_MODEL_PRECISIONS = tuple(_POLICIES)

# What half precision would cost levels of grey.
_PREPROCESSING = (
    keras.layers.InputLayer,
    keras.layers.Rescaling,
    keras.layers.Normalization,
)
_POOLING = (
    keras.layers.GlobalAveragePooling1D,
    keras.layers.GlobalAveragePooling2D,
    keras.layers.GlobalAveragePooling3D,
    keras.layers.GlobalMaxPooling1D,
    keras.layers.GlobalMaxPooling2D,
    keras.layers.GlobalMaxPooling3D,
)
_HALF = ("bfloat16", "float16")


def cast_model(model: keras.Model, precision: str) -> keras.Model:
    """Makes a functional model anew that computes in another precision.

    As in `build_model(dtype=...)`, preprocessing, and what comes from the last
    global pooling on, compute in float32 at least; without a pooling that is
    the last layer. Weights stay float32.

    Args:
        model: A functional or sequential model, of any precision.
        precision: One of `SAVED_MODEL_PRECISIONS`.

    Returns:
        A model with the same weights, or `model` if it is of that precision.

    Raises:
        ValueError: If there is no such precision, or the model is not
            functional.

    Example:

    >>> model = build_model("lambda_resnet_tiny")
    >>> cast_model(model, "bfloat16").get_layer("c5").compute_dtype
    'bfloat16'
    """
    if precision not in _POLICIES:
        raise ValueError(
            f"`precision` must be one of: {', '.join(_POLICIES)}. "
            f"Received: precision={precision}"
        )
    policy = _POLICIES[precision]
    body = _body(model)

    def wanted(layer):
        return policy if layer.name in body else None

    if all(_has_policy(layer, wanted(layer)) for layer in model.layers):
        return model

    def clone(layer):
        config = layer.get_config()
        if not _has_policy(layer, wanted(layer)):
            config = _with_policy(config, wanted(layer) or "float32")
        return type(layer).from_config(config)

    try:
        cast = keras.models.clone_model(model, clone_function=clone)
    except ValueError as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            "`model` must be one whose layers can be made anew with another "
            f"precision ({reason}). Received: model={model.name}, "
            f"precision={precision}"
        ) from error
    cast.set_weights(model.get_weights())
    return cast


def _body(model):
    """Returns the names of the layers between preprocessing and head."""
    layers = model.layers
    pooled = [
        index
        for index, layer in enumerate(layers)
        if isinstance(layer, _POOLING)
    ]
    end = pooled[-1] if pooled else len(layers) - 1
    return {
        layer.name
        for layer in layers[:end]
        if not isinstance(layer, _PREPROCESSING)
    }


def _has_policy(layer, policy):
    """Compares with a policy; None stands for float32 at least."""
    if isinstance(layer, keras.Model):
        # Its own policy says nothing of the layers in it.
        return all(_has_policy(inner, policy) for inner in layer.layers)
    if policy is None or isinstance(layer, _PREPROCESSING):
        return layer.compute_dtype not in _HALF
    return layer.dtype_policy.name == policy


def _with_policy(value: Any, policy: str) -> Any:
    """Changes the dtype policies in a configuration, and in those inside."""
    if isinstance(value, (list, tuple)):
        return type(value)(_with_policy(item, policy) for item in value)
    if not isinstance(value, dict):
        return value
    kind = value.get("class_name")
    if kind in ("__keras_tensor__", "InputLayer"):
        return value
    if kind in {layer.__name__ for layer in _PREPROCESSING}:
        policy = "float32"
    return {
        key: policy if key == "dtype" else _with_policy(item, policy)
        for key, item in value.items()
    }
