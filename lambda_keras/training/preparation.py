"""What a training run computes with: images, model, devices."""

import contextlib
import dataclasses
import difflib
import math
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from lambda_keras.data.bad_images import BadImages
from lambda_keras.data.dataset import AnySplit
from lambda_keras.data.dataset import ImageDataset
from lambda_keras.data.dataset import Shard
from lambda_keras.data.pipeline import evaluation_batches
from lambda_keras.data.pipeline import mixed_sizes
from lambda_keras.data.pipeline import mixed_training_batches
from lambda_keras.data.pipeline import steps_per_epoch
from lambda_keras.data.pipeline import training_batches
from lambda_keras.data.preprocessing import Preprocessing
from lambda_keras.data.sources import load_dataset
from lambda_keras.data.sources import load_split
from lambda_keras.models import MODEL_SPECS
from lambda_keras.models import ModelSpec
from lambda_keras.models import build_model
from lambda_keras.models import get_spec
from lambda_keras.training.optimization import build_optimizer
from lambda_keras.training.recipe import Recipe
from lambda_keras.training.strategy import Distribution
from lambda_keras.training.strategy import create_distribution
from lambda_keras.training.strategy import keep_gpus_from_tensorflow

# With as many classes, one guess says little about a model.
TOP_5_FROM = 20


