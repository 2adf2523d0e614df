"""What a training run computes with: images, model, devices."""

import contextlib
import dataclasses
import math
import os
from collections.abc import Iterator
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
from lambda_keras.models import build_model
from lambda_keras.models import count_parameters
from lambda_keras.models import get_spec
from lambda_keras.training.optimization import build_optimizer
from lambda_keras.training.recipe import Recipe
from lambda_keras.training.specs import find_spec
from lambda_keras.training.strategy import Distribution
from lambda_keras.training.strategy import create_distribution
from lambda_keras.training.strategy import keep_gpus_from_tensorflow
from lambda_keras.weights.loading import check_weights
from lambda_keras.weights.loading import load_weights

# The layer that fine-tuning always trains.
CLASSIFIER = "predictions"
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

    @property
    def frozen_parameters(self) -> int:
        """The number of parameters that training leaves as they are."""
        trained = sum(
            math.prod(weight.shape) for weight in self.model.trainable_weights
        )
        return count_parameters(self.model) - trained

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
    if recipe.weights is not None:
        check_weights(recipe.weights, _changed(spec, recipe))
    shape = _image_shape(recipe, dataset, spec)
    with distribution.scope():
        model, fresh = _build(recipe, spec, shape, len(dataset.class_names))
        _compile(recipe, model, steps, len(dataset.class_names))
    return Prepared(
        recipe=recipe,
        dataset=dataset,
        model=model,
        distribution=distribution,
        preprocessing=_preprocessing(recipe, dataset, spec, shape),
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


def _preprocessing(recipe, dataset, spec, shape):
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
        crop=spec.crop,
        interpolation=spec.interpolation,
        dtype=recipe.image_dtype,
        **shared,
    )


def _build(recipe, spec, shape, classes):
    spec = _changed(spec, recipe)
    model = build_model(
        spec,
        input_shape=shape,
        classes=classes,
        drop_path_rate=recipe.drop_path_rate,
        dropout_rate=recipe.dropout_rate,
        sync_batch_norm=recipe.sync_batch_norm,
    )
    fresh: tuple[str, ...] = ()
    if recipe.weights is not None:
        fresh = load_weights(model, spec, recipe.weights, strict=False)
    if recipe.freeze == "backbone":
        others = [name for name in fresh if name != CLASSIFIER]
        if others:
            # As they are, they would be random for good.
            raise ValueError(
                "`freeze` must be nothing where the weights do not fit all of "
                f"the backbone. Received: freeze=backbone, weights="
                f"{recipe.weights}, without {', '.join(others)}"
            )
        freeze_backbone(model)
    return model, fresh


def _changed(spec, recipe):
    changes = {"momentum": recipe.batch_norm_momentum, "width": recipe.width}
    return dataclasses.replace(
        spec,
        **{key: value for key, value in changes.items() if value is not None},
    )


def freeze_backbone(model: keras.Model) -> None:
    """Leaves nothing but the classifier for training to change.

    Batch normalization then uses its moving statistics and keeps them.

    Args:
        model: A model whose classifier is its layer `predictions`.
    """
    for layer in model.layers:
        layer.trainable = layer.name == CLASSIFIER


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
