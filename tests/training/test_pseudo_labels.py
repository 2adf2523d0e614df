import dataclasses

import keras
import numpy as np
import pytest

from lambda_keras.data.dataset import Split

COUNT, CLASSES, BATCH_SIZE = 22, 3, 4


def predictions(predicted, confidence):
    from lambda_keras.training.predictions import Predictions

    return Predictions(
        np.array(predicted), np.array(confidence), np.full(len(predicted), -1)
    )


@pytest.fixture
def some():
    return predictions(
        [0, 1, 0, 0, -1, 1, 0, 2], [0.6, 0.9, 0.9, 0.7, 0, 0.5, 0.9, 0.4]
    )


def test_the_most_confident_of_each_class_are_kept(some):
    from lambda_keras.training.pseudo_labels import select

    selection = select(some, CLASSES, min_confidence=0.5, per_class=2)
    assert selection.indices.tolist() == [1, 2, 5, 6]
    assert selection.confident.tolist() == [4, 2, 0]
    assert selection.kept.tolist() == [2, 2, 0]
    assert selection.written.tolist() == [2, 2, 0]


def test_of_equally_confident_images_the_first_are_kept(some):
    from lambda_keras.training.pseudo_labels import select

    assert select(some, CLASSES, per_class=1).indices.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("min_confidence", "indices"),
    [(0.0, [1, 2, 3, 5, 6, 7]), (0.5, [1, 2, 3, 5, 6]), (0.91, [])],
)
def test_the_threshold_is_part_of_what_it_lets_through(
    min_confidence, indices, some
):
    from lambda_keras.training.pseudo_labels import select

    selection = select(some, CLASSES, min_confidence)
    assert selection.indices.tolist() == indices


def test_by_default_no_class_has_more_than_an_even_share(some):
    from lambda_keras.training.pseudo_labels import select

    # 8 images, 3 classes: at most 3.
    selection = select(some, CLASSES)
    assert selection.per_class == 3
    assert selection.kept.tolist() == [3, 2, 0]


def test_a_class_with_fewer_is_repeated_where_asked_to(some):
    from lambda_keras.training.pseudo_labels import select

    selection = select(some, CLASSES, per_class=5, repeat=True)
    assert selection.kept.tolist() == [4, 2, 0]
    assert selection.written.tolist() == [5, 5, 0]
    # The most confident of each class is the first to be repeated.
    assert selection.indices.tolist() == [0, 1, 1, 1, 2, 2, 3, 5, 5, 6]


def test_the_choice_is_that_of_a_loop_over_all_images():
    from lambda_keras.training.pseudo_labels import select

    random = np.random.default_rng(0)
    predicted = random.integers(0, 5, 200)
    confidence = random.uniform(0.2, 1, 200).round(2)
    kept, taken = [], np.zeros(5, int)
    for index in sorted(range(200), key=lambda i: (-confidence[i], i)):
        label = predicted[index]
        if confidence[index] >= 0.6 and taken[label] < 11:
            taken[label] += 1
            kept.append(index)
    selection = select(predictions(predicted, confidence), 5, 0.6, 11)
    assert selection.indices.tolist() == sorted(kept)
    assert 0 < min(taken) < max(taken) == 11 or len(set(taken)) == 1


@pytest.fixture(scope="module")
def split():
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (COUNT, 4, 4, 1), dtype="uint8")
    labels = np.where(np.arange(COUNT) < 10, np.arange(COUNT) % CLASSES, -1)
    return Split(images, labels)


def make_inference(split, distribution=None):
    from lambda_keras.data.bad_images import BadImages
    from lambda_keras.data.preprocessing import Preprocessing
    from lambda_keras.training.inference import Inference
    from lambda_keras.training.predictor import KerasPredictor
    from lambda_keras.training.strategy import Distribution

    distribution = distribution or Distribution()
    keras.utils.set_random_seed(0)
    with distribution.scope():
        model = keras.Sequential(
            [
                keras.Input((4, 4, 1)),
                keras.layers.Rescaling(1 / 100),
                keras.layers.Flatten(),
                keras.layers.Dense(CLASSES, activation="softmax"),
            ]
        )
    return Inference(
        predictor=KerasPredictor("teacher", model, distribution),
        distribution=distribution,
        split=split,
        class_names=("a", "b", "c"),
        preprocessing=Preprocessing(),
        batch_size=BATCH_SIZE,
        bad_images=BadImages(len(split)),
    )


@pytest.fixture(scope="module")
def inference(split):
    return make_inference(split)


def make_files(directory, inference, teacher="one", min_confidence=0.4):
    from lambda_keras.training.predictions import PredictionFiles

    return PredictionFiles(
        directory,
        inference,
        teacher,
        save_batches=2,
        min_confidence=min_confidence,
    )


def predict(files):
    from lambda_keras.training.predictions import ProgressLines

    files.predict(ProgressLines(COUNT, BATCH_SIZE))


