"""The builder of all residual networks: convolutions, lambdas, attention."""

import dataclasses
import importlib
import os
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import keras

from lambda_keras.layers import BatchNormalization
from lambda_keras.layers import Dropout
from lambda_keras.layers import LambdaLayer
from lambda_keras.layers import MaxPooling2D
from lambda_keras.layers import SelfAttention
from lambda_keras.layers import SqueezeExcite
from lambda_keras.layers import StochasticDepth
from lambda_keras.layers.contractions import check_implementation
from lambda_keras.layers.precision import wide_dtype
from lambda_keras.models.imagenet import normalization_layer
from lambda_keras.models.specs import ModelSpec
from lambda_keras.models.specs import get_spec


def build_model(
    spec: ModelSpec | str,
    include_top: bool = True,
    weights: str | os.PathLike[str] | None = None,
    input_shape: Sequence[int | None] | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: str | Callable | None = "softmax",
    name: str | None = None,
    *,
    include_preprocessing: bool = True,
    drop_path_rate: float | None = None,
    dropout_rate: float | None = None,
    sync_batch_norm: bool = False,
    width: int | None = None,
    implementation: str = "auto",
    dtype: Any = None,
) -> keras.Model:
    """Builds a model from its spec.

    The outputs of the stages are those of the layers named `c2` to `c5`, at
    strides 4, 8, 16 and 32 for the ImageNet models.

    Args:
        spec: The name of a model, or a `ModelSpec`.
        include_top: Whether to include the classifier.
        weights: `None` (random weights), `"imagenet"` for the models in
            `lambda_keras.weights.CHECKPOINTS`, or the path of a file of the
            same architecture: `.weights.h5`, `.keras`, or timm's
            `.safetensors`. With another number of classes the classifier
            starts anew. Tables of global receptive fields are resampled for
            images of another size, with a `UserWarning`.
        input_shape: The images' shape `(height, width, channels)`. Defaults
            to the spec's image size with the classifier and to unknown
            height and width without it, unless the weights depend on them.
        pooling: What to return without the classifier: `None` (the last
            feature map), `"avg"` or `"max"` (its mean or maximum over all
            positions).
        classes: The number of classes of the classifier.
        classifier_activation: The activation of the classifier; `None` gives
            logits.
        name: The name of the model. Defaults to the spec's.
        include_preprocessing: Whether the model normalizes its inputs, with
            values from 0 to 255. Without, they must have been through
            `preprocess_input`.
        drop_path_rate: The stochastic depth rate of the last stage. Defaults
            to the spec's.
        dropout_rate: The dropout rate before the classifier. Defaults to the
            spec's.
        sync_batch_norm: Whether batch statistics are those of the global
            batch, over all replicas.
        width: The number of channels inside the blocks of the first stage.
            Defaults to the spec's.
        implementation: How lambda layers contract; see `LambdaLayer`.
        dtype: The dtype policy of the layers. Defaults to the global one.
            Preprocessing, pooling and classifier compute in float32 at
            least. Under `"mixed_float16"` `compile` scales the loss; Keras
            does not save a model's own policy, so to go on training from a
            `.keras` file set the global policy before loading it.

    Returns:
        A `keras.Model`.

    Raises:
        ValueError: If an argument is out of its range, or the weights do not
            fit.
        OSError: If hosted weights cannot be downloaded.

    Example:

    >>> model = build_model("lambda_resnet_50", include_top=False)
    >>> features = keras.Model(model.input, model.get_layer("c4").output)
    >>> features.output.shape
    (None, None, None, 1024)
    """
    overrides: dict[str, Any] = {
        "drop_path_rate": drop_path_rate,
        "dropout_rate": dropout_rate,
        "width": width,
    }
    spec = dataclasses.replace(
        get_spec(spec) if isinstance(spec, str) else spec,
        **{key: value for key, value in overrides.items() if value is not None},
    )
    if keras.config.image_data_format() != "channels_last":
        raise ValueError(
            "The models compute with channels last: call "
            '`keras.config.set_image_data_format("channels_last")`. Received: '
            f"image_data_format={keras.config.image_data_format()!r}"
        )
    check_implementation(implementation)
    _check_head(pooling, classes, classifier_activation)
    if weights is not None:
        _weights_room().check_weights(weights, spec)
    input_shape = _standardize_input_shape(
        spec, input_shape, include_top, include_preprocessing
    )
    policy = keras.dtype_policies.get(dtype or keras.config.dtype_policy())
    # A sum over 1,000 classes needs more bits than half precision has.
    head_dtype = wide_dtype(policy.compute_dtype)

    inputs = keras.Input(input_shape, name="images")
    x = inputs
    if include_preprocessing:
        x = normalization_layer(spec.mean, spec.std, name="preprocessing")(x)
    x = _Backbone(spec, sync_batch_norm, implementation, policy)(x)
    if include_top:
        x = keras.layers.GlobalAveragePooling2D(
            dtype=head_dtype, name="avg_pool"
        )(x)
        x = Dropout(spec.dropout_rate, dtype=head_dtype, name="dropout")(x)
        x = keras.layers.Dense(
            classes,
            activation=classifier_activation,
            kernel_initializer=keras.initializers.RandomNormal(stddev=0.01),
            dtype=head_dtype,
            name="predictions",
        )(x)
    elif pooling:
        pool = {
            "avg": keras.layers.GlobalAveragePooling2D,
            "max": keras.layers.GlobalMaxPooling2D,
        }[pooling]
        x = pool(dtype=head_dtype, name=f"{pooling}_pool")(x)
    model = keras.Model(inputs, x, name=name or spec.name)
    # `compile` looks here to see whether float16 needs the loss scaled.
    model.dtype_policy = policy
    if weights is not None:
        _weights_room().load_weights(model, spec, weights)
    return model


