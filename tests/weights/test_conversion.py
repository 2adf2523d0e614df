import dataclasses

import keras
import numpy as np
import pytest

from lambda_keras.models import build_model
from lambda_keras.models import get_spec
from lambda_keras.weights.conversion import save_as_timm
from lambda_keras.weights.conversion import timm_spec
from lambda_keras.weights.conversion import weights_digest
from lambda_keras.weights.safetensors_files import read_header
from lambda_keras.weights.timm import read_timm
from lambda_keras.weights.timm import recognize

VARIANTS = ["lambda_resnet_26t", "lambda_resnet_26rpt", "lambda_resnet_50ts"]


def small(name="lambda_resnet_26t", width=4, **kwargs):
    spec = get_spec(name) if isinstance(name, str) else name
    return build_model(
        spec, **{"width": width, "input_shape": (64, 64, 3), **kwargs}
    )


@pytest.mark.parametrize("name", VARIANTS)
def test_every_weight_of_a_model_is_in_the_file_to_the_bit(name, tmp_path):
    model = small(name, classes=7)
    rng = np.random.default_rng(0)
    arrays = {x.path: rng.uniform(size=x.shape) for x in model.weights}
    for weight in model.weights:
        weight.assign(arrays[weight.path])
    path = tmp_path / "timm.safetensors"
    save_as_timm(model, path)
    spec = recognize(path)
    assert (spec.name, spec.width) == (name, 4)
    read = read_timm(path, spec)
    assert read.keys() == arrays.keys()
    for weight, array in arrays.items():
        assert read[weight].tobytes() == array.astype("float32").tobytes()


@pytest.mark.parametrize(
    "arguments",
    [
        {"drop_path_rate": 0.1, "dropout_rate": 0.5},
        {"include_preprocessing": False, "classifier_activation": None},
        {"implementation": "convolution", "sync_batch_norm": True},
        {"dtype": "mixed_bfloat16", "input_shape": (96, 64, 3), "classes": 3},
        {"width": 8},
    ],
    ids=lambda arguments: "-".join(arguments),
)
def test_what_timm_leaves_to_others_may_differ(arguments):
    model = small(**arguments)
    model.trainable = False
    width = arguments.get("width", 4)
    expected = dataclasses.replace(get_spec("lambda_resnet_26t"), width=width)
    assert timm_spec(model) == expected


def changed(**fields):
    return small(dataclasses.replace(get_spec("lambda_resnet_26t"), **fields))


def pooled():
    return small(include_top=False, pooling="avg")


def with_one_more():
    model = small()
    outputs = keras.layers.Dense(3, name="more")(model.output)
    return keras.Model(model.input, outputs, name=model.name)


def with_another_head():
    model = small()
    features = model.get_layer("dropout").output
    outputs = keras.layers.Flatten(name="predictions")(features)
    return keras.Model(model.input, outputs, name=model.name)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: small(name="lambda_resnet_50"), "have mixer_pool_size=2, .*"),
        (lambda: small(name="resnet_50"), "LambdaResNets have mixer='lambda'"),
        (lambda: changed(name="mine"), r"Expected the name .*name='mine'"),
        (pooled, r"classifier \(there is no layer predictions\)"),
        (with_another_head, r"classifier \('Flatten' object has no attrib"),
        (with_one_more, "makes it: its layer `more` is one more"),
        (lambda: changed(max_pool=False), "layer `stem_pool` is missing"),
        (
            lambda: changed(activation="gelu"),
            "`stem_conv0_activation` has activation='gelu', not 'relu'",
        ),
        (
            lambda: changed(epsilon=1e-3),
            "`stem_conv0_norm` has epsilon=0.001, not 1e-05",
        ),
        (
            lambda: changed(receptive_field=7),
            "`c4_block1_lambda` has receptive_field=7, not 9",
        ),
        (
            lambda: changed(mixer_blocks=((), (), (1,), (1,))),
            "`c5_block0_lambda` is missing",
        ),
    ],
)
def test_a_model_that_is_none_of_timms(make, message, tmp_path):
    with pytest.raises(ValueError, match=rf"{message}.*Received: model="):
        save_as_timm(make(), tmp_path / "timm.safetensors")
    assert not any(tmp_path.iterdir())


def test_counts_of_batches_are_none(tmp_path):
    save_as_timm(small(), tmp_path / "timm.safetensors")
    header = read_header(tmp_path / "timm.safetensors")
    counts = [x for name, x in header.items() if name.endswith("_tracked")]
    assert {(x.dtype, x.shape) for x in counts} == {("I64", ())}


def test_the_digest_is_that_of_weights_and_of_nothing_else(tmp_path):
    model = small()
    digest = weights_digest(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert weights_digest(loaded) == digest
    model.weights[-1].assign(model.weights[-1] + 1)
    assert weights_digest(model) != digest
