"""Specs as data: names, figures, the paper's rows, and what they refuse."""

import collections
import dataclasses

import keras
import pytest

from lambda_keras.models import MODEL_SPECS
from lambda_keras.models import build_model
from lambda_keras.models import count_flops
from lambda_keras.models import count_parameters
from lambda_keras.models import get_spec

PAPER_ROWS = [
    (spec, row)
    for spec in MODEL_SPECS.values()
    for row in spec.paper
    if row.parameters_m is not None
]


@pytest.mark.parametrize("name", MODEL_SPECS)
def test_full_size_models_have_the_figures_of_their_spec(name):
    # A model of full size without its weights: nothing is allocated.
    with keras.StatelessScope(initialize_variables=False):
        model = build_model(name)
    parameters, flops = count_parameters(model), count_flops(model)
    spec = get_spec(name)
    assert (parameters, flops) == (spec.parameters, spec.flops), (
        f'the line in figures.py is "{name}": ({parameters:_}, {flops:_}),'
    )


@pytest.mark.parametrize(
    "spec, row", [pytest.param(*pair, id=pair[1].row) for pair in PAPER_ROWS]
)
def test_parameters_are_what_the_paper_prints_unless_a_reason_is_given(
    spec, row
):
    # One decimal is printed, and rounding allows half of one.
    fits = abs(spec.parameters / 1e6 - row.parameters_m) <= 0.05
    assert fits == (not row.misfit)


def test_all_rows_of_the_papers_tables_are_there():
    assert collections.Counter(row.table for _, row in PAPER_ROWS) == {
        "Table 3 (layers)": 5,
        "Table 12 (stages)": 8,
        "ablation of key depth, heads and intra-depth": 16,
        "squeeze-and-excitation against lambda layers, 350 epochs": 8,
    }
    assert sum(bool(row.misfit) for _, row in PAPER_ROWS) == 11


@pytest.mark.parametrize(
    "depth, in_c4",
    [(50, 1), (101, 3), (152, 6), (200, 6), (270, 6), (350, 6), (420, 8)],
)
def test_a_lambda_resnet_mixes_in_some_of_c4_and_all_of_c5(depth, in_c4):
    spec = get_spec(f"lambda_resnet_{depth}")
    c2, c3, c4, c5 = spec.mixer_blocks
    assert (c2, c3, len(c4)) == ((), (), in_c4)
    assert c5 == tuple(range(spec.depths[3]))
    # Three convolutions a block, stem and classifier; some names are rounded.
    assert abs(3 * sum(spec.depths) + 2 - depth) <= 2
    convolutional = get_spec(f"se_resnet_{depth}")
    assert spec == dataclasses.replace(
        convolutional,
        name=spec.name,
        mixer="lambda",
        mixer_blocks=spec.mixer_blocks,
        parameters=spec.parameters,
        flops=spec.flops,
        paper=spec.paper,
    )


@pytest.mark.parametrize(
    "name, parameters",
    # As timm 1.0.31 counts them, which has weights of these models.
    [
        ("LambdaResNet26T", 10_958_272),
        ("LambdaResNet26RPT", 10_988_688),
        ("LambdaResNet50TS", 21_536_832),
    ],
)
def test_models_with_public_weights_have_as_many_parameters(name, parameters):
    assert get_spec(name).parameters == parameters


@pytest.mark.parametrize(
    "name", ["lambda_resnet_152", "LambdaResNet152", "lambdaresnet_152"]
)
def test_case_and_underscores_do_not_matter_in_a_name(name):
    assert get_spec(name) is MODEL_SPECS["lambda_resnet_152"]


def test_an_unknown_name_is_answered_with_close_ones():
    with pytest.raises(
        ValueError,
        match=r"closest are lambda_resnet_50, .* Received: "
        "name='lambda_resnet_51'",
    ):
        get_spec("lambda_resnet_51")


def test_stochastic_depth_grows_by_stage():
    spec = dataclasses.replace(get_spec("resnet_50"), drop_path_rate=0.5)
    rates = [spec.stage_drop_path_rate(stage) for stage in range(4)]
    assert rates == pytest.approx([0.2, 0.3, 0.4, 0.5])


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"depths": (1, 1, 1)}, "one entry for each stage.*depths="),
        ({"mixer": "lambada"}, "must be None or one of.*mixer='lambada'"),
        ({"mixer": None}, "`mixer_blocks` needs a `mixer`.*mixer=None"),
        ({"depths": (3, 4, 3, 3)}, "indices of blocks.*depths="),
        ({"num_heads": 512}, "multiple of `num_heads`.*num_heads=512"),
        ({"drop_path_rate": 1.0}, "less than 1.*drop_path_rate=1.0"),
        ({"dropout_rate": -0.1}, "at least 0.*dropout_rate=-0.1"),
        ({"crop": 0}, "`crop` must be None or above 0.*crop=0"),
        ({"crop": 1.1}, "at most 1. Received: crop=1.1"),
        ({"interpolation": "nearest"}, "one of .*interpolation='nearest'"),
        ({"mixer_pool_size": 4}, "must be 2 or 3. .*mixer_pool_size=4"),
        ({"mean": (0.5,)}, "one entry for each channel.*mean="),
    ],
)
def test_a_spec_whose_fields_do_not_fit_is_refused(changes, message):
    spec = get_spec("lambda_resnet_50")
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(spec, **changes)
