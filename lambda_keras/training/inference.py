"""A trained model beside the images that it is to be run on."""

import contextlib
import dataclasses
import math
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from lambda_keras.data.bad_images import BadImages
from lambda_keras.data.dataset import AnySplit
from lambda_keras.data.dataset import RecordSplit
from lambda_keras.data.dataset import Split
from lambda_keras.data.pipeline import evaluation_batches
from lambda_keras.data.preprocessing import Preprocessing
from lambda_keras.data.sources import load_split
from lambda_keras.models.imagenet import evaluation_crop
from lambda_keras.training.predictor import MakeBatches
from lambda_keras.training.predictor import Predictor
from lambda_keras.training.predictor import load_predictor
from lambda_keras.training.settings import InferenceSettings
from lambda_keras.training.strategy import Distribution
from lambda_keras.training.strategy import create_distribution
from lambda_keras.training.strategy import keep_gpus_from_tensorflow


@dataclasses.dataclass(frozen=True)
class Inference:
    """Everything that predictions are computed with.

    Args:
        predictor: The model.
        distribution: The devices.
        split: The images.
        class_names: One name per class; empty where they are not known.
        preprocessing: What is done to an image.
        batch_size: Images per step, over all devices.
        bad_images: Counts what cannot be read.
    """

    predictor: Predictor
    distribution: Distribution
    split: AnySplit
    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    batch_size: int
    bad_images: BadImages

    def batches(self, split: AnySplit) -> MakeBatches:
        """Makes the batches of the split or of a part of it."""
        return lambda shard: evaluation_batches(
            split,
            self.preprocessing,
            self.batch_size,
            self.predictor.num_classes,
            shard=shard,
            bad_images=self.bad_images,
        )

    def steps(self, split: AnySplit) -> int:
        """Counts those batches; the last one is padded."""
        return math.ceil(len(split) / self.batch_size)

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Raises, for what ends a pipeline in the block, the reason for it."""
        try:
            yield
        except tf.errors.OpError:
            self.bad_images.check()
            raise


def is_labelled(split: AnySplit) -> bool:
    """Looks whether images have labels: all, or of records the first one."""
    if not isinstance(split, RecordSplit):
        # Soft labels are two-dimensional, and have no -1.
        return bool(np.all(split.labels >= 0))
    records = split.ranges[0]
    first = tf.data.TFRecordDataset(records.path).skip(records.first).take(1)
    # A broken one is for the pipeline to tell.
    for record in first.ignore_errors():
        parsed = split.parse(record)
        soft = parsed.get("probabilities")
        return bool(parsed["label"] >= 0 or (soft is not None and len(soft)))
    return True


def prepare(
    settings: InferenceSettings, labels: int | None = None
) -> Inference:
    """Finds the devices, the images and the model; writes nothing.

    Args:
        settings: What to run on what.
        labels: Of a data set that is used with that many labels only, for the
            split of its other images.

    Returns:
        An `Inference`.

    Raises:
        ValueError: If there is no such model or split, or if they do not fit
            each other or the devices.
    """
    distribution = create_distribution(**settings.device_arguments())
    distribution.check(settings.batch_size)
    keep_gpus_from_tensorflow()
    split, class_names = load_split(
        settings.dataset,
        settings.split,
        data_dir=settings.data_dir,
        labels=labels,
    )
    size = settings.image_size
    if isinstance(split, Split):
        shape = split.images.shape[1:]
        if size not in (None, shape[0]):
            raise ValueError(
                f"`image_size` must be left out for {settings.dataset}, whose "
                f"images are as they are. Received: image_size={size}"
            )
    else:
        shape = (size, size, 3)
    predictor = load_predictor(
        settings.model,
        distribution,
        shape,
        class_names,
        architecture=settings.architecture,
        raw_weights=settings.raw_weights,
    )
    if not isinstance(split, Split):
        size = size or predictor.image_shape[0]
        if size is None:
            raise ValueError(
                "`image_size` must be given for a model that takes images of "
                f"any size. Received: model={predictor.path}"
            )
    crop, interpolation = evaluation_crop(predictor.name)
    return Inference(
        predictor=predictor,
        distribution=distribution,
        split=split,
        class_names=tuple(class_names) or predictor.class_names,
        preprocessing=Preprocessing(
            image_size=None if isinstance(split, Split) else size,
            crop=crop,
            interpolation=interpolation,
        ),
        batch_size=settings.batch_size,
        bad_images=BadImages(
            len(split),
            settings.max_bad_images,
            is_remote=distribution.is_remote,
        ),
    )
