import pytest

from lambda_keras.benchmark.layer_candidates import choose_candidates
from lambda_keras.benchmark.layer_candidates import find_candidate
from lambda_keras.benchmark.layer_candidates import list_candidates
from lambda_keras.benchmark.layer_candidates import missing_packages
from lambda_keras.benchmark.layer_shapes import find_shape
from lambda_keras.layers.contractions import IMPLEMENTATIONS


def layers(shape):
    return {one.layer for one in list_candidates(find_shape(shape))}


def test_every_implementation_runs_in_three_ways():
    candidates = {str(one) for one in list_candidates(find_shape("14"))}
    for layer in ("auto", *IMPLEMENTATIONS, "plain_convolution"):
        for run in ("tf", "tf_jit", "jax"):
            assert f"{layer}/{run}" in candidates
    for layer in ("timm", "listing"):
        for run in ("eager", "compiled"):
            assert f"{layer}/{run}" in candidates


@pytest.mark.parametrize(
    ("shape", "without"),
    [
        ("14", set()),
        ("14_global", set()),
        ("28_u4", {"timm"}),
        ("sequence", {"timm", "attention_axial"}),
        (
            "causal",
            {"timm"}
            | {f"attention_{name}" for name in ("axial", "global", "local")},
        ),
    ],
)
def test_what_cannot_compute_a_shape_is_no_candidate_there(shape, without):
    assert layers("14") - layers(shape) == without


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ("auto", "auto/tf auto/tf_jit auto/jax"),
        ("auto/jax", "auto/jax"),
        ("timm*", "timm/eager timm/compiled"),
        ("eager,auto/tf*", "auto/tf auto/tf_jit timm/eager listing/eager"),
    ],
)
def test_patterns_pick_by_layer_by_run_or_by_both(patterns, expected):
    shape = find_shape("14")
    chosen = choose_candidates([shape], patterns.split(","))
    assert " ".join(map(str, chosen[shape])) == expected


def test_a_pattern_that_fits_nothing_anywhere_is_refused():
    shapes = [find_shape("14"), find_shape("causal")]
    chosen = choose_candidates(shapes, ["timm"])
    assert not chosen[shapes[1]] and chosen[shapes[0]]
    with pytest.raises(ValueError, match=r"Received: candidates=tim$"):
        choose_candidates(shapes, ["auto", "tim"])


def test_what_is_missing_is_named(monkeypatch):
    timm, listing = map(find_candidate, ("timm/eager", "listing/eager"))
    found = {"torch"}
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: name in found or None
    )
    assert missing_packages(timm) == ["timm"]
    assert missing_packages(listing) == []
    found.clear()
    assert missing_packages(timm) == ["torch", "timm"]
