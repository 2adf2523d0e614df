"""The picture of predictions: images beside their likeliest classes."""

import logging
import math
import os
import warnings
from collections.abc import Sequence

import tensorflow as tf
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lambda_keras.files import write_aside
from lambda_keras.serving.prediction import Prediction
from lambda_keras.serving.prediction_inputs import EncodedImage
from lambda_keras.serving.prediction_results import show_text

# In a new environment it reports on standard error that it looks for fonts.
logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)

# More would be a picture that few programs show.
MOST_IMAGES, COLUMNS = 24, 2
# In inches.
WIDTH, HEIGHT, TITLE_HEIGHT = 6.5, 2.1, 0.5
DPI = 100
# More than the pixels that an image is drawn with.
SIDE = 320
BARS = 5
TITLE_LENGTH, NAME_LENGTH, LABEL_LENGTH = 58, 44, 38
BAR, MISSING = "#b9d0ea", "#8c8c8c"


def draw_predictions(
    path: str | os.PathLike[str],
    title: str,
    images: Sequence[EncodedImage],
    predictions: Sequence[Prediction],
) -> None:
    """Writes a PNG with an image and its five likeliest classes per panel.

    An image without labels has its status there.

    Args:
        path: The file to write.
        title: One line above everything.
        images: The images, at most `MOST_IMAGES`.
        predictions: What a model says of them.
    """
    columns = min(COLUMNS, len(images))
    rows = math.ceil(len(images) / columns)
    figure = Figure(
        figsize=(WIDTH * columns, HEIGHT * rows + TITLE_HEIGHT),
        dpi=DPI,
        layout="constrained",
    )
    figure.suptitle(_shorten(title, TITLE_LENGTH * columns), fontsize=12)
    # One grid for all, so that what is in a column begins at the same place.
    grid = figure.subplots(
        rows, 2 * columns, squeeze=False, width_ratios=(1, 1.5) * columns
    )
    for axes in grid.flat:
        axes.axis("off")
    panels = grid.reshape(-1, 2)
    for (shown, bars), image, prediction in zip(panels, images, predictions):
        _draw_image(shown, image, prediction)
        _draw_bars(bars, prediction)
    # A name may be in letters that the font does not have.
    with warnings.catch_warnings(), write_aside(path) as temporary:
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        FigureCanvasAgg(figure).print_png(temporary)


def _draw_image(axes, image, prediction):
    axes.set_anchor("NW")
    # Its end tells more than the folders that it begins with.
    name = show_text(image.name)
    if len(name) > NAME_LENGTH:
        name = f"\u2026{name[1 - NAME_LENGTH :]}"
    axes.set_title(name, fontsize=8, loc="left", parse_math=False)
    if prediction.classes:
        axes.imshow(_decode(image.content), interpolation="nearest")


def _decode(content):
    """Decodes what a model has decoded, to about the size it is drawn in."""
    image = tf.io.decode_image(content, channels=3, expand_animations=False)
    if max(image.shape) > SIDE:
        image = tf.image.resize(
            image, (SIDE, SIDE), preserve_aspect_ratio=True, antialias=True
        )
        image = tf.cast(tf.clip_by_value(image + 0.5, 0, 255), tf.uint8)
    return image.numpy()


def _draw_bars(axes, prediction):
    axes.set_xlim(0, 1)
    axes.set_ylim(BARS - 0.4, -0.6)
    if not prediction.classes:
        axes.text(
            0, 0, prediction.status, color=MISSING, va="center", fontsize=10
        )
    scores = prediction.scores[:BARS]
    axes.barh(range(len(scores)), scores, color=BAR, height=0.8)
    for row, (label, score) in enumerate(zip(prediction.labels, scores)):
        style = {"va": "center", "fontsize": 9, "parse_math": False}
        axes.text(0.01, row, _shorten(label, LABEL_LENGTH), **style)
        axes.text(0.99, row, f"{100 * score:.1f} %", ha="right", **style)


def _shorten(text, length):
    text = show_text(text)
    return text if len(text) <= length else f"{text[: length - 1]}\u2026"
