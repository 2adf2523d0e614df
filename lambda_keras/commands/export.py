"""`lambda-keras export`: from a checkpoint to what servers run."""

import contextlib
import shlex

import numpy as np
import tensorflow as tf

from lambda_keras.commands import FAILED
from lambda_keras.commands import CommandError
from lambda_keras.commands import program
from lambda_keras.commands.progress import progress
from lambda_keras.data.bad_images import BadImages
from lambda_keras.data.crop import CENTER
from lambda_keras.data.dataset import RecordSplit
from lambda_keras.data.dataset import Split
from lambda_keras.data.pipeline import load_examples
from lambda_keras.data.preprocessing import Preprocessing
from lambda_keras.data.sources import load_split
from lambda_keras.models import count_parameters
from lambda_keras.models import get_spec
from lambda_keras.models.imagenet import CLASSES
from lambda_keras.models.imagenet import imagenet_class_names
from lambda_keras.serving.check import CheckReport
from lambda_keras.serving.check import check_version
from lambda_keras.serving.export import DESCRIPTION
from lambda_keras.serving.export import export_version
from lambda_keras.serving.formats import FORMATS
from lambda_keras.serving.formats import FormatError
from lambda_keras.serving.images import AUTO
from lambda_keras.serving.images import choose_preprocessing
from lambda_keras.serving.resizing import resize_model
from lambda_keras.serving.saved_model import SavedModelError
from lambda_keras.serving.settings import ExportSettings
from lambda_keras.serving.signatures import IMAGE_BYTES
from lambda_keras.serving.signatures import IMAGES
from lambda_keras.serving.signatures import UINT8_IMAGES
from lambda_keras.serving.signatures import check_classifier
from lambda_keras.serving.versions import SAVED_MODEL_FILE
from lambda_keras.training.model_files import FILES
from lambda_keras.training.model_files import expand
from lambda_keras.training.model_files import find_model
from lambda_keras.training.model_files import load_model
from lambda_keras.training.predictor import show_some
from lambda_keras.training.strategy import hide_gpus
from lambda_keras.training.trained_run import find_run
from lambda_keras.weights import CHECKPOINTS

CHECK_BATCH_SIZE = 32


def run(settings: ExportSettings) -> None:
    """Exports, checks where asked to, and prints what is there.

    Args:
        settings: The settings.
    """
    # What is exported does not depend on it, and it may be in use.
    hide_gpus()
    reports: list[CheckReport] = []
    try:
        directory = expand(settings.output_dir, "output_dir")
        path = find_model(settings.model, settings.architecture)
        trained = find_run(path)
        split, class_names = _load_split(settings, trained)
        model, known_names = _load_model(settings, path, split)
        class_names = _choose_names(settings, model, known_names, class_names)
        preprocessing = _choose_preprocessing(settings, model, trained)
        if settings.dynamic_size:
            model = resize_model(model, (None, None, model.input_shape[-1]))
        images = _load_images(settings, split, model, preprocessing)
        with progress() as tell:

            def check(version):
                reports.append(
                    check_version(
                        version, model, images.images, images.labels, tell
                    )
                )

            version = export_version(
                model,
                directory,
                preprocessing=preprocessing,
                class_names=class_names,
                version=settings.version,
                top_k=settings.top_k,
                formats=settings.format_names,
                precision=settings.precision,
                warm_up=settings.warm_up,
                check=check if settings.checks else None,
                tell=tell,
            )
    except (ValueError, FileExistsError, PermissionError) as error:
        raise CommandError(error) from None
    # Of files, a full disk; TensorFlow has errors of its own for that.
    except (OSError, tf.errors.OpError, FormatError, SavedModelError) as error:
        raise CommandError(error, status=FAILED) from None
    _print(settings, model, class_names, preprocessing, version, reports)


def _load_split(settings, run):
    name, data_dir = settings.dataset, settings.data_dir
    if name is None and settings.checks and run:
        name, data_dir = run.dataset, data_dir or run.data_dir
    if name is None:
        return None, ()
    return load_split(name, settings.split, data_dir=data_dir)


def _load_model(settings, path, split):
    if path.is_dir():
        raise ValueError(
            "`model` must be what a SavedModel can be made from: a run "
            f"directory, or a file that ends in {', '.join(FILES[:-1])} or "
            f"{FILES[-1]}. Received: model={path}"
        )
    size = settings.image_size
    channels = None  # Other files say it.
    if settings.architecture is not None:
        channels = _count_channels(settings, split)
    model, known_names = load_model(
        path,
        (size, size, channels),
        architecture=settings.architecture,
        raw_weights=settings.raw_weights,
    )
    check_classifier(model)
    if size is not None:
        model = resize_model(model, (size, size, model.input_shape[-1]))
    return model, known_names