@dataclasses.dataclass(frozen=True)
class Prepared:
    """Everything that a run computes with; nothing is written yet.

    Args:
        recipe: The settings.
        dataset: The images.
        model: The compiled model.
        distribution: The devices.
        preprocessing: What is done to an image.
        steps: The number of steps in an epoch.
        bad_images: By split, what cannot be read.
        pseudo: The images with pseudo-labels, if there are any.
        fresh: The names of the layers that `recipe.weights` did not fit.
    """

    recipe: Recipe
    dataset: ImageDataset
    model: keras.Model
    distribution: Distribution
    preprocessing: Preprocessing
    steps: int
    bad_images: dict[str, BadImages]
    pseudo: AnySplit | None = None
    fresh: tuple[str, ...] = ()

    def training_data(self, start_step: int) -> Any:
        """The endless training batches from a step of the run on."""
        recipe = self.recipe

        def make(shard):
            common = {
                "preprocessing": self.preprocessing,
                "batch_size": recipe.batch_size,
                "num_classes": len(self.dataset.class_names),
                "seed": recipe.seed,
                "start_step": start_step,
                "shard": shard,
                "bad_images": self.bad_images["train"],
            }
            if self.pseudo is None:
                return training_batches(self.dataset.train, **common)
            return mixed_training_batches(
                self.dataset.train,
                self.pseudo,
                pseudo_share(recipe),
                other_bad_images=self.bad_images["pseudo"],
                **common,
            )

        return self.distribution.distribute(make)

    def evaluation_steps(self, name: str) -> int:
        """The number of those batches, which Keras cannot always tell."""
        return math.ceil(
            len(getattr(self.dataset, name)) / self.recipe.batch_size
        )

    def count_images(self) -> dict[str, int]:
        """The number of images by split."""
        return {
            split: bad_images.count
            for split, bad_images in self.bad_images.items()
        }

    def bad_names(self) -> dict[str, list[str]]:
        """What could not be read so far, by split."""
        return {
            split: list(bad_images.names)
            for split, bad_images in self.bad_images.items()
        }

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Lets too many bad images end a block with the error about them.

        What TensorFlow raises says the same less clearly.

        Raises:
            BadImagesError: If that is why the block failed.
        """
        try:
            yield
        except Exception:
            for bad_images in self.bad_images.values():
                bad_images.check()
            raise

    def evaluation_data(self, name: str) -> Any:
        """One pass over the split `validation` or `test`."""
        return self.distribution.distribute(
            lambda shard: evaluation_batches(
                getattr(self.dataset, name),
                self.preprocessing,
                self.recipe.batch_size,
                len(self.dataset.class_names),
                shard=shard,
                bad_images=self.bad_images[name],
            )
        )


def prepare(recipe: Recipe) -> Prepared:
    """Loads the data and builds the compiled model; writes nothing.

    Args:
        recipe: The settings. Sets Keras' random seed and dtype policy.

    Returns:
        A `Prepared`.

    Raises:
        ValueError: If the recipe names an unknown model or data set, or if
            they do not fit each other, the batch size or the devices.
    """
    distribution = create_distribution(**recipe.device_arguments())
    distribution.check(recipe.batch_size, recipe.steps_per_execution)
    _set_engine_up(recipe)
    dataset = load_dataset(
        recipe.dataset, data_dir=recipe.data_dir, labels=recipe.labels
    )
    if len(dataset.class_names) < 2:
        raise ValueError(
            "`dataset` must have at least two classes. Received: "
            f"dataset={recipe.dataset} with {', '.join(dataset.class_names)}"
        )
    pseudo = _load_pseudo_labels(recipe, dataset)
    steps = _count_steps(recipe, dataset, pseudo, distribution)
    if steps % recipe.steps_per_execution:
        raise ValueError(
            f"`steps_per_execution` must divide {steps}, the number of steps "
            "of an epoch. Received: "
            f"steps_per_execution={recipe.steps_per_execution}"
        )
    spec = find_spec(recipe.model, dataset.image_shape[-1], dataset.name)
    shape = _image_shape(recipe, dataset, spec)
    with distribution.scope():
        model, fresh = _build(recipe, spec, shape, len(dataset.class_names))
        _compile(recipe, model, steps, len(dataset.class_names))
    return Prepared(
        recipe=recipe,
        dataset=dataset,
        model=model,
        distribution=distribution,
        preprocessing=_preprocessing(recipe, dataset, shape),
        steps=steps,
        bad_images={
            name: BadImages(
                len(split),
                recipe.max_bad_images,
                is_remote=distribution.is_remote,
            )
            for name, split in {
                "train": dataset.train,
                "validation": dataset.validation,
                "test": dataset.test,
                **({} if pseudo is None else {"pseudo": pseudo}),
            }.items()
        },
        pseudo=pseudo,
        fresh=fresh,
    )


def pseudo_share(recipe: Recipe) -> float:
    """The part of every batch that has pseudo-labels, if any has."""
    return 0.5 if recipe.pseudo_share is None else recipe.pseudo_share


def _load_pseudo_labels(recipe, dataset):
    if recipe.pseudo is None:
        return None
    pseudo, class_names = load_split(f"tfrecord:{recipe.pseudo}", "train")
    # Images without labels, as they mostly are, come without names too.
    if class_names and tuple(class_names) != tuple(dataset.class_names):
        raise ValueError(
            f"`pseudo` must have the {len(dataset.class_names)} classes of "
            f"{dataset.name}. Received: pseudo={recipe.pseudo} with "
            f"{len(class_names)} classes, {', '.join(class_names[:3])}, ..."
        )
    return pseudo


def _count_steps(recipe, dataset, pseudo, distribution):
    """Counts the steps in a pass over the images with their own labels."""
    labelled = recipe.batch_size
    if pseudo is not None:
        shard = Shard(pieces=distribution.num_parts)
        labelled, _ = mixed_sizes(labelled, pseudo_share(recipe), shard)
    return steps_per_epoch(dataset.train, labelled)


def _set_engine_up(recipe):
    keras.utils.set_random_seed(recipe.seed)
    # The model's own policy would not be saved with it.
    keras.config.set_dtype_policy(recipe.precision)
    keep_gpus_from_tensorflow()
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        if recipe.deterministic:
            tf.config.experimental.enable_op_determinism()
        return
    import jax

    flag = "--xla_gpu_deterministic_ops=true"
    if (
        recipe.deterministic
        and jax.default_backend() == "gpu"
        and flag not in os.environ.get("XLA_FLAGS", "")
    ):
        raise ValueError(
            "`deterministic` needs the environment variable "
            f"XLA_FLAGS={flag} for JAX on a GPU. Received: deterministic=True"
        )


def find_spec(name: str, channels: int, like: str = "these") -> ModelSpec:
    """Looks up the spec of a model for images with that many channels.

    The models for images of one channel take others too; their preprocessing
    is then the same for all channels.

    Args:
        name: The name of a model.
        channels: The number of channels.
        like: What the images are called, for the error.

    Returns:
        A `ModelSpec`.

    Raises:
        ValueError: If there is no such model for such images.

    Example:

    >>> find_spec("resnet_tiny", 3).mean
    (0.5, 0.5, 0.5)
    """
    fitting = {
        spec.name: spec
        for spec in MODEL_SPECS.values()
        if len(spec.mean) in (1, channels)
    }
    try:
        spec = fitting[get_spec(name).name]
    except (ValueError, KeyError):
        names = list(fitting)
        if len(names) > 5:
            near = difflib.get_close_matches(name, names, n=3, cutoff=0.0)
            names = [*near, "..."]
        raise ValueError(
            f"`model` must be one of those for images like {like}: "
            f"{', '.join(names)}. Received: model={name}"
        ) from None
    if len(spec.mean) == channels:
        return spec
    return dataclasses.replace(
        spec, mean=spec.mean * channels, std=spec.std * channels
    )


def _image_shape(recipe, dataset, spec):
    height, width, channels = dataset.image_shape
    if height is None:
        if recipe.image_size is None and spec != get_spec(spec.name):
            raise ValueError(
                f"`image_size` must be given for {spec.name}, which is made "
                "for smaller images. Received: image_size=None"
            )
        size = recipe.image_size or spec.image_size
        return size, size, channels
    if recipe.image_size not in (None, height):
        raise ValueError(
            f"`image_size` must be left out for {dataset.name}, whose images "
            f"are as they are. Received: image_size={recipe.image_size}"
        )
    return height, width, channels


def _preprocessing(recipe, dataset, shape):
    is_encoded = dataset.image_shape[0] is None
    shared = {
        name: getattr(recipe, name)
        for name in (
            "crop_area_min",
            "flip",
            "randaugment_layers",
            "randaugment_magnitude",
            "mixup_alpha",
            "cutmix_alpha",
        )
    }
    return Preprocessing(
        image_size=shape[0] if is_encoded else None,
        affine=dataset.augmentation,
        dtype=recipe.image_dtype,
        **shared,
    )


def _build(recipe, spec, shape, classes):
    if recipe.batch_norm_momentum is not None:
        spec = dataclasses.replace(spec, momentum=recipe.batch_norm_momentum)
    model = build_model(
        spec,
        input_shape=shape,
        classes=classes,
        drop_path_rate=recipe.drop_path_rate,
        dropout_rate=recipe.dropout_rate,
        sync_batch_norm=recipe.sync_batch_norm,
    )
    if recipe.weights is None:
        return model, ()
    return model, load_fitting_weights(model, recipe.weights)


def load_fitting_weights(
    model: keras.Model, path: str | os.PathLike[str]
) -> tuple[str, ...]:
    """Loads the weights of those layers whose shapes a file has.

    Args:
        model: The model.
        path: A `.keras` or `.weights.h5` file of the same architecture.

    Returns:
        The names of the layers that keep their random weights.

    Raises:
        ValueError: If there is no such file, or if it fits no layer.
    """
    path = Path(path).expanduser()
    if not path.is_file() or not path.name.endswith((".keras", ".weights.h5")):
        raise ValueError(
            "`weights` must be a .keras or .weights.h5 file that exists. "
            f"Received: weights={path}"
        )
    layers = [layer for layer in model.layers if layer.trainable_variables]
    before = [layer.get_weights() for layer in layers]
    try:
        with warnings.catch_warnings():
            # Keras warns of what is returned here, and of more.
            warnings.simplefilter("ignore")
            model.load_weights(path, skip_mismatch=True)
    except Exception as error:
        # From HDF5, zip or Keras, by what is wrong with the file.
        raise ValueError(
            f"`weights` cannot be read ({error}). Received: weights={path}"
        ) from error
    fresh = tuple(
        layer.name
        for layer, old in zip(layers, before)
        if all(map(np.array_equal, layer.get_weights(), old))
    )
    if len(fresh) == len(layers):
        raise ValueError(
            f"`weights` must be of {model.name}: no layer has the shapes of "
            f"those in the file. Received: weights={path}"
        )
    return fresh


def _compile(recipe, model, steps, classes):
    metrics = [keras.metrics.CategoricalAccuracy(name="accuracy")]
    if classes > TOP_5_FROM:
        metrics.append(
            keras.metrics.TopKCategoricalAccuracy(5, name="top_5_accuracy")
        )
    model.compile(
        optimizer=build_optimizer(recipe, steps),
        loss=keras.losses.CategoricalCrossentropy(
            label_smoothing=recipe.label_smoothing
        ),
        # Padding and images that cannot be read have the weight 0.
        weighted_metrics=metrics,
        steps_per_execution=recipe.steps_per_execution,
    )
    # With every variable made here, the first step is traced once: one that
    # makes variables is traced again without.
    model.optimizer.build(model.trainable_variables)
    # Keras does this in the first step, but a run that goes on within an epoch
    # has to restore their state before that.
    outputs = np.zeros((1, classes), "float32")
    for metric in model.metrics:
        if hasattr(metric, "build"):
            metric.build(outputs, outputs)
