"""The picture of a pseudo-labelling: how confident, and how many of what."""

import os

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lambda_keras.files import write_aside
from lambda_keras.training.predictions import Predictions
from lambda_keras.training.pseudo_labels import Selection

WIDTH, HEIGHT, DPI = 10, 4, 100
KEPT, LEFT_OUT = "#1f5fa8", "#bdbdbd"
# More names than these would not be legible side by side.
MOST_NAMES = 20


def draw_pseudo_labels(
    path: str | os.PathLike[str],
    title: str,
    predictions: Predictions,
    selection: Selection,
    min_confidence: float,
    class_names: tuple[str, ...],
) -> None:
    """Writes a PNG of 1000 by 400 pixels.

    Args:
        path: The file to write.
        title: One line above everything.
        predictions: The predictions of all images.
        selection: What was chosen of them.
        min_confidence: From which confidence on.
        class_names: One name per class.
    """
    figure = Figure(figsize=(WIDTH, HEIGHT), dpi=DPI, layout="constrained")
    figure.suptitle(title, fontsize=12)
    confidences, classes = figure.subplots(1, 2)
    readable = predictions.confidence[predictions.predicted >= 0]
    kept = predictions.confidence[np.unique(selection.indices)]
    bins = np.linspace(0, 1, 41).tolist()
    confidences.hist(readable, bins, color=LEFT_OUT, label="all")
    confidences.hist(kept, bins, color=KEPT, label="kept")
    confidences.axvline(
        min_confidence, color="black", lw=1, ls=":", label="threshold"
    )
    # Nearly all images are where the teacher is nearly sure.
    confidences.set_yscale("log")
    confidences.set_xlabel("confidence")
    confidences.set_ylabel("images")
    confidences.legend(frameon=False)

    order = np.argsort(-selection.confident, kind="stable")
    if len(class_names) <= MOST_NAMES:
        order = np.arange(len(class_names))
        classes.set_xticks(order, class_names)
    else:
        classes.set_xlabel("class, by its number of confident images")
        classes.xaxis.set_major_locator(MaxNLocator(integer=True))
    position = np.arange(len(class_names))
    classes.bar(position, selection.confident[order], color=LEFT_OUT, width=0.8)
    classes.bar(position, selection.kept[order], color=KEPT, width=0.8)
    classes.axhline(selection.per_class, color="black", lw=1, ls=":")
    classes.set_ylabel("confident (grey) and kept (blue)")
    for axes in confidences, classes:
        axes.spines[["top", "right"]].set_visible(False)
    with write_aside(path) as temporary:
        FigureCanvasAgg(figure).print_png(temporary)
