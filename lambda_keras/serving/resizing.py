"""Models for images of another size."""

import keras


def resize_model(
    model: keras.Model, image_shape: tuple[int | None, ...]
) -> keras.Model:
    """Makes a functional model anew for images of another size.

    Args:
        model: The model.
        image_shape: Height, width and channels; None for any height or width.

    Returns:
        A model with the same weights, or `model` if it is of that shape.

    Raises:
        ValueError: If its weights depend on the size of the images, as those
            of global receptive fields do.
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
        resized.set_weights(model.get_weights())
    except ValueError as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            "`model` must be one whose weights fit images of any size "
            f"({reason}). Received: model={model.name}, for images of shape "
            f"{tuple(model.input_shape[1:])}, and image_shape={image_shape}"
        ) from error
    return resized
