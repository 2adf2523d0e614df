"""The recipes by name: one module each, with what it does and whose it is.

A module has a `RECIPE` and, where settings depend on the model, a function
`adapt(model, image_size)` that returns those as a dictionary. A recipe of
one's own is such a file, given by its path.
"""

import importlib
import runpy
from typing import Any

from lambda_keras.training.recipe import Recipe

RECIPES = ("digits", "finetune", "paper_resnet50_90ep", "paper_350ep")


def find_recipe(name: str, **given: Any) -> Recipe:
    """Looks up a recipe and changes what is given.

    Args:
        name: One of `RECIPES`, or the path of a `.py` file like theirs,
            which is run.
        **given: Fields that take the place of the recipe's.

    Returns:
        A `Recipe`.

    Raises:
        ValueError: If there is no such recipe, or the fields do not fit.

    Example:

    >>> find_recipe("paper_350ep", model="lambda_resnet_350").dropout_rate
    0.4
    """
    if name in RECIPES:
        module = vars(importlib.import_module(f"{__name__}.{name}"))
    elif name.endswith(".py"):
        module = _run_file(name)
    else:
        raise ValueError(
            f"`recipe` must be one of: {', '.join(RECIPES)}, or the path of a "
            f".py file. Received: recipe={name}"
        )
    fields = vars(module["RECIPE"])
    if "adapt" in module:
        model = given.get("model", fields["model"])
        image_size = given.get("image_size", fields["image_size"])
        fields = {**fields, **module["adapt"](model, image_size)}
    return Recipe(**{**fields, **given})


def _run_file(path: str) -> dict[str, Any]:
    try:
        module = runpy.run_path(path)
    # Whatever is wrong with a file of the user's, its name has to be said.
    except Exception as error:
        raise ValueError(
            "`recipe` must be a Python file that can be run "
            f"({type(error).__name__}: {error}). Received: recipe={path}"
        ) from error
    if not isinstance(module.get("RECIPE"), Recipe):
        raise ValueError(
            "`recipe` must be a file that sets RECIPE to a Recipe. "
            f"Received: recipe={path}"
        )
    return module
