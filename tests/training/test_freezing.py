"""Fine-tuning that leaves the backbone as it was, bit for bit."""

import functools
import shutil

import keras
import numpy as np
import pytest

from lambda_keras.data.dataset import ImageDataset
from lambda_keras.data.dataset import Split
from lambda_keras.layers import BatchNormalization
from lambda_keras.layers import Dropout
from lambda_keras.layers import LambdaLayer
from lambda_keras.layers import SqueezeExcite
from lambda_keras.models import count_parameters
from lambda_keras.training import preparation
from lambda_keras.training import run
from lambda_keras.training.checkpoints import list_checkpoints
from lambda_keras.training.preparation import freeze_backbone
from lambda_keras.training.preparation import prepare
from lambda_keras.training.recipe import FREEZE
from lambda_keras.training.recipe import Recipe
from lambda_keras.training.strategy import TensorFlowDistribution
from tests.replicas import two_replicas


def small_dataset(*args, **kwargs):
    rng = np.random.default_rng(0)

    def split(count):
        labels = np.arange(count) % 3
        images = rng.integers(0, 128, (count, 8, 8, 1))
        images[:, :, ::2] += 50 * labels[:, None, None, None]
        return Split(images.astype("uint8"), labels.astype("int32"))

    return ImageDataset(
        name="small",
        class_names=("a", "b", "c"),
        train=split(24),
        validation=split(9),
        test=split(9),
    )


def small_model(
    spec=None, input_shape=(8, 8, 1), classes=5, key_dim=4, **kwargs
):
    """With batch statistics of its own, and inside of other layers."""
    layers = keras.layers
    inputs = keras.Input(input_shape, name="images")
    x = layers.Rescaling(1 / 255, name="preprocessing")(inputs)
    x = LambdaLayer(
        8, num_heads=2, key_dim=key_dim, receptive_field=3, name="lambda"
    )(x)
    x = BatchNormalization(momentum=0.8, name="norm")(x)
    x = SqueezeExcite(norm=BatchNormalization(name="inner"), name="se")(x)
    x = layers.GlobalAveragePooling2D(name="avg_pool")(x)
    x = Dropout(0.2, name="dropout")(x)
    x = layers.Dense(classes, "softmax", name="predictions")(x)
    return keras.Model(inputs, x, name="resnet_tiny")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(preparation, "load_dataset", small_dataset)
    monkeypatch.setattr(preparation, "build_model", small_model)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A model of five classes, of which no two weights are alike."""
    model = small_model()
    rng = np.random.default_rng(1)
    model.set_weights(
        [rng.uniform(0.5, 1, x.shape) for x in model.get_weights()]
    )
    path = tmp_path_factory.mktemp("files") / "trained.keras"
    model.save(path)
    return path


def recipe(file, **changes):
    # Three steps in each of two epochs, with all that could move a weight.
    settings = {
        "model": "resnet_tiny",
        "weights": str(file),
        "freeze": "backbone",
        "epochs": 2,
        "batch_size": 8,
        "learning_rate": 0.05,
        "weight_decay": 0.1,
        "clip_norm": 1.0,
        "average_momentum": 0.9,
        "checkpoint_seconds": 0.0,
        "keep_checkpoints": 100,
    }
    return Recipe(**{**settings, **changes})


def arrays(path):
    model = keras.saving.load_model(path)
    return {
        weight.path: keras.ops.convert_to_numpy(weight)
        for weight in model.weights
    }


def changed(path, other):
    """Names what a model has that is not, bit for bit, in another one."""
    expected = arrays(other)
    return {
        name
        for name, array in arrays(path).items()
        if array.shape != expected[name].shape
        or array.tobytes() != expected[name].tobytes()
    }


def fit(directory, settings):
    """As a process of its own would; returns what was said."""
    keras.utils.clear_session(free_memory=False)
    directory.mkdir(exist_ok=True)
    said = []
    run.fit(prepare(settings), directory, verbose=0, say=said.append)
    return said


@pytest.fixture
def frozen_run(file, tmp_path):
    assert fit(tmp_path / "frozen", recipe(file)) == []
    return tmp_path / "frozen"


CLASSIFIER = {"predictions/kernel", "predictions/bias"}


def test_training_changes_nothing_but_the_classifier_and_goes_on_so(
    file, frozen_run, tmp_path
):
    for name in ("best.keras", "last.keras"):
        assert changed(frozen_run / name, file) == CLASSIFIER
    other = tmp_path / "other"
    shutil.copytree(frozen_run, other)
    for path in list_checkpoints(other / "checkpoints"):
        if path.name > "step-00000002.npz":
            path.unlink()
    (line,) = fit(other, recipe(file))
    assert line.startswith("Goes on after step 2 of 6")
    for name in ("best.keras", "last.keras"):
        assert changed(other / name, frozen_run / name) == set()


# The control: the engine makes no difference to what changes if nothing is
# frozen, but to how long it takes.
@pytest.mark.tf_only
def test_what_is_not_frozen_changes_in_every_weight(file, tmp_path):
    fit(tmp_path / "run", recipe(file, freeze="nothing", epochs=1))
    path = tmp_path / "run" / "last.keras"
    assert changed(path, file) == arrays(file).keys()


@pytest.mark.tf_only
def test_several_devices_leave_the_backbone_alone_too(
    file, tmp_path, monkeypatch
):
    two = TensorFlowDistribution("mirrored", two_replicas())
    monkeypatch.setattr(
        preparation, "create_distribution", lambda **kwargs: two
    )
    fit(tmp_path / "run", recipe(file))
    for name in ("best.keras", "last.keras"):
        assert changed(tmp_path / "run" / name, file) == CLASSIFIER


def test_the_optimizer_keeps_nothing_of_what_is_frozen(file):
    whole, frozen = (prepare(recipe(file, freeze=freeze)) for freeze in FREEZE)
    assert frozen.fresh == whole.fresh == ("predictions",)
    kernel, bias = frozen.model.trainable_variables
    assert {kernel.path, bias.path} == CLASSIFIER
    # Two moments of each weight beside what there is of all of them.
    fewer = len(whole.model.trainable_variables) - 2
    assert fewer > 10
    slots = len(whole.model.optimizer.variables)
    assert len(frozen.model.optimizer.variables) == slots - 2 * fewer
    count = count_parameters(whole.model)
    assert count_parameters(frozen.model) == count
    assert (whole.frozen_parameters, frozen.frozen_parameters) == (
        0,
        count - (8 * 3 + 3),
    )


def test_a_backbone_that_does_not_fit_is_not_frozen(file, monkeypatch):
    narrower = functools.partial(small_model, key_dim=2)
    monkeypatch.setattr(preparation, "build_model", narrower)
    message = r"^`freeze` must be nothing .*backbone.* without lambda$"
    with pytest.raises(ValueError, match=message):
        prepare(recipe(file))


def test_a_frozen_model_stays_frozen_in_a_file(tmp_path):
    # With normalizations inside lambda layers and squeeze-and-excitation.
    model = small_model()
    freeze_backbone(model)
    model.save(tmp_path / "frozen.keras")
    loaded = keras.saving.load_model(tmp_path / "frozen.keras", compile=False)
    assert {x.path for x in loaded.trainable_variables} == CLASSIFIER
    before = loaded.get_weights()
    loaded(small_dataset().test.images.astype("float32"), training=True)
    for array, expected in zip(loaded.get_weights(), before, strict=True):
        np.testing.assert_array_equal(array, expected)
