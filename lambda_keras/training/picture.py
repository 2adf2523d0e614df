"""The picture of a run: learning curves and test images with predictions."""

import logging
import math
import os
from collections.abc import Mapping
from collections.abc import Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.figure import FigureBase
from matplotlib.ticker import MaxNLocator

from lambda_keras.data.dataset import Split
from lambda_keras.files import write_aside

# In a new environment it reports on standard error that it looks for fonts.
logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)

WIDTH, HEIGHT, DPI = 14, 7, 100
ROWS, COLUMNS = 6, 10
TRAINING, VALIDATION, WRONG = "#8c8c8c", "#1f5fa8", "#c8102e"


def draw_run(
    path: str | os.PathLike[str],
    title: str,
    history: Mapping[str, Sequence[float]],
    best_epoch: int,
    test: Split,
    predictions: np.ndarray,
    class_names: Sequence[str],
    is_part: bool = False,
) -> None:
    """Writes a PNG of 1400 by 700 pixels.

    The test images that the model gets wrong come first, in red, then others
    in their order; the text below an image is the prediction.

    Args:
        path: The file to write.
        title: One line above everything.
        history: Loss and accuracy per epoch, as `Model.fit` returns them.
        best_epoch: The number of the epoch whose weights were kept, from 1.
        test: The test images and their classes.
        predictions: The model's probabilities for them.
        class_names: One name per class.
        is_part: Whether these are only the first of the test images.
    """
    figure = Figure(figsize=(WIDTH, HEIGHT), dpi=DPI, layout="constrained")
    figure.suptitle(title, fontsize=13)
    columns = figure.add_gridspec(1, 2, width_ratios=(1, 1.35))
    _draw_curves(figure.add_subfigure(columns[0]), history, best_epoch)
    draw_images(
        figure.add_subfigure(columns[1]),
        test,
        predictions,
        class_names,
        is_part,
    )
    with write_aside(path) as temporary:
        FigureCanvasAgg(figure).print_png(temporary)


def _draw_curves(figure, history, best_epoch):
    epochs = np.arange(1, len(history["loss"]) + 1)
    loss, error = figure.subplots(2, 1, sharex=True)
    for key, label, color in (
        ("", "training", TRAINING),
        ("val_", "validation", VALIDATION),
    ):
        # The points make a run of one epoch visible.
        style = {"color": color, "marker": ".", "markersize": 4}
        loss.plot(epochs, history[f"{key}loss"], label=label, **style)
        error.plot(epochs, 1 - np.array(history[f"{key}accuracy"]), **style)
    # On a linear scale all good accuracies look alike; no error at all is
    # common on a small split and has no place on a logarithmic one.
    error.set_yscale("symlog", linthresh=1e-3, linscale=0.5)
    error.set_ylim(0, 1)
    error.yaxis.set_major_formatter(lambda part, _: f"{100 * part:g} %")
    for axes, name in (loss, "loss"), (error, "error"):
        axes.axvline(best_epoch, color=VALIDATION, lw=1, ls=":", label="kept")
        axes.set_ylabel(name)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    loss.legend(frameon=False)
    error.set_xlabel("epoch")
    error.xaxis.set_major_locator(MaxNLocator(integer=True))


def draw_images(
    figure: FigureBase,
    test: Split,
    predictions: np.ndarray,
    class_names: Sequence[str],
    is_part: bool = False,
) -> None:
    """Draws a grid of test images with predictions, the wrong ones first.

    Args: as for `draw_run`, on a figure or a part of one.
    """
    predicted = predictions.argmax(axis=-1)
    wrong = predicted != test.labels
    # Stable, so that the rest stay in their order.
    shown = np.argsort(~wrong, kind="stable")[: ROWS * COLUMNS]
    figure.suptitle(
        f"Predictions: {wrong.sum()} of {'the first ' * is_part}{len(wrong)} "
        "test images are wrong",
        fontsize=11,
    )
    rows = math.ceil(len(shown) / COLUMNS)
    grid = figure.subplots(rows, COLUMNS, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for axes, index in zip(grid.flat, shown, strict=False):
        # Matplotlib takes one channel as (height, width).
        image = np.squeeze(test.images[index]) / 255
        axes.imshow(image, cmap="gray_r", vmin=0, vmax=1)
        caption = _short(class_names[predicted[index]])
        if wrong[index]:
            label = _short(class_names[test.labels[index]])
            is_short = len(caption + label) <= 4
            caption += f", not {label}" if is_short else f"\nnot {label}"
        axes.set_title(
            caption,
            fontsize=9 if len(caption) <= 9 else 8,
            color=WRONG if wrong[index] else "black",
            y=-0.12,
            verticalalignment="top",
        )


def _short(name):
    """The first of the names that ImageNet has for a class, or its start."""
    name = name.partition(",")[0]
    return name if len(name) <= 9 else f"{name[:8]}\u2026"
