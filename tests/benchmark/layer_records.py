"""Records of a layer comparison that nobody measured."""

from lambda_keras.benchmark.layer_candidates import find_candidate
from lambda_keras.benchmark.layer_shapes import find_shape
from lambda_keras.benchmark.records import make_record


def layer_record(
    name, values, shape="14", mode="training", memory=2_000_000, **others
):
    """Returns a record; of no values, for the reason given as `error`."""
    found = find_shape(shape)
    settings = {
        "shape": shape,
        "described": str(found),
        "mode": mode,
        "engine": find_candidate(name).engine,
        "precision": "float32",
        "implementation": "blocked",
        "compile_seconds": 1.25,
        "peak_memory_bytes": memory,
    }
    return make_record(
        "layer",
        name,
        "ms",
        values,
        found.batch,
        settings,
        {"kind": "CPU", "name": "a processor", "count": 2},
        versions={"keras": "3"},
        **others,
    )
