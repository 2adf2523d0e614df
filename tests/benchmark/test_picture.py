import matplotlib.image
import numpy as np

from lambda_keras.benchmark.picture import MARKED
from lambda_keras.benchmark.picture import draw_bars
from lambda_keras.benchmark.records import make_record


def bar_lengths(path):
    """How many pixels of the marked colour each row has at most."""
    pixels = np.rint(matplotlib.image.imread(path)[..., :3] * 255)
    marked = np.array([int(MARKED[i : i + 2], 16) for i in (1, 3, 5)])
    rows = np.all(pixels == marked, axis=-1).sum(axis=1)
    return rows.max(), np.flatnonzero(rows > 50)


def test_the_marked_bar_is_as_long_as_its_value(tmp_path):
    lengths, places = [], []
    for marked in "one", "two":
        path = tmp_path / f"{marked}.png"
        records = [
            make_record("input", "one", "images/s", (90, 100, 110), 1),
            make_record("input", "two", "images/s", (1, 10, 20), 1),
        ]
        draw_bars(
            path,
            "a title",
            records,
            {"one": "the first", "two": "the second"},
            marked,
            {"goal": 50.0},
        )
        length, rows = bar_lengths(path)
        lengths.append(length)
        places.append(rows.mean())
    # The axis is logarithmic and begins at half the least value.
    expected = np.log(100 / 5) / np.log(10 / 5)
    assert abs(lengths[0] / lengths[1] - expected) < 0.2
    assert places[0] < places[1]  # The first is on top.
    assert [path.name for path in sorted(tmp_path.iterdir())] == [
        "one.png",
        "two.png",
    ]
