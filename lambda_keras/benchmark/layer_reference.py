"""What every lambda layer must compute: inputs, weights, outputs, gradients."""

import os
from collections.abc import Mapping

import keras
import numpy as np

from lambda_keras.benchmark.layer_shapes import LayerShape
from lambda_keras.layers import LambdaLayer

FORWARD, TRAINING = "forward", "training"
INPUTS, COTANGENT, OUTPUT = "inputs", "cotangent", "output"

# Of the largest value of an array. Sums in another order give less than a
# tenth of the first; TF32, which accelerators may multiply float32 in, has 10
# bits; a wrong weight or a transposed axis gives about 1.
TOLERANCE, TF32_TOLERANCE = 1e-4, 2e-2

Arrays = Mapping[str, np.ndarray]


def weight_name(variable: keras.Variable) -> str:
    """Returns the path of a variable below its layer."""
    return variable.path.partition("/")[2]


def gradient_name(name: str) -> str:
    """Returns how the gradient of a weight, or of the inputs, is called."""
    return f"gradient of {name}"


def write_reference(shape: str, path: str) -> None:
    """Draws inputs and weights, and computes what follows from them.

    Batch norms have statistics, scales and shifts of all sorts, so that
    nothing that was left out could go unseen.

    Args:
        shape: As `find_shape` takes it.
        path: The `.npz` file to write: `inputs`, `cotangent`, all weights by
            their names, and by mode `output` and gradients.
    """
    # Only here: a process of another engine reads, and computes nothing.
    from lambda_keras.benchmark.layer_shapes import find_shape
    from lambda_keras.benchmark.layer_steps import create_keras_step

    found = find_shape(shape)
    arrays = draw_arrays(found)
    for mode in (FORWARD, TRAINING):
        layer = LambdaLayer(**found.layer_arguments)
        step = create_keras_step(layer, mode, arrays, found.inputs_shape)
        results = step.read(step.run())
        arrays |= {f"{mode}/{name}": array for name, array in results.items()}
    with open(path, "wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def draw_arrays(shape: LayerShape) -> dict[str, np.ndarray]:
    """Draws inputs, what comes back from above, and weights."""
    generator = np.random.default_rng(0)
    layer = LambdaLayer(**shape.layer_arguments)
    layer.build(shape.inputs_shape)
    arrays = {
        name: generator.normal(size=shape.inputs_shape)
        for name in (INPUTS, COTANGENT)
    }
    for variable in layer.variables:
        name = weight_name(variable)
        normal = generator.normal(size=variable.shape)
        if "_norm/" in name:
            # Around 1, and never negative: also a variance.
            normal = np.exp(0.3 * normal)
        elif name != "position_embeddings":
            normal *= shape.channels**-0.5
        arrays[name] = normal
    return {name: array.astype("float32") for name, array in arrays.items()}


def read_reference(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads what `write_reference` wrote."""
    with np.load(path) as file:
        return dict(file)


def check_results(
    results: Arrays, reference: Arrays, mode: str, tolerance: float
) -> float:
    """Compares what a layer computed with the reference.

    Args:
        results: The output and, in training, all gradients.
        reference: What `read_reference` returns.
        mode: `FORWARD` or `TRAINING`.
        tolerance: How much any number may be off, as a part of the largest
            of its array.

    Returns:
        How much one is off at most.

    Raises:
        ValueError: If that is more, or if arrays are missing.
    """
    expected = {
        name.partition("/")[2]: array
        for name, array in reference.items()
        if name.startswith(f"{mode}/")
    }
    if expected.keys() != results.keys():
        differing = sorted(expected.keys() ^ results.keys())
        raise ValueError(
            "A layer must give the output and a gradient for each weight. "
            f"Received: {', '.join(differing)} in one of both only"
        )
    worst = 0.0
    for name, array in expected.items():
        result = np.asarray(results[name], "float32")
        if result.shape != array.shape:
            raise ValueError(
                f"The {name} must have the shape {array.shape}. "
                f"Received: shape={result.shape}"
            )
        off = float(np.abs(result - array).max() / np.abs(array).max())
        # Also of NaN.
        if not off <= tolerance:
            raise ValueError(
                f"The {name} must be that of the reference, to {tolerance:g} "
                f"of its largest value. Received: {off:.2g} of it"
            )
        worst = max(worst, off)
    return worst
