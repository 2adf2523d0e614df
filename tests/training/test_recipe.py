import dataclasses
import math

import pytest

from lambda_keras.training.recipe import Recipe


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
