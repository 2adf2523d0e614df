import keras
import numpy as np
import pytest
from keras import ops

from lambda_keras.layers import Dropout
from lambda_keras.layers import SeedGenerator
from lambda_keras.layers import StochasticDepth
from tests.reference import as_numpy


def draws(generator, count=2):
    return [
        as_numpy(keras.random.uniform((8,), seed=generator))
        for _ in range(count)
    ]


def test_without_replicas_the_numbers_are_those_of_keras():
    np.testing.assert_array_equal(
        draws(SeedGenerator(7)), draws(keras.random.SeedGenerator(7))
    )
    np.testing.assert_array_equal(
        *(
            as_numpy(layer_class(0.5, seed=7)(np.ones((4, 8)), training=True))
            for layer_class in (Dropout, keras.layers.Dropout)
        )
    )


def test_each_draw_differs():
    first, second = draws(SeedGenerator(7))
    assert (first != second).any()


def test_a_generator_is_made_again_from_its_configuration():
    generator = SeedGenerator(7, name="masks")
    clone = SeedGenerator.from_config(generator.get_config())
    np.testing.assert_array_equal(draws(clone), draws(generator))


def test_dropout_drops_numbers_and_scales_the_others():
    outputs = as_numpy(Dropout(0.2, seed=1)(np.ones((50, 40)), training=True))
    np.testing.assert_allclose(outputs[outputs > 0], 1 / 0.8, rtol=1e-6)
    # Four standard deviations of a share of 2,000 draws.
    assert np.mean(outputs == 0) == pytest.approx(
        0.2, abs=4 * (0.16 / 2000) ** 0.5
    )


@pytest.mark.parametrize("shape", [(2000, 3), (2000, 2, 1, 3)])
def test_stochastic_depth_drops_examples_and_scales_the_others(shape):
    outputs = StochasticDepth(0.2, seed=1)(np.ones(shape), training=True)
    examples = as_numpy(outputs).reshape(shape[0], -1)
    dropped = np.all(examples == 0, axis=1)
    np.testing.assert_allclose(examples[~dropped], 1 / 0.8, rtol=1e-6)
    # Four standard deviations of a share of 2,000 draws.
    assert dropped.mean() == pytest.approx(0.2, abs=4 * (0.16 / 2000) ** 0.5)


@pytest.mark.parametrize("layer_class", [Dropout, StochasticDepth])
class TestBoth:
    @pytest.mark.parametrize(
        ("rate", "training"), [(0.9, False), (0.9, None), (0.0, True)]
    )
    def test_identity(self, layer_class, rate, training):
        x = np.random.default_rng(0).normal(size=(4, 3, 2)).astype("float32")
        outputs = layer_class(rate)(x, training=training)
        np.testing.assert_array_equal(as_numpy(outputs), x)

    def test_seed_decides_the_masks(self, layer_class):
        def masks(seed):
            layer = layer_class(0.5, seed=seed)
            calls = [layer(np.ones((64, 1)), training=True) for _ in range(2)]
            return as_numpy(ops.stack(calls))

        first, second = masks(3)
        np.testing.assert_array_equal(masks(3), [first, second])
        assert (first != second).any()
        assert (masks(4)[0] != first).any()

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
    def test_half_precision(self, layer_class, dtype):
        layer = layer_class(0.25, dtype=f"mixed_{dtype}", seed=0)
        outputs = layer(np.ones((64, 2), "float32"), training=True)
        assert keras.backend.standardize_dtype(outputs.dtype) == dtype
        scale = as_numpy(ops.cast(outputs, "float32"))
        # 4/3 rounded to the 8 bits of bfloat16.
        np.testing.assert_allclose(scale[scale > 0], 4 / 3, rtol=2**-8)

    def test_configuration(self, layer_class):
        layer = layer_class(0.3, seed=5, name="branch")
        clone = layer_class.from_config(layer.get_config())
        assert clone.get_config() == layer.get_config()

    def test_unknown_batch(self, layer_class):
        layer = layer_class(0.3)
        assert layer.compute_output_shape((None, 4, 2)) == (None, 4, 2)
        assert layer(keras.Input((4, 2)), training=True).shape == (None, 4, 2)

    @pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5])
    def test_rate_out_of_range(self, layer_class, rate):
        with pytest.raises(
            ValueError,
            match=rf"at least 0 and less than 1\. Received: rate={rate}",
        ):
            layer_class(rate)