def _weights_room():
    """Returns `lambda_keras.weights`, which itself is built on this room."""
    return importlib.import_module("lambda_keras.weights")


class _Backbone:
    """Stem and stages of a model, as layers of a functional graph."""

    def __init__(
        self,
        spec: ModelSpec,
        synchronized: bool,
        implementation: str,
        policy: keras.DTypePolicy,
    ):
        self.spec = spec
        self.synchronized = synchronized
        self.implementation = implementation
        self.policy = policy

    def __call__(self, x):
        x = self.stem(x)
        for stage, depth in enumerate(self.spec.depths):
            for index in range(depth):
                x = self.block(x, stage, index)
        return x

    def stem(self, x):
        for i, (part, kernel_size, stride) in enumerate(self.spec.stem):
            name = f"stem_conv{i}"
            filters = int(part * self.spec.width)
            x = self.conv(x, filters, kernel_size, stride, name)
            x = self.norm(x, f"{name}_norm")
            x = self.activation(x, f"{name}_activation")
        if self.spec.max_pool:
            x = MaxPooling2D(3, 2, dtype=self.policy, name="stem_pool")(x)
        return x

    def block(self, x, stage, index):
        """Adds a bottleneck block.

        A mixing layer sees the block's input resolution and is followed by
        the stride, as an average pool, and then by normalization and
        activation, like the convolution in whose place it stands.
        """
        spec = self.spec
        name = f"c{stage + 2}_block{index}"
        filters = spec.filters(stage)
        stride = spec.strides[stage] if index == 0 else 1
        mixes = index in spec.mixer_blocks[stage]

        y = self.conv(x, filters, 1, 1, f"{name}_conv1")
        y = self.norm(y, f"{name}_norm1")
        y = self.activation(y, f"{name}_activation1")
        if mixes:
            y = self.mix(y, filters, stride, f"{name}_{spec.mixer}")
        else:
            y = self.conv(y, filters, 3, stride, f"{name}_conv2")
        y = self.norm(y, f"{name}_norm2")
        y = self.activation(y, f"{name}_activation2")
        y = self.conv(y, 4 * filters, 1, 1, f"{name}_conv3")
        # Each block starts out as its shortcut.
        norm = self.norm_layer(f"{name}_norm3", gamma_initializer="zeros")
        if spec.se_ratio and not mixes:
            y = SqueezeExcite(
                spec.se_ratio,
                spec.activation,
                norm=norm,
                dtype=self.policy,
                name=f"{name}_se",
            )(y)
        else:
            y = norm(y)
        # Also where the rate is 0: Keras files weights by the order of layers,
        # and a file has to serve at any rate.
        y = StochasticDepth(
            spec.stage_drop_path_rate(stage),
            dtype=self.policy,
            name=f"{name}_drop_path",
        )(y)
        if index == 0:
            x = self.shortcut(x, 4 * filters, stride, f"{name}_shortcut")
        x = keras.layers.Add(dtype=self.policy, name=f"{name}_add")([x, y])
        is_last = index == spec.depths[stage] - 1
        return self.activation(
            x, f"c{stage + 2}" if is_last else f"{name}_activation3"
        )

    def shortcut(self, x, filters, stride, name):
        if stride > 1 and self.spec.average_pool_shortcut:
            # "same" averages what there is at the end of an odd size.
            x = keras.layers.AveragePooling2D(
                stride,
                padding="same",
                dtype=self.policy,
                name=f"{name}_pool",
            )(x)
            stride = 1
        x = self.conv(x, filters, 1, stride, f"{name}_conv")
        return self.norm(x, f"{name}_norm")

    def mix(self, x, filters, stride, name):
        layer = mixing_layer(
            self.spec,
            filters,
            implementation=self.implementation,
            synchronized=self.synchronized,
            dtype=self.policy,
            name=name,
        )
        x = layer(x)
        if stride > 1:
            size = self.spec.mixer_pool_size
            if size > stride:
                # The padding counts in the mean, as in the public ports.
                x = self.pad(x, size // 2, f"{name}_pad")
            x = keras.layers.AveragePooling2D(
                size,
                stride,
                # "same" averages what there is at the end of an odd size,
                # where timm's models fail.
                padding="valid" if size > stride else "same",
                dtype=self.policy,
                name=f"{name}_pool",
            )(x)
        return x

    def conv(self, x, filters, kernel_size, stride, name):
        if stride > 1 and kernel_size > 1:
            # "same" would pad even sizes at their end only, unlike other
            # frameworks, so their checkpoints would be half a pixel off.
            x = self.pad(x, kernel_size // 2, f"{name}_pad")
        return keras.layers.Conv2D(
            filters,
            kernel_size,
            strides=stride,
            padding="valid" if stride > 1 else "same",
            use_bias=False,
            kernel_initializer=keras.initializers.VarianceScaling(
                2.0, mode="fan_out", distribution="untruncated_normal"
            ),
            dtype=self.policy,
            name=name,
        )(x)

    def norm(self, x, name):
        return self.norm_layer(name)(x)

    def norm_layer(self, name, gamma_initializer="ones"):
        return BatchNormalization(
            momentum=self.spec.momentum,
            epsilon=self.spec.epsilon,
            gamma_initializer=gamma_initializer,
            synchronized=self.synchronized,
            dtype=self.policy,
            name=name,
        )

    def activation(self, x, name):
        return keras.layers.Activation(
            self.spec.activation, dtype=self.policy, name=name
        )(x)

    def pad(self, x, size, name):
        return keras.layers.ZeroPadding2D(size, dtype=self.policy, name=name)(x)


def mixing_layer(
    spec: ModelSpec,
    filters: int,
    implementation: str = "auto",
    synchronized: bool = False,
    **kwargs: Any,
) -> keras.Layer:
    """Makes the layer in the place of a 3x3 convolution.

    Args:
        spec: A spec with a mixer.
        filters: The number of output channels.
        implementation: How lambda layers contract; see `LambdaLayer`.
        synchronized: Whether batch statistics are those of all replicas.
        **kwargs: Base layer arguments, such as `name` and `dtype`.

    Returns:
        A `LambdaLayer` or `SelfAttention`.
    """
    if spec.mixer == "lambda":
        return LambdaLayer(
            filters,
            num_heads=spec.num_heads,
            key_dim=spec.key_dim,
            intra_depth=spec.intra_depth,
            receptive_field=spec.receptive_field,
            position_bias=spec.position_bias,
            implementation=implementation,
            epsilon=spec.epsilon,
            momentum=spec.momentum,
            synchronized=synchronized,
            **kwargs,
        )
    scope = spec.mixer.removesuffix("_attention")
    window = {"receptive_field": spec.receptive_field}
    return SelfAttention(
        filters,
        num_heads=spec.num_heads,
        key_dim=spec.key_dim,
        scope=scope,
        **(window if scope == "local" else {}),
        **kwargs,
    )


def _check_head(pooling, classes, classifier_activation):
    if pooling not in (None, "avg", "max"):
        raise ValueError(
            "`pooling` must be None, 'avg' or 'max'. "
            f"Received: pooling={pooling!r}"
        )
    if not isinstance(classes, int) or classes < 1:
        raise ValueError(
            "`classes` must be a positive integer. "
            f"Received: classes={classes!r}"
        )
    try:
        keras.activations.get(classifier_activation)
    except (TypeError, ValueError) as error:
        raise ValueError(
            "`classifier_activation` must be None or an activation of Keras. "
            f"Received: classifier_activation={classifier_activation!r}"
        ) from error


def _standardize_input_shape(
    spec, input_shape, include_top, include_preprocessing
):
    if input_shape is None:
        is_fixed = include_top or spec.needs_image_size
        size = spec.image_size if is_fixed else None
        return (size, size, len(spec.mean))
    input_shape = tuple(input_shape)
    if len(input_shape) != 3 or input_shape[-1] is None:
        raise ValueError(
            "`input_shape` must be `(height, width, channels)` with a known "
            f"number of channels. Received: input_shape={input_shape}"
        )
    *sizes, channels = input_shape
    if include_preprocessing and channels != len(spec.mean):
        raise ValueError(
            f"Preprocessing normalizes {len(spec.mean)} channels: pass "
            "`include_preprocessing=False` or a spec with another `mean` and "
            f"`std`. Received: input_shape={input_shape}"
        )
    if any(size is not None and size < spec.total_stride for size in sizes):
        raise ValueError(
            f"`input_shape` must be at least {spec.total_stride}x"
            f"{spec.total_stride}, which leaves one position in the last "
            f"stage. Received: input_shape={input_shape}"
        )
    if None in sizes and spec.needs_image_size:
        raise ValueError(
            f"The weights of `{spec.name}` depend on the height and width of "
            f"the images. Received: input_shape={input_shape}"
        )
    return input_shape