def expected(inference):
    images = inference.split.images.astype("float32")
    return keras.ops.convert_to_numpy(inference.predictor.model(images))


def test_predictions_are_those_of_the_model_in_order(tmp_path, inference):
    files = make_files(tmp_path, inference)
    predict(files)
    # 22 images, 8 to a file.
    assert len(list(tmp_path.iterdir())) == files.count == 3
    found, probabilities = files.read(), expected(inference)
    np.testing.assert_array_equal(found.predicted, probabilities.argmax(-1))
    np.testing.assert_allclose(
        found.confidence, probabilities.max(-1), atol=1e-6
    )
    np.testing.assert_array_equal(found.known, inference.split.labels)
    chosen = np.array([0, 1, 1, 7, 8, 21])
    chosen = chosen[found.confidence[chosen] >= 0.4]
    assert len(chosen) > 3
    # Half precision has eleven bits.
    np.testing.assert_allclose(
        list(files.probabilities(chosen)), probabilities[chosen], atol=1e-3
    )


@pytest.mark.tf_only
def test_replicas_predict_what_one_device_predicts(tmp_path, split, inference):
    from lambda_keras.training.strategy import TensorFlowDistribution
    from tests.replicas import two_replicas

    two = make_inference(
        split, TensorFlowDistribution("mirrored", two_replicas())
    )
    two.predictor.model.set_weights(inference.predictor.model.get_weights())
    found = []
    for name, one in (("one", inference), ("two", two)):
        (tmp_path / name).mkdir()
        files = make_files(tmp_path / name, one)
        predict(files)
        found.append(files.read())
    for one, other in zip(*map(dataclasses.astuple, found)):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_hosts_number_the_examples_of_their_own_part(inference, split):
    from lambda_keras.data.dataset import Shard
    from lambda_keras.training.predictions import numbered_batches

    make = numbered_batches(inference, split)
    seen = []
    for host in range(2):
        for images, *_, index in make(Shard(host, count=2, pieces=2)):
            assert len(index) == 1
            for image, number in zip(images.numpy(), index.numpy()):
                if number >= 0:
                    seen.append(number)
                    np.testing.assert_array_equal(image, split.images[number])
    assert sorted(seen) == list(range(COUNT))


def test_only_what_is_missing_is_predicted_again(
    tmp_path, inference, monkeypatch, capsys
):
    files = make_files(tmp_path, inference)
    predict(files)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    files.path(1).unlink()
    steps = []
    original = inference.predictor.predict
    monkeypatch.setattr(
        inference.predictor,
        "predict",
        lambda *args: steps.append(args[1]) or original(*args),
    )
    predict(files)
    assert steps == [2]
    after = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert after == before
    assert "Predicted 16 of 22, by an earlier" in capsys.readouterr().out


def test_another_teacher_does_not_go_on(tmp_path, inference):
    predict(make_files(tmp_path, inference, teacher="one"))
    with pytest.raises(ValueError, match=r"another file now than when"):
        make_files(tmp_path, inference, teacher="two").read()


def test_hard_labels_need_no_probabilities(tmp_path, inference):
    files = make_files(tmp_path, inference, min_confidence=None)
    predict(files)
    with np.load(files.path(0)) as file:
        assert sorted(file) == ["confidence", "known", "predicted", "teacher"]


def test_a_teacher_of_logits_is_refused(tmp_path, split):
    logits = make_inference(split)
    logits.predictor.model.layers[-1].activation = keras.activations.linear
    with pytest.raises(ValueError, match=r"give probabilities, which sum to"):
        predict(make_files(tmp_path, logits))
    assert not any(tmp_path.iterdir())


def test_progress_tells_speed_and_time_left(capsys, monkeypatch):
    from lambda_keras.training import predictions

    now = iter([0.0, 5.0, 10.0, 12.0])
    monkeypatch.setattr(predictions.time, "monotonic", lambda: next(now))
    lines = predictions.ProgressLines(count=1000, batch_size=100)
    lines.start(done=0)
    for batch in range(3):
        lines.on_predict_batch_end(batch)
    assert capsys.readouterr().out == (
        "Predicted 200 of 1,000, 20 a second, 40 s left.\n"
    )


def test_a_digest_tells_files_and_directories_apart(tmp_path):
    from lambda_keras.training.predictions import digest

    def write(directory, **files):
        (tmp_path / directory).mkdir()
        for name, text in files.items():
            (tmp_path / directory / name).write_text(text)
        return digest(tmp_path / directory)

    first = write("one", a="1", b="2")
    assert write("same", a="1", b="2") == first
    assert (
        len({first, write("text", a="1", b="3"), write("name", a="1", c="2")})
        == 3
    )
    assert digest(tmp_path / "one" / "a") == digest(tmp_path / "same" / "a")
    assert digest(tmp_path / "one" / "a") != digest(tmp_path / "one" / "b")
