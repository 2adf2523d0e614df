"""That every variant exports, and predicts what it did."""

import dataclasses

import keras
import numpy as np
import pytest

from lambda_keras.models import MODEL_SPECS
from lambda_keras.models import build_model
from lambda_keras.models import get_spec
from lambda_keras.serving.export import export_version
from lambda_keras.serving.formats import FORMATS
from lambda_keras.serving.images import RequestPreprocessing
from lambda_keras.serving.resizing import resize_model
from lambda_keras.serving.run_artefact import LOADERS
from tests.serving.models import random_images

pytestmark = [pytest.mark.tf_only, pytest.mark.slow]

LAMBDA_MODELS = [
    name for name, spec in MODEL_SPECS.items() if spec.mixer == "lambda"
]
# One of each kind.
OTHERS = [
    *("resnet_50", "se_resnet_50", "resnet_v1_50", "resnet_tiny"),
    *("global_attention_resnet_50", "axial_attention_resnet_50"),
    *("local_attention_resnet_50", "attention_tiny"),
]
# One of each kind of receptive field and stem; the others differ in depth.
OF_ANY_SIZE = [
    *("lambda_resnet_50", "lambda_resnet_v1_50", "lambda_resnet_tiny"),
    *("lambda_resnet_v1_50_k8_h8_u8", "lambda_resnet_26t", "resnet_50"),
]
# A minute for each, where the SavedModel alone takes ten seconds.
IN_ALL_FORMATS = [
    *(*OF_ANY_SIZE, *OTHERS, "lambda_resnet_101_u4"),
    *("lambda_resnet_26rpt", "lambda_resnet_50ts"),
]


def reduced(name):
    """Builds a narrow model for small images that tells them apart."""
    is_tiny = name.endswith("_tiny")
    shape = (8, 8, 1) if is_tiny else (64, 64, 3)
    # The statistics are those of one batch.
    spec = dataclasses.replace(get_spec(name), momentum=0.0)
    model = build_model(
        spec,
        input_shape=shape,
        classes=10,
        width=None if is_tiny else max(8, spec.num_heads),
        drop_path_rate=0.0,
    )
    for weight in model.weights:
        # Zeros as built, with which a block is its shortcut.
        if weight.path.endswith("norm3/gamma"):
            weight.assign(np.full(weight.shape, 0.1))
    images = random_images(32, shape)
    # An export tries a grey one.
    images[::4] = 128
    model(images, training=True)
    pooled = keras.Model(model.input, model.get_layer("avg_pool").output)
    features = pooled.predict(images, verbose=0)
    kernel = np.random.default_rng(0).normal(size=(features.shape[-1], 10))
    logits = features @ kernel
    kernel, logits = kernel / logits.std(axis=0), logits / logits.std(axis=0)
    model.get_layer("predictions").set_weights([kernel, -logits.mean(axis=0)])
    return model


def check_everything(model, version, shape):
    images = random_images(4, shape).astype("float32")
    expected = model.predict(images, verbose=0)
    assert np.ptp(expected, axis=0).max() > 0.03, "all images look the same"
    compare("tensorflow", version, images, expected)
    compare("openvino", version, images, expected)
    for runtime, file in (
        ("openvino", "model.xml"),
        ("onnx_runtime", "model.onnx"),
        ("litert", "model.tflite"),
    ):
        if (version / file).exists():
            compare(runtime, version / file, images, expected)


def compare(runtime, path, images, expected):
    predict, _ = LOADERS[runtime](str(path), "serving_default", "images")
    difference = np.abs(predict(images) - expected).max()
    print(f"{runtime} {path.name}: {difference:.1e}")
    assert difference < 1e-4


@pytest.mark.parametrize("name", LAMBDA_MODELS + OTHERS)
def test_every_variant_exports(name, tmp_path):
    model = reduced(name)
    shape = model.input_shape[1:]
    version = export_version(
        model,
        tmp_path / name,
        preprocessing=RequestPreprocessing(shape),
        formats=FORMATS if name in IN_ALL_FORMATS else (),
        warm_up=False,
    )
    check_everything(model, version, shape)


@pytest.mark.parametrize("name", OF_ANY_SIZE)
def test_images_of_any_size(name, tmp_path):
    model = reduced(name)
    height, width, channels = model.input_shape[1:]
    model = resize_model(model, (None, None, channels))
    version = export_version(
        model,
        tmp_path / name,
        preprocessing=RequestPreprocessing((height, width, channels)),
        formats=FORMATS,
        warm_up=False,
    )
    # Not a multiple of any stride or block either.
    for size in (height, width), (height + 13, width + 7):
        check_everything(model, version, (*size, channels))
