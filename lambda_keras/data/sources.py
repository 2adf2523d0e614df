"""The data sets by name."""

from collections.abc import Callable

from lambda_keras.data.dataset import ImageDataset
from lambda_keras.data.digits import load_digits

DATASETS: dict[str, Callable[[], ImageDataset]] = {"digits": load_digits}


def load_dataset(name: str) -> ImageDataset:
    """Loads the data set of that name.

    Args:
        name: A key of `DATASETS`.

    Returns:
        An `ImageDataset`.
    """
    if name not in DATASETS:
        raise ValueError(
            f"`dataset` must be one of: {', '.join(sorted(DATASETS))}. "
            f"Received: dataset={name}"
        )
    return DATASETS[name]()
