"""Models for images of another size."""

import warnings

import keras

from lambda_keras.weights.resampling import resample_table


def resize_model(
    model: keras.Model, image_shape: tuple[int | None, ...]
) -> keras.Model:
    """Makes a functional model anew for images of another size.

    Args:
        model: The model.
        image_shape: Height, width and channels; None for any height or width.

    Returns:
        A model with the same weights, or `model` if it is of that shape.
        Tables of global receptive fields are resampled.

    Raises:
        ValueError: If its weights depend on the size of the images in another
            way, or if they do so and it is not known.

    Warns:
        UserWarning: If tables are resampled.
    """
    if tuple(model.input_shape[1:]) == tuple(image_shape):
        return model
    for layer in model.layers:
        # What it makes of another size may fit by chance.
        if isinstance(layer, (keras.layers.Flatten, keras.layers.Reshape)):
            raise ValueError(
                "`model` must be one whose weights fit images of any size, "
                f"without {layer.name}. Received: model={model.name}"
            )
    name = model.inputs[0].name
    try:
        resized = keras.models.clone_model(
            model, input_tensors=keras.Input(image_shape, name=name)
        )
        resized.set_weights(_fitting_weights(model, resized))
    except ValueError as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            "`model` must be one whose weights fit images of any size "
            f"({reason}). Received: model={model.name}, for images of shape "
            f"{tuple(model.input_shape[1:])}, and image_shape={image_shape}"
        ) from error
    return resized


def _fitting_weights(model, resized):
    arrays, of_other_sizes = [], []
    for weight, wanted in zip(model.weights, resized.weights, strict=True):
        array = keras.ops.convert_to_numpy(weight)
        is_table = weight.name == "position_embeddings"
        if is_table and array.shape != tuple(wanted.shape):
            array = resample_table(array, wanted.shape[:-2])
            of_other_sizes.append(weight.path)
        arrays.append(array)
    if of_other_sizes:
        warnings.warn(
            "Tables of relative positions were resampled for images of "
            f"another size: {', '.join(of_other_sizes)}.",
            stacklevel=3,
        )
    return arrays
