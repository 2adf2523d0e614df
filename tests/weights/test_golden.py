"""The models compute what timm's do, of which golden files tell.

`tests/golden/make_timm.py` makes them; weights and images are drawn again.
"""

import ast
import dataclasses

import numpy as np
import pytest

from lambda_keras.models import get_spec
from lambda_keras.weights.safetensors_files import write_tensors
from tests.golden.make_timm import CLASSES
from tests.golden.make_timm import IMAGE_SIZES
from tests.golden.make_timm import WIDTH_FACTOR
from tests.golden.make_timm import golden_path
from tests.golden.stream import draw_images
from tests.golden.stream import draw_tensor
from tests.golden.stream import sample
from tests.timm_models import STAGES
from tests.timm_models import TIMM_NAMES
from tests.timm_models import deviation
from tests.timm_models import keras_outputs
from tests.timm_models import make_keras_model

# Timm computed in float64. The largest deviation was 4.9e-6 (TensorFlow 2.21
# and JAX 0.10.2 on a CPU, 2026-11); any one tensor that is off by two
# hundredths changes the logits by more.
TOLERANCE = 2e-5


def read_golden(name, size):
    with np.load(golden_path(name, size)) as file:
        return dict(file)


def write_drawn(golden, path):
    """Writes the file that timm would write."""
    shapes = map(ast.literal_eval, golden["shapes"])
    tensors = {
        name: draw_tensor(name, shape)
        for name, shape in zip(golden["names"].tolist(), shapes)
    }
    single = {
        name: x if x.dtype == "int64" else x.astype("float32")
        for name, x in tensors.items()
    }
    write_tensors(path, single)


@pytest.mark.parametrize("size", IMAGE_SIZES, ids=str)
@pytest.mark.parametrize("name", TIMM_NAMES)
def test_outputs_are_timm_s(name, size, tmp_path):
    golden = read_golden(name, size)
    write_drawn(golden, tmp_path / "timm.safetensors")
    spec = get_spec(name)
    narrow = dataclasses.replace(spec, width=int(spec.width * WIDTH_FACTOR))
    model = make_keras_model(
        tmp_path / "timm.safetensors", narrow, size, classes=CLASSES
    )
    outputs = keras_outputs(model, draw_images((1, *size, 3)))
    deviations = {
        key: deviation(sample(outputs[key]), golden[key])
        for key in (*STAGES, "logits")
    }
    assert max(deviations.values()) < TOLERANCE, deviations
