import dataclasses
import math

import pytest

from lambda_keras.models import get_spec
from lambda_keras.training.recipe import Recipe
from lambda_keras.training.recipes import RECIPES
from lambda_keras.training.recipes import find_recipe
from lambda_keras.training.recipes import paper_350ep
from lambda_keras.weights import CHECKPOINTS


def test_every_setting_is_explained_and_its_default_allowed():
    Recipe()
    for field in dataclasses.fields(Recipe):
        assert field.metadata["help"].endswith(".")


@pytest.mark.parametrize(
    ("name", "allowed", "refused"),
    [
        ("epochs", 1, 0),
        ("batch_size", 1, 0),
        ("learning_rate", 1e-9, 0.0),
        ("learning_rate", 1.0, math.inf),
        ("learning_rate", 1.0, math.nan),
        ("warmup_share", 0.0, 1.0),
        ("weight_decay", 0.0, -1e-9),
        ("label_smoothing", 0.99, 1.0),
        ("seed", 2**31 - 1, 2**31),
        ("seed", 0, -1),
    ],
)
def test_values_out_of_range(name, allowed, refused):
    assert getattr(Recipe(**{name: allowed}), name) == allowed
    message = rf"^`{name}` must be .*\. Received: {name}={refused}$"
    with pytest.raises(ValueError, match=message):
        Recipe(**{name: refused})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tpu": "local", "strategy": "none"}, "unless `strategy` is tpu"),
        ({"num_processes": 2}, "unless `strategy` is multiworker"),
        (
            {"strategy": "multiworker", "process_id": 0},
            "together or not at all",
        ),
        (
            {
                "strategy": "multiworker",
                "coordinator": "localhost:1234",
                "num_processes": 2,
                "process_id": 2,
            },
            "`process_id` must be below `num_processes`",
        ),
        ({"pseudo_share": 0.5}, "unless `pseudo` is given"),
        ({"freeze": "backbone"}, "unless `weights` are given"),
        ({"freeze": "head", "weights": "x.keras"}, "one of: nothing, backbon"),
        ({"profile_steps": "3,4"}, "unless `tensorboard` is set"),
        ({"profile_steps": "4,3", "tensorboard": True}, "two step numbers"),
        ({"profile_steps": "4", "tensorboard": True}, "two step numbers"),
    ],
)
def test_settings_that_contradict_each_other(settings, message):
    with pytest.raises(ValueError, match=rf"{message}.*Received: "):
        Recipe(**settings)


def test_settings_that_go_together():
    Recipe(tpu="local")
    Recipe(strategy="multiworker")
    Recipe(
        strategy="multiworker",
        coordinator="localhost:1234",
        num_processes=2,
        process_id=1,
    )
    Recipe(pseudo="labels", pseudo_share=0.5)
    Recipe(weights="imagenet", freeze="backbone")
    Recipe(tensorboard=True, profile_steps="10,20")


@pytest.mark.parametrize("name", RECIPES)
def test_each_recipe_names_its_model_and_says_how_it_is_run(name):
    recipe = find_recipe(name)
    assert get_spec(recipe.model)
    module = __import__(
        f"lambda_keras.training.recipes.{name}", fromlist=["RECIPE"]
    )
    assert "lambda-keras train" in module.__doc__


def test_fine_tuning_starts_from_weights_that_there_are():
    recipe = find_recipe("finetune")
    assert recipe.weights == "imagenet"
    assert get_spec(recipe.model).name in CHECKPOINTS


def test_the_digits_recipe_is_the_default():
    assert find_recipe("digits") == Recipe()


def test_what_is_given_takes_the_place_of_the_recipes():
    recipe = find_recipe("paper_resnet50_90ep", batch_size=1024)
    assert recipe.batch_size == 1024
    assert recipe.epochs == 90
    assert find_recipe("paper_350ep", dropout_rate=0.1).dropout_rate == 0.1


# ResNet-RS, table of its appendix; see `paper_350ep.adapt`.
@pytest.mark.parametrize(
    ("model", "image_size", "magnitude", "dropout", "stochastic_depth"),
    [
        ("resnet_50", 160, 10, 0.25, 0.0),
        ("lambda_resnet_101", 160, 10, 0.25, 0.0),
        ("lambda_resnet_101_u4", 192, 15, 0.25, 0.0),
        ("LambdaResNet152", 224, 15, 0.25, 0.0),
        ("lambda_resnet_152", None, 15, 0.25, 0.0),
        ("se_resnet_200", None, 15, 0.25, 0.1),
        ("lambda_resnet_270", 256, 15, 0.25, 0.1),
        ("lambda_resnet_350", 256, 15, 0.25, 0.1),
        ("lambda_resnet_350", 320, 15, 0.4, 0.1),
        ("lambda_resnet_420", None, 15, 0.4, 0.1),
    ],
)
def test_regularization_grows_with_the_model(
    model, image_size, magnitude, dropout, stochastic_depth
):
    recipe = find_recipe("paper_350ep", model=model, image_size=image_size)
    assert recipe.randaugment_layers == 2
    assert recipe.randaugment_magnitude == magnitude
    assert recipe.dropout_rate == dropout
    assert recipe.drop_path_rate == stochastic_depth


@pytest.mark.parametrize("depth", paper_350ep.IMAGE_SIZES)
def test_the_recipes_image_sizes_are_the_models(depth):
    spec = get_spec(f"lambda_resnet_{depth}")
    assert paper_350ep.IMAGE_SIZES[depth] == spec.image_size
