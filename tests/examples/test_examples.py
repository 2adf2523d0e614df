"""Every example runs, at a small size, and shows what it is there to show."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"

# The engine makes no difference to what is tested here, but to its duration.
pytestmark = pytest.mark.tf_only


def run(name: str, *flags: str) -> str:
    """Runs an example as its first line says, and returns what it printed."""
    process = subprocess.run(
        [sys.executable, f"examples/{name}.py", *flags],
        cwd=EXAMPLES.parent,
        env={**os.environ, "PYTHONPATH": str(EXAMPLES.parent)},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


def percentages(name: str, text: str) -> list[float]:
    return [float(x) for x in re.findall(rf"{name}: (\d+\.\d)%", text)]


def test_sequential():
    output = run("sequential", "--epochs=4")
    assert "lambda_layer (LambdaLayer)" in output
    # 0.95 in a fifth of the epochs, with either of two seeds.
    assert float(re.search(r"test accuracy (\S+)", output)[1]) > 0.8


def test_sequence_copy():
    output = run("sequence_copy", "--gap=24", "--length=4", "--steps=60")
    assert percentages("chance", output) == [12.5]
    assert percentages("lambda", output)[0] > 95
    # 256 sequences of 4: a standard deviation of 1 around the chance.
    assert abs(percentages("convolutions", output)[0] - 12.5) < 5


def test_inspect_lambda_resnet():
    output = run("inspect_lambda_resnet", "--image_size=64")
    assert "lambda_resnet_50 at 64x64\n  parameters  21.6 million\n" in output
    assert "\n  c2  16x16x256\n  c3  8x8x512\n  c4  4x4x1024\n" in output
    assert "\n  2x2x512: c5_block1_lambda, c5_block2_lambda\n" in output


def test_mixed_precision():
    output = run("mixed_precision", "--epochs=1", "--policies=mixed_float16")
    header, row = map(str.split, output.splitlines())
    assert dict(zip(header, row, strict=True)).items() >= {
        ("policy", "mixed_float16"),
        ("weights", "float32"),
        ("inside", "float16"),
        ("output", "float32"),
        ("optimizer", "LossScaleOptimizer"),
    }


@pytest.mark.slow
def test_fine_tune(tmp_path):
    import tensorflow as tf
    from sklearn.datasets import load_sample_images

    from lambda_keras.models import build_model
    from lambda_keras.weights.conversion import save_as_timm

    photographs = load_sample_images().images
    for number in range(24):
        corner = 8 * number
        part = photographs[number % 2][corner : corner + 48, corner:][:, :56]
        path = tmp_path / "photos" / f"class{number % 2}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tf.io.encode_jpeg(part).numpy())
    weights = tmp_path / "timm.safetensors"
    save_as_timm(build_model("lambda_resnet_26t", width=4), weights)
    output = run(
        "fine_tune",
        f"--dataset=folder:{tmp_path / 'photos'}",
        f"--weights={weights}",
        *("--width=4", "--image_size=32", "--batch_size=8", "--epochs=2"),
    )
    lines = output.splitlines()
    assert lines[0].startswith("16 images of 2 classes to train on, 6 to test")
    stages = [line.split()[:2] for line in lines[2:]]
    # 128 features and an offset for each of two classes.
    assert stages[0] == ["classifier", "258"]
    assert stages[1][0] == "everything"
    assert int(stages[1][1].replace(",", "")) > 10_000


@pytest.mark.slow
def test_pseudo_labels(tmp_path):
    output = run("pseudo_labels", f"--output_dir={tmp_path}")
    assert output.count("$ lambda-keras pseudo_label ") == 3
    print(output)
    assert float(re.search(r"margin: (\S+) points over", output)[1]) > 0


def test_readme_lists_every_example():
    readme = (EXAMPLES / "README.md").read_text()
    listed = re.findall(r"^- \[`(\w+)\.py`\]\(\1\.py\): ", readme, re.MULTILINE)
    assert sorted(listed) == sorted(path.stem for path in EXAMPLES.glob("*.py"))


@pytest.mark.parametrize(
    "path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem
)
def test_begins_with_the_command_and_ends_with_the_outcome(path):
    lines = path.read_text().splitlines()
    assert lines[0].startswith(f'"""python examples/{path.name}')
    outcome = lines[lines.index("    app.run(main)") + 1 :]
    assert outcome[1].startswith("# Measured ")
    assert all(line.startswith("#") for line in outcome[1:])
