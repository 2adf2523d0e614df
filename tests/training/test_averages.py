import keras
import numpy as np
import pytest

from lambda_keras.layers import BatchNormalization
from lambda_keras.layers import Dropout
from lambda_keras.training.averages import WeightAverages
from lambda_keras.training.optimization import SGD

X = np.random.default_rng(0).normal(size=(24, 3)).astype("float32")
Y = X[:, :2] ** 2


def make_model(**arguments) -> keras.Model:
    model = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(2),
            BatchNormalization(momentum=0.5),
            Dropout(0.1),
        ]
    )
    model.compile(SGD(learning_rate=0.1), "mse", **arguments)
    return model


def fit(model, *callbacks, **arguments):
    return model.fit(
        X,
        Y,
        batch_size=4,
        callbacks=list(callbacks),
        shuffle=False,
        verbose=0,
        **arguments,
    )


def weights_of(model) -> list[np.ndarray]:
    return [np.array(weight.numpy()) for weight in model.weights]


def assert_equal(arrays, expected):
    for array, one in zip(arrays, expected, strict=True):
        np.testing.assert_array_equal(array, one)


class Recorder(keras.callbacks.Callback):
    """Keeps the weights before and after every step."""

    def on_train_begin(self, logs=None):
        self.weights = [weights_of(self.model)]

    def on_train_batch_end(self, batch, logs=None):
        self.weights.append(weights_of(self.model))

    def on_test_batch_end(self, batch, logs=None):
        self.evaluated = weights_of(self.model)


@pytest.mark.parametrize(
    ("momentum", "first_step"),
    [
        (0.3, 0),  # Warm-up of momentum ends after four steps.
        (0.9999, 10**6),
    ],
)
def test_weights_and_batch_statistics_are_averaged(momentum, first_step):
    averages, recorder = WeightAverages(momentum), Recorder()
    model = make_model()
    model.optimizer.iterations.assign(first_step)
    fit(model, averages, recorder, epochs=2)
    initial, *later = recorder.weights
    expected = initial
    for step, weights in enumerate(later, start=first_step + 1):
        m = min(momentum, (1 + step) / (10 + step))
        expected = [
            m * average + (1 - m) * weight
            for average, weight in zip(expected, weights, strict=True)
        ]
    assert len(later) == 12
    assert len(expected) == 6  # Of which two are batch statistics.
    for average, one, start in zip(
        averages.get_state(), expected, initial, strict=True
    ):
        np.testing.assert_allclose(average, one, rtol=1e-5, atol=1e-6)
        # By how much it moved, which is little when momentum is near 1.
        np.testing.assert_allclose(
            average - start, one - start, rtol=1e-2, atol=1e-6
        )


def test_several_steps_per_execution_count_as_often():
    averages, recorder = WeightAverages(0.4), Recorder()
    model = make_model(steps_per_execution=4)
    # Six steps an epoch: the second execution has two.
    fit(model, averages, recorder, epochs=1)
    expected, *later = recorder.weights
    for momentum, weights in zip([(5 / 14) ** 4, 0.4**2], later, strict=True):
        expected = [
            momentum * average + (1 - momentum) * weight
            for average, weight in zip(expected, weights, strict=True)
        ]
    for average, one in zip(averages.get_state(), expected, strict=True):
        np.testing.assert_allclose(average, one, rtol=1e-5, atol=1e-6)


def test_evaluation_sees_the_averages_and_training_does_not():
    plain = make_model()
    fit(plain, epochs=2)
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(0)
    averages, recorder, model = WeightAverages(0.9), Recorder(), make_model()
    logs = fit(
        model, averages, recorder, epochs=2, validation_data=(X, Y)
    ).history
    assert_equal(recorder.evaluated, averages.get_state())
    assert_equal(weights_of(model), recorder.weights[-1])
    assert_equal(weights_of(model), weights_of(plain))
    with averages.applied():
        loss = model.evaluate(X, Y, verbose=0)
    assert loss == pytest.approx(logs["val_loss"][-1], rel=1e-6)
    assert loss != pytest.approx(model.evaluate(X, Y, verbose=0), rel=1e-3)
    given = model.evaluate(X, Y, callbacks=[averages], verbose=0)
    assert given == pytest.approx(loss, rel=1e-6)
    assert_equal(weights_of(model), weights_of(plain))


def test_a_saved_model_can_hold_the_averages(tmp_path):
    averages, model = WeightAverages(0.9), make_model()
    fit(model, averages)
    with averages.applied(), averages.applied():
        model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert_equal(weights_of(loaded), averages.get_state())


def test_weights_come_back_when_a_block_fails():
    averages, model = WeightAverages(0.9), make_model()
    fit(model, averages)
    before = weights_of(model)
    with pytest.raises(OSError), averages.applied():
        raise OSError("No space left on device")
    assert_equal(weights_of(model), before)


class FailOnce(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.failed = False

    def on_test_batch_end(self, batch, logs=None):
        if not self.failed:
            self.failed = True
            raise KeyboardInterrupt


@pytest.mark.parametrize("how", ["restore", "fit"])
def test_weights_come_back_after_a_failed_evaluation(how):
    averages, recorder, model = WeightAverages(0.9), Recorder(), make_model()
    with pytest.raises(KeyboardInterrupt):
        fit(model, averages, recorder, FailOnce(), validation_data=(X, Y))
    expected = recorder.weights[-1]
    if how == "restore":
        averages.restore()
        assert_equal(weights_of(model), expected)
    else:
        fit(model, averages, recorder)
        assert_equal(recorder.weights[0], expected)


def test_a_restored_state_goes_on_bit_for_bit():
    averages, model = WeightAverages(0.99), make_model()
    fit(model, averages, epochs=1)
    fit(model, averages, epochs=1)
    expected = averages.get_state()

    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(0)
    first, model = WeightAverages(0.99), make_model()
    fit(model, first, epochs=1)
    second = WeightAverages(0.99)
    second.set_model(model)
    second.set_state([2 * average for average in first.get_state()])
    second.set_state(first.get_state())
    assert_equal(second.get_state(), first.get_state())
    fit(model, second, epochs=1)
    assert_equal(second.get_state(), expected)


def test_a_model_may_get_its_weights_from_its_first_batch():
    averages = WeightAverages(0.9)
    model = keras.Sequential([keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    fit(model, averages)
    assert len(averages.get_state()) == 2


def test_a_state_is_that_of_the_same_model():
    averages, model = WeightAverages(0.9), make_model()
    with pytest.raises(ValueError, match="must be given a model that is built"):
        averages.get_state()
    averages.set_model(model)
    with pytest.raises(ValueError, match=r"`state` must hold .*\(3, 2\)"):
        averages.set_state(averages.get_state()[1:])


def test_averages_are_those_of_one_model():
    averages, model = WeightAverages(0.9), make_model()
    averages.set_model(model)
    averages.set_model(model)
    with pytest.raises(ValueError, match="must stay with one model"):
        make_model().evaluate(X, Y, callbacks=[averages], verbose=0)


@pytest.mark.parametrize("momentum", [0.0, 1.0, -0.5])
def test_momentum_is_between_0_and_1(momentum):
    with pytest.raises(ValueError, match=f"Received: momentum={momentum}"):
        WeightAverages(momentum)
