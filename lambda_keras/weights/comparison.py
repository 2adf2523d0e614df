"""What of a file of weights fits a model, by names and shapes alone."""

import dataclasses
import os
from collections import defaultdict
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence

import keras

from lambda_keras.models import ModelSpec

CLASSIFIER = "predictions"

_NAMED_PROBLEMS = 3

Shape = tuple[int, ...]


def layer_name(path: str) -> str:
    """Returns the name of the model's layer that a weight is in.

    Args:
        path: The `weight.path`.

    Returns:
        Its first part.
    """
    return path.partition("/")[0]


def names_by_layer(model: keras.Model) -> Mapping[str, Sequence[str]]:
    """Lists the names of weights by the paths of their layers.

    Args:
        model: The model.

    Returns:
        What `keras_files.open_weights` takes.
    """
    names = defaultdict(list)
    for weight in model.weights:
        layer, _, name = weight.path.rpartition("/")
        names[layer].append(name)
    return names


def has_global_tables(spec: ModelSpec) -> bool:
    """Tells whether the sizes of lambda layers' tables are those of maps.

    Args:
        spec: The spec of a model.

    Returns:
        A bool.
    """
    return spec.mixer == "lambda" and spec.receptive_field is None


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What of a file and a model differs: weights, by how they do.

    Attributes:
        missing: Those that only the model has, and their shapes.
        unexpected: Those that only the file has, and their shapes. Those of
            a classifier are not counted if the model has none.
        misshapen: Those of two shapes: the file's and the model's.
        tables: Tables of relative positions for maps of two sizes, which can
            be resampled.
    """

    missing: dict[str, Shape]
    unexpected: dict[str, Shape]
    misshapen: dict[str, tuple[Shape, Shape]]
    tables: dict[str, tuple[Shape, Shape]]

    def fresh_layers(self, model: keras.Model) -> tuple[str, ...]:
        """Lists the layers that the file does not have in this shape.

        Args:
            model: The model.

        Returns:
            Their names, in the order of the model.
        """
        fresh = {layer_name(x) for x in (*self.missing, *self.misshapen)}
        return tuple(x.name for x in model.layers if x.name in fresh)

    def unused_layers(self) -> tuple[str, ...]:
        """Lists the layers that have weights in the file alone.

        Returns:
            Their names, in the order of the file.
        """
        return tuple(dict.fromkeys(map(layer_name, self.unexpected)))

    def refuse_problems(
        self, model: keras.Model, weights: str | os.PathLike[str]
    ) -> None:
        """Raises an error for all but the number of classes.

        Args:
            model: The model.
            weights: The weights, as the user named them.

        Raises:
            ValueError: If anything else does not fit.
        """
        missing = [f"`{path}` {x}" for path, x in self.missing.items()]
        unexpected = [f"`{path}` {x}" for path, x in self.unexpected.items()]
        misshapen = [
            f"`{path}` {in_file}, not {in_model}"
            for path, (in_file, in_model) in self.misshapen.items()
            if not _is_of_other_classes(path, in_file, in_model)
        ]
        kinds = {
            "missing": missing,
            "not expected": unexpected,
            "of another shape": misshapen,
        }
        if any(kinds.values()):
            raise ValueError(
                f"The file does not hold weights of `{model.name}` with "
                f"output shape {model.output.shape} and "
                f"{model.count_params():,} numbers: {show_problems(kinds)}. "
                f"Received: weights={os.fspath(weights)!r}"
            )


def compare(
    model: keras.Model, spec: ModelSpec, stored: Mapping[str, Shape]
) -> Comparison:
    """Compares a model with what a file holds.

    Args:
        model: The model, which need have no values.
        spec: Its spec.
        stored: The shapes of the file's weights, by `weight.path`.

    Returns:
        A `Comparison`.
    """
    found = Comparison({}, {}, {}, {})
    expected = {x.path: tuple(x.shape) for x in model.weights}
    for path, shape in expected.items():
        in_file = stored.get(path)
        if in_file is None:
            found.missing[path] = shape
        elif in_file != shape:
            is_table = has_global_tables(spec) and _are_tables(
                path, in_file, shape
            )
            kind = found.tables if is_table else found.misshapen
            kind[path] = in_file, shape
    layers = {layer_name(path) for path in expected}
    for path, shape in stored.items():
        if path not in expected and (
            CLASSIFIER in layers or layer_name(path) != CLASSIFIER
        ):
            found.unexpected[path] = shape
    return found


def name_some(texts: Iterable[str]) -> str:
    """Joins the first few of what may be many.

    Args:
        texts: What to name.

    Returns:
        Their text, which ends with dots if there are more.
    """
    texts = tuple(texts)
    named = ", ".join(texts[:_NAMED_PROBLEMS])
    return f"{named}, ..." if len(texts) > _NAMED_PROBLEMS else named


def show_problems(kinds: Mapping[str, Sequence[str]]) -> str:
    """Names the first few problems of each kind.

    Args:
        kinds: What is wrong, by what is wrong with it.

    Returns:
        One line, as `"2 missing: a, b; 1 not expected: c"`.
    """
    return "; ".join(
        f"{len(texts)} {kind}: {name_some(texts)}"
        for kind, texts in kinds.items()
        if texts
    )


def _is_of_other_classes(path: str, in_file: Shape, in_model: Shape) -> bool:
    return (
        layer_name(path) == CLASSIFIER
        and len(in_file) == len(in_model)
        and in_file[:-1] == in_model[:-1]
        and in_file[-1] > 0
    )


def _are_tables(path: str, in_file: Shape, in_model: Shape) -> bool:
    return (
        path.endswith("_lambda/position_embeddings")
        and len(in_file) == len(in_model)
        and in_file[-2:] == in_model[-2:]
        # As many positions before the middle as after it.
        and all(taps % 2 for taps in in_file[:-2])
    )
