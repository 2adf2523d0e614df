import pytest

from lambda_keras.benchmark import paper_curve
from lambda_keras.benchmark.candidates import find_candidate
from lambda_keras.benchmark.settings import SUITES
from lambda_keras.benchmark.suites import find_suite


def names(suite):
    return [row.model for row in find_suite(suite)]


def test_the_papers_curve_is_whole():
    families = [find_candidate(name).family for name in names("paper")]
    assert families == ["LambdaResNet"] * 12 + ["EfficientNet"] * 8
    batches = dict(find_suite("paper"))
    # As the compiler for TPU v3 was asked about.
    assert batches["lambda_resnet_50@128"] == batches["efficientnet_b0@224"]
    assert batches["lambda_resnet_152@256"] == 32
    assert batches["efficientnet_b7@600"] == 16
    assert all(batch in (8, 16, 32, 64) for batch in batches.values())


def test_pairs_are_matched_by_the_papers_accuracy():
    matched = names("matched")
    assert len(set(matched)) == len(matched)
    efficientnets = [name for name in matched if name.startswith("efficient")]
    assert efficientnets == [
        f"efficientnet_b{i}@{size}"
        for i, size in enumerate((224, 240, 260, 300, 380, 456, 528, 600))
    ]
    best = {}
    for name in matched:
        best[name] = paper_curve.top_1(name)
    for name in efficientnets:
        error = paper_curve.TOP_1_ERROR
        assert any(
            best[other] >= best[name] - error
            for other in set(matched) - set(efficientnets)
        ), name


def test_the_quick_suite_is_a_matched_pair():
    (efficientnet, lambda_resnet) = names("quick")
    assert paper_curve.top_1(lambda_resnet) >= paper_curve.top_1(efficientnet)
    (pair, *_) = paper_curve.matched()
    assert [point.candidate for point in pair] == names("quick")
    assert {batch for _, batch in find_suite("quick")} == {4}


@pytest.mark.parametrize("suite", SUITES)
def test_every_model_of_a_suite_is_there(suite):
    for name in names(suite):
        assert str(find_candidate(name)) == name


def test_a_suite_that_is_not_there():
    message = "must be one of: paper, matched, quick. Received: suite=all"
    with pytest.raises(ValueError, match=message):
        find_suite("all")
