import io
import os

import numpy as np
import pytest
from PIL import Image

from lambda_keras.serving.prediction import Prediction
from lambda_keras.serving.prediction_inputs import EncodedImage
from tests.serving.image_files import jpeg
from tests.serving.image_files import photograph
from tests.serving.image_files import png

pytestmark = pytest.mark.tf_data

LABELS = (
    "palace",
    "black-and-tan_coonhound",
    "a label " * 20,
    "$x_1$",
    "\u6f22",
)


BAR = (185, 208, 234)


def predictions_of(images, labels=LABELS):
    scores = (0.5, 0.2, 0.1, 0.05, 0.01)
    return [
        Prediction(image.name, "ok", range(5), labels, scores)
        for image in images
    ]


def draw(path, images, predictions, title="lambda_resnet_50ts"):
    """Writes the picture, and returns its pixels."""
    from lambda_keras.serving.prediction_picture import draw_predictions

    draw_predictions(path, title, images, predictions)
    assert os.listdir(path.parent) == [path.name]
    return np.asarray(Image.open(io.BytesIO(path.read_bytes())).convert("RGB"))


def shows(picture, color):
    """How much of a picture has about this colour."""
    return (np.abs(picture.astype(int) - color).max(axis=-1) < 10).mean()


def one_color(color, size=(80, 60)):
    return Image.new("RGB", size, color)


@pytest.mark.parametrize(
    ("count", "shape"),
    [
        (1, (260, 650)),
        (2, (260, 1300)),
        (3, (470, 1300)),
        (24, (2570, 1300)),
    ],
)
def test_there_is_a_panel_for_each_image(count, shape, tmp_path):
    images = [EncodedImage(f"{i}.png", png()) for i in range(count)]
    picture = draw(tmp_path / "x.png", images, predictions_of(images))
    assert picture.shape == (*shape, 3)


def test_images_of_any_size_are_drawn_in_their_colours(tmp_path):
    colors = {
        (200, 0, 0): (80, 60),
        (0, 200, 0): (1000, 2000),
        (0, 0, 200): (1, 1),
    }
    for encode in png, jpeg:
        images = [
            EncodedImage(f"{color}", encode(one_color(color, shape)))
            for color, shape in colors.items()
        ]
        picture = draw(tmp_path / "x.png", images, predictions_of(images))
        for color in colors:
            assert 0.02 < shows(picture, color) < 0.2


def test_an_image_without_labels_is_not_drawn(tmp_path):
    images = [EncodedImage("a.png", png(one_color((200, 0, 0))))]
    bad = [Prediction("a.png", "unreadable", (), (), ())]
    picture = draw(tmp_path / "x.png", images, bad)
    assert shows(picture, (200, 0, 0)) == 0
    # Its name and its status are.
    assert 0.001 < (picture.min(axis=-1) < 200).mean() < 0.05


def test_names_in_letters_that_the_font_does_not_have(tmp_path):
    """Neither a warning nor mathematics, and no longer than its place."""
    images = [
        EncodedImage(
            "very/long/" * 30 + "\u6f22$x_$\n.png", png(photograph(300, 9))
        )
    ]
    long = draw(
        tmp_path / "x.png", images, predictions_of(images), "title " * 99
    )
    images = [EncodedImage("short.png", images[0].content)]
    short = draw(tmp_path / "x.png", images, predictions_of(images))
    assert long.shape == short.shape
    # The bars are where they would be.
    assert shows(long, BAR) == pytest.approx(shows(short, BAR), rel=0.05)


def test_a_bar_is_as_long_as_its_score(tmp_path):
    images = [EncodedImage("a.png", png(one_color((0, 0, 0))))]
    shown = []
    for score in 0.25, 0.5, 1.0:
        one = [Prediction("a.png", "ok", (3,), ("",), (score,))]
        shown.append(shows(draw(tmp_path / "x.png", images, one), BAR))
    assert shown[1] == pytest.approx(2 * shown[0], rel=0.05)
    # Its score stands on it.
    assert shown[2] == pytest.approx(4 * shown[0], rel=0.15)


def test_what_fails_leaves_the_picture_before_it(tmp_path):
    from lambda_keras.serving.prediction_picture import draw_predictions

    path = tmp_path / "x.png"
    path.write_text("precious")
    images = [EncodedImage("a.png", b"no image")]
    with pytest.raises(Exception, match="Unknown image file format"):
        draw_predictions(path, "title", images, predictions_of(images))
    assert path.read_text() == "precious"
    assert os.listdir(tmp_path) == ["x.png"]