def _count_channels(settings, split):
    """Finds what a file of weights does not tell."""
    if split is None:
        return len(get_spec(settings.architecture).mean)
    return split.images.shape[-1] if isinstance(split, Split) else 3


def _choose_names(settings, model, of_model, of_images):
    count = model.output_shape[-1]
    if of_images and len(of_images) != count:
        raise ValueError(
            f"`dataset` must have as many classes as the model, {count}. "
            f"Received: dataset={settings.dataset}, with {len(of_images)}"
        )
    if of_model and of_images and tuple(of_model) != tuple(of_images):
        raise ValueError(
            f"`dataset` must have the model's classes, {show_some(of_model)}. "
            f"Received: dataset={settings.dataset}, with the classes "
            f"{show_some(of_images)}"
        )
    return of_model or of_images or _imagenet_names(model)


def _imagenet_names(model):
    """Names the classes of timm's weights, if that can be done."""
    if model.name in CHECKPOINTS and model.output_shape[-1] == CLASSES:
        # The names are not there and there is no network.
        with contextlib.suppress(OSError):
            return imagenet_class_names()
    return ()


def _choose_preprocessing(settings, model, trained):
    if None in model.input_shape[1:]:
        raise ValueError(
            "`image_size` must be given for a model that takes images of any "
            f"size. Received: model={settings.model}, image_size=None"
        )
    crop = settings.crop
    if crop == AUTO and trained:
        crop = trained.crop
        if crop is None:
            raise ValueError(
                "`crop` must be center or whole for a run on "
                f"{trained.dataset} that has not ended. Received: crop=auto"
            )
    return choose_preprocessing(model, crop, max_pixels=settings.max_pixels)


def _load_images(settings, split, model, preprocessing):
    """Reads images to check with: those of a data set, or noise."""
    shape, count = preprocessing.image_shape, settings.check_images
    if not settings.checks:
        return None
    if split is None:
        rng = np.random.default_rng(0)
        noise = rng.integers(0, 256, (count, *shape), dtype="uint8")
        return Split(noise, np.full(count, -1))
    part = _sample(split, count)
    is_encoded = not isinstance(part, Split)
    examples = load_examples(
        part,
        Preprocessing(
            image_size=shape[0] if is_encoded else None,
            crop=preprocessing.part,
            interpolation=preprocessing.interpolation,
        ),
        CHECK_BATCH_SIZE,
        model.output_shape[-1],
        bad_images=BadImages(len(part), max_share=1.0),
    )
    if examples.images.shape[1:] != shape:
        raise ValueError(
            f"`dataset` must have images of shape {shape}. "
            f"Received: dataset={settings.dataset}, with images of shape "
            f"{examples.images.shape[1:]}"
        )
    return examples


def _sample(split, count):
    """Takes images from all of a split, which may be sorted by class."""
    if isinstance(split, RecordSplit) or len(split) <= count:
        return split.part(0, count)
    return split.take(np.linspace(0, len(split) - 1, count).astype(int))


def _describe_crop(preprocessing):
    if preprocessing.part is None:
        return f"the {preprocessing.crop}"
    return (
        f"the {CENTER}, {preprocessing.part:g} of the shorter side, "
        f"{preprocessing.interpolation}"
    )


def _describe_labels(model, class_names):
    if not class_names:
        return "Its labels are numbers: no names are known."
    return f"Its {len(class_names):,} labels are {show_some(class_names)}."


def _print(settings, model, class_names, preprocessing, version, reports):
    kept = sum(path.stat().st_size for path in version.rglob("*"))
    lines = [
        f"{model.name}, {count_parameters(model):,} parameters: {version} "
        f"({kept / 1e6:,.1f} MB)",
        f"  {SAVED_MODEL_FILE:24} TensorFlow: {IMAGES} (float32 images),",
        f"  {'':24} {UINT8_IMAGES}, and {IMAGE_BYTES} (JPEG and PNG files)",
        f"  {DESCRIPTION:24} spec, preprocessing, hash of weights, versions",
    ]
    lines += [
        f"  {FORMATS[name].file:24} {name}, {settings.precision}"
        for name in settings.format_names
    ]
    height, width, _ = preprocessing.image_shape
    lines += [
        "",
        f"Of an encoded image it takes {_describe_crop(preprocessing)}, "
        f"resized to {height}x{width}.",
        _describe_labels(model, class_names),
        "",
        *(f"{report}\n" for report in reports),
    ]
    where = shlex.quote(str(version.parent))
    lines += [
        "Next:",
        f"  {program()} predict --model={where} --images=photos "
        "--output=predictions.csv",
    ]
    print("\n".join(lines))
