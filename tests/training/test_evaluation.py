import keras
import numpy as np
import pytest

COUNT, SHAPE, CLASSES, BATCH_SIZE = 10, (4, 4, 1), 7, 4


@pytest.fixture(scope="module")
def examples():
    random = np.random.default_rng(0)
    images = random.uniform(0, 255, (COUNT, *SHAPE)).astype("float32")
    return images, np.arange(COUNT) % CLASSES


def batches(images, labels):
    """Full batches, the last one padded with zeros that weigh nothing."""
    import tensorflow as tf

    padding = -len(images) % BATCH_SIZE
    weights = np.repeat([1 + padding / len(images), 0], [len(images), padding])
    one_hot = np.eye(CLASSES + 1)[labels][:, :CLASSES]
    everything = tf.data.Dataset.from_tensor_slices(
        (
            np.pad(images, [(0, padding), *[(0, 0)] * 3]),
            np.pad(one_hot, [(0, padding), (0, 0)]).astype("float32"),
            weights.astype("float32"),
        )
    )

    def make(shard):
        return everything.batch(BATCH_SIZE // shard.pieces, drop_remainder=True)

    return make, (len(images) + padding) // BATCH_SIZE


def build(activation="softmax", classes=CLASSES):
    return keras.Sequential(
        [
            keras.Input(SHAPE),
            keras.layers.Rescaling(1 / 100),
            keras.layers.Flatten(),
            keras.layers.Dense(classes, activation=activation),
        ]
    )


def predictor(model, distribution=None):
    from lambda_keras.training.predictor import KerasPredictor
    from lambda_keras.training.strategy import Distribution

    return KerasPredictor("here", model, distribution or Distribution())


def expected(model, images, labels):
    """Accuracy, top-5 accuracy and cross-entropy in float64."""
    x = images.reshape(len(images), -1).astype("float64") / 100
    kernel, bias = (np.float64(x) for x in model.get_weights())
    logits = x @ kernel + bias
    logits -= logits.max(axis=-1, keepdims=True)
    log = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    right = log[np.arange(len(labels)), labels]
    rank = np.sum(log > right[:, None], axis=-1)
    return np.mean(rank == 0), np.mean(rank < 5), -np.mean(right)


def check(evaluation, model, images, labels):
    assert evaluation.examples == len(images)
    accuracy, top_5, cross_entropy = expected(model, images, labels)
    assert evaluation.accuracy == pytest.approx(accuracy, abs=1e-6)
    assert evaluation.top_5_accuracy == pytest.approx(top_5, abs=1e-6)
    assert 0 < accuracy < top_5 < 1, "a test that could not fail"
    assert evaluation.cross_entropy == pytest.approx(cross_entropy, rel=1e-4)
    assert evaluation.images_per_second > 0


def test_every_example_counts_once_and_padding_never(examples):
    from lambda_keras.training.evaluation import evaluate

    model = build()
    evaluation = evaluate(predictor(model), *batches(*examples))
    check(evaluation, model, *examples)


@pytest.mark.tf_only
def test_replicas_measure_what_one_device_measures(examples):
    from lambda_keras.training.evaluation import evaluate
    from lambda_keras.training.strategy import TensorFlowDistribution
    from tests.replicas import two_replicas

    distribution = TensorFlowDistribution("mirrored", two_replicas())
    with distribution.scope():
        model = build()
    evaluation = evaluate(predictor(model, distribution), *batches(*examples))
    check(evaluation, model, *examples)


@pytest.mark.parametrize(
    "replicas", [1, pytest.param(2, marks=pytest.mark.tf_only)]
)
def test_predictions_come_in_order_with_their_labels(examples, replicas):
    from lambda_keras.training.strategy import Distribution
    from lambda_keras.training.strategy import TensorFlowDistribution
    from tests.replicas import two_replicas

    distribution = (
        TensorFlowDistribution("mirrored", two_replicas())
        if replicas == 2
        else Distribution()
    )
    with distribution.scope():
        model = build()
    images, labels = examples
    found, same, weights = predictor(model, distribution).predict(
        *batches(images, labels), keras.callbacks.Callback()
    )
    np.testing.assert_allclose(
        found[:COUNT], keras.ops.convert_to_numpy(model(images)), atol=1e-6
    )
    np.testing.assert_array_equal(same[:COUNT].argmax(axis=-1), labels)
    np.testing.assert_array_equal(weights > 0, np.arange(12) < COUNT)


def test_five_classes_have_no_top_5():
    from lambda_keras.training.evaluation import build_metrics

    names = [{metric.name for metric in build_metrics(n)} for n in (5, 6)]
    assert names[1] - names[0] == {"top_5_accuracy"}


def test_what_cannot_be_read_is_not_counted(examples):
    from lambda_keras.training.evaluation import evaluate

    model = build()
    images, labels = examples
    make, steps = batches(images, labels)
    # The first two of each batch weigh nothing: 0, 1, 4, 5, 8 and 9.
    weight = np.array([0, 0, 1, 1], "float32")

    def readable(shard):
        return make(shard).map(lambda x, y, weights: (x, y, weights * weight))

    chosen = [2, 3, 6, 7]
    evaluation = evaluate(predictor(model), readable, steps)
    assert evaluation.examples == len(chosen)
    *_, cross_entropy = expected(model, images[chosen], labels[chosen])
    assert evaluation.cross_entropy == pytest.approx(cross_entropy, rel=1e-4)

    with pytest.raises(ValueError, match=r"images that can be read"):
        evaluate(
            predictor(model),
            lambda shard: make(shard).map(lambda x, y, w: (x, y, 0 * w)),
            steps,
        )


@pytest.mark.parametrize(
    ("activation", "label", "message"),
    [
        (None, 0, r"must give probabilities, .* Received: 10 of 10 that are"),
        ("softmax", -1, r"`split` must be labelled .* Received: 1 of 10 that"),
    ],
)
def test_figures_that_would_mean_nothing(activation, label, message, examples):
    from lambda_keras.training.evaluation import evaluate

    images, labels = examples
    labels = np.where(np.arange(COUNT) == 3, label, labels)
    with pytest.raises(ValueError, match=message):
        evaluate(predictor(build(activation)), *batches(images, labels))


def test_a_model_without_one_vector_per_image():
    model = keras.Sequential([keras.Input(SHAPE), keras.layers.Conv2D(3, 1)])
    message = r"one vector of .*output_shape=\(None, 4, 4, 3\)"
    with pytest.raises(ValueError, match=message):
        predictor(model)
