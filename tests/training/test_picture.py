import struct

import numpy as np
import pytest

from lambda_keras.data.dataset import Split

pytest.importorskip("matplotlib")

HISTORY = {
    "loss": [2.0, 1.0],
    "accuracy": [0.5, 1.0],
    "val_loss": [2.0, 1.5],
    "val_accuracy": [0.4, 0.8],
}


@pytest.mark.parametrize(("count", "channels"), [(3, 1), (100, 3)])
def test_picture_is_a_png_of_the_promised_size(count, channels, tmp_path):
    from lambda_keras.training.picture import draw_run

    path = tmp_path / "results.png"
    draw_run(
        path,
        title="a run",
        history=HISTORY,
        best_epoch=2,
        test=Split(
            np.zeros((count, 4, 4, channels), "uint8"),
            np.arange(count) % 3,
        ),
        predictions=np.eye(3)[np.zeros(count, int)],
        class_names=("a", "b", "c"),
    )
    header = path.read_bytes()[:24]
    assert header.startswith(b"\x89PNG\r\n\x1a\n")
    assert struct.unpack(">II", header[16:]) == (1400, 700)


def test_wrong_predictions_come_first_and_say_so():
    from matplotlib.figure import Figure

    from lambda_keras.training.picture import WRONG
    from lambda_keras.training.picture import draw_images

    figure = Figure()
    test = Split(np.zeros((4, 4, 4, 1), "uint8"), np.array([0, 1, 2, 0]))
    # The third is a "c" that is taken for a "b".
    draw_images(figure, test, np.eye(3)[[0, 1, 1, 0]], ("a", "b", "c"))
    captions = [axes.title for axes in figure.axes][:5]
    assert [caption.get_text() for caption in captions] == [
        "b, not c",
        "a",
        "b",
        "a",
        "",
    ]
    assert [caption.get_color() == WRONG for caption in captions[:4]] == [
        True,
        False,
        False,
        False,
    ]
    assert "1 of 4 test images" in figure._suptitle.get_text()
