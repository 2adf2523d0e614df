import os

import pytest

from lambda_keras.serving import prediction_inputs
from lambda_keras.serving.images import TOO_LARGE
from lambda_keras.serving.images import UNREADABLE
from lambda_keras.serving.prediction_inputs import MISSING
from lambda_keras.serving.prediction_inputs import EncodedImage
from lambda_keras.serving.prediction_inputs import find_inputs

pytestmark = pytest.mark.tf_data

JPEG = b"\xff\xd8\xff"


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A folder as they are: of any files, some in folders of it."""
    monkeypatch.chdir(tmp_path)
    # A user's cache has the counts of records.
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / ".cache"))
    write(
        "photos/b.jpg", "photos/a.png", "photos/notes.txt", "photos/.DS_Store"
    )
    write("photos/c/d.jpg", "photos/.thumbnails/a.png", "photos/Z.JPG")
    return tmp_path / "photos"


def jpeg(path):
    """What files here hold: the beginning of a JPEG and their own paths."""
    return JPEG + os.fsencode(path)


def write(*paths):
    for path in paths:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        with open(path, "wb") as file:
            file.write(jpeg(path))


def names(images):
    return [image.name for image in find_inputs(images).read()]


def records(path, count=5):
    """Writes images `b"0"` to `b"4"`, and returns where each record ends."""
    import tensorflow as tf

    from lambda_keras.data.record_writer import make_example

    ends = []
    with tf.io.TFRecordWriter(os.fspath(path)) as writer:
        for index in range(count):
            writer.write(make_example(str(index).encode()))
            writer.flush()
            ends.append(os.path.getsize(path))
    return ends


def read(images, first=0):
    inputs = find_inputs(images)
    return [
        (image.name, image.status or image.content)
        for image in inputs.read(first)
    ]


def test_a_folder_is_all_files_in_it_but_hidden_ones(photos):
    found = [
        *("photos/Z.JPG", "photos/a.png", "photos/b.jpg", "photos/c/d.jpg"),
        "photos/notes.txt",
    ]
    assert names("photos") == found
    assert names(f"{photos}") == [f"{photos.parent}/{name}" for name in found]
    assert list(find_inputs("photos").read())[1] == EncodedImage(
        "photos/a.png", jpeg("photos/a.png")
    )


def test_links_to_folders_are_followed_but_not_in_circles(photos):
    write("elsewhere/x.jpg")
    (photos / "link").symlink_to("../elsewhere")
    (photos / "c" / "up").symlink_to("..")
    assert names("photos")[-2:] == ["photos/link/x.jpg", "photos/notes.txt"]
    assert len(names("photos")) == 6


def test_patterns_files_and_folders_come_in_the_given_order(
    photos, monkeypatch
):
    monkeypatch.setenv("HOME", str(photos.parent))
    assert names("photos/c,photos/[ab].???,photos/c/d.jpg") == [
        *("photos/c/d.jpg", "photos/a.png", "photos/b.jpg", "photos/c/d.jpg"),
    ]
    assert names("photos/**/*.jpg") == ["photos/b.jpg", "photos/c/d.jpg"]
    # What a pattern finds may be a folder, and comes once for all that.
    assert names("photos/**") == names("photos/**/*") == names("photos")
    assert names("photos/[c]") == ["photos/c/d.jpg"]
    assert names("~/photos/c") == [f"{photos}/c/d.jpg"]


def test_names_that_look_like_patterns_are_names(photos):
    write("photos/e/photo[1].jpg", "photos/e/photo1.jpg", "photos/e/*.jpg")
    assert names("photos/e/photo[1].jpg") == ["photos/e/photo[1].jpg"]
    assert names("photos/e/*.jpg") == ["photos/e/*.jpg"]


def test_names_with_anything_in_them(photos):
    strange = ["a,b.jpg", "a\nb.jpg", "犬.jpg", "\udcff.jpg"]
    write(*(f"photos/f/{name}" for name in strange))
    found = list(find_inputs("photos/f").read())
    # The last one is no text: a byte 0xff.
    shown = [*strange[:3], r"\xff.jpg"]
    assert [image.name for image in found] == [
        f"photos/f/{name}" for name in sorted(shown[:2]) + shown[2:]
    ]
    assert found[-1].content == JPEG + b"photos/f/\xff.jpg"


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ("absent.jpg", "Received: images=absent.jpg, where there are none"),
        ("photos/*.gif", "Received: images=photos/\\*.gif, where there are no"),
        ("photos,,x", "Received: images=, where there are none"),
        ("photos/.empty", "Received: images=photos/.empty, where there are no"),
        ("gs://b/x.jpg", "disk of this machine, unless .* images=gs://b/x.jpg"),
        ("tfrecord:", "Received: images=tfrecord:, where there are none"),
        ("tfrecord:photos", "images=tfrecord:photos, where there are none"),
        ("tfrecord:photos/*.txt", "uncompressed|TFRecords in .*notes.txt"),
    ],
)
def test_what_names_no_images_is_refused(images, message, photos):
    (photos / ".empty").mkdir()
    with pytest.raises(ValueError, match=message):
        find_inputs(images)


def test_a_folder_that_cannot_be_listed_is_not_passed_over(photos, monkeypatch):
    scandir = os.scandir

    def refuse(path):
        if os.fspath(path).endswith("c"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError, match="photos/c"):
        find_inputs("photos")


def test_what_cannot_be_read_has_its_status(photos, monkeypatch):
    inputs = find_inputs("photos")
    (photos / "a.png").unlink()
    (photos / "b.jpg").unlink()
    # To open it would be to wait for somebody who writes.
    os.mkfifo(photos / "b.jpg")
    (photos / "c" / "d.jpg").unlink()
    (photos / "c" / "d.jpg").symlink_to("d.jpg")
    monkeypatch.setattr(prediction_inputs, "MAX_FILE_BYTES", 18)
    assert [
        (image.name, image.content, image.status) for image in inputs.read()
    ] == [
        ("photos/Z.JPG", jpeg("photos/Z.JPG"), None),
        ("photos/a.png", b"", MISSING),
        ("photos/b.jpg", b"", UNREADABLE),
        ("photos/c/d.jpg", b"", UNREADABLE),
        ("photos/notes.txt", b"", TOO_LARGE),
    ]


def test_of_what_is_no_image_only_the_beginning_is_read(photos):
    (photos / "film.mov").write_bytes(b"\0\0\0\x18ftypqt  " + bytes(1 << 20))
    (photos / "empty.jpg").touch()
    contents = {
        image.name: image.content for image in find_inputs("photos").read()
    }
    assert contents["photos/film.mov"] == b"\0\0\0\x18ftyp"
    assert contents["photos/empty.jpg"] == b""


def test_all_records_of_a_directory_or_a_pattern_are_read(photos):
    records("photos/test-00000-of-00002", 3)
    records("photos/test-00001-of-00002", 2)
    records("photos/more.tfrecords", 1)
    first, second = (f"photos/test-0000{i}-of-00002" for i in (0, 1))
    expected = [(f"{first}#{i}", str(i).encode()) for i in range(3)]
    expected += [(f"{second}#{i}", str(i).encode()) for i in range(2)]
    assert read("tfrecord:photos/test-*") == expected
    assert read("tfrecord:photos") == [
        ("photos/more.tfrecords#0", b"0"),
        *expected,
    ]


def damage(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("broken", "offset"), [(0, 20), (2, 20), (2, -1), (4, 20)]
)
def test_a_broken_record_is_one_row_of_its_own(broken, offset, photos):
    """Its bytes, or its checksum, are not what was written."""
    path = photos / "x.tfrecord"
    ends = [0, *records(path)]
    damage(path, ends[broken + (offset < 0)] + offset)
    expected = [str(i).encode() for i in range(5)]
    expected[broken] = UNREADABLE
    found = read(f"tfrecord:{path}")
    assert found == [(f"{path}#{i}", x) for i, x in enumerate(expected)]
    for first in range(6):
        assert read(f"tfrecord:{path}", first) == found[first:]


def test_two_broken_records_side_by_side(photos):
    path = photos / "x.tfrecord"
    ends = records(path)
    for end in ends[:2]:
        damage(path, end + 20)
    contents = [content for _, content in read(f"tfrecord:{path}")]
    assert contents == [b"0", UNREADABLE, UNREADABLE, b"3", b"4"]


def test_behind_a_broken_length_nothing_can_be_found(photos):
    path = photos / "x.tfrecord"
    damage(path, records(path)[1] + 4)
    # As far as can be told there is one record more.
    assert [content for _, content in read(f"tfrecord:{path}")] == [
        *(b"0", b"1", UNREADABLE),
    ]


def test_a_file_of_records_that_changes_meanwhile(photos):
    path = photos / "x.tfrecord"
    ends = records(path)
    inputs = find_inputs(f"tfrecord:{path},photos/a.png")
    content = path.read_bytes()
    for size, expected in [
        (ends[2], [b"0", b"1", b"2", UNREADABLE, UNREADABLE]),
        (ends[2] + 9, [b"0", b"1", b"2", UNREADABLE, UNREADABLE]),
        (0, [UNREADABLE] * 5),
        (None, [MISSING] * 5),
    ]:
        path.write_bytes(content[:size])
        if size is None:
            path.unlink()
        found = [image.status or image.content for image in inputs.read()]
        assert found == [*expected, jpeg("photos/a.png")]


def test_records_of_something_else_are_refused(photos):
    import tensorflow as tf

    path = os.fspath(photos / "x.tfrecord")
    features = tf.train.Features(feature={"image": tf.train.Feature()})
    example = tf.train.Example(features=features).SerializeToString()
    for record in (example, b"no example"):
        with tf.io.TFRecordWriter(path) as writer:
            writer.write(record)
        with pytest.raises(
            ValueError, match=f"among them image/encoded.*{path}"
        ):
            find_inputs(f"tfrecord:{path}")


def test_one_record_of_something_else_is_unreadable(photos):
    import tensorflow as tf

    from lambda_keras.data.record_writer import make_example

    path = os.fspath(photos / "x.tfrecord")
    with tf.io.TFRecordWriter(path) as writer:
        for record in (
            make_example(b"0"),
            b"no example",
            b"",
            make_example(b""),
        ):
            writer.write(record)
    assert [
        (image.content, image.status)
        for image in find_inputs(f"tfrecord:{path}").read()
    ] == [
        (b"0", None),
        (b"", UNREADABLE),
        (b"", UNREADABLE),
        # The request will be told that it is empty.
        (b"", None),
    ]


def test_reading_begins_anywhere(photos):
    records("photos/x.tfrecord", 3)
    images = "photos/c,tfrecord:photos,photos/a.png"
    whole = read(images)
    assert len(whole) == len(find_inputs(images)) == 5
    for first in range(7):
        assert read(images, first) == whole[first:]


def test_what_is_left_out_is_not_read(photos, monkeypatch):
    reads = []
    monkeypatch.setattr(prediction_inputs, "_read_file", reads.append)
    list(find_inputs("photos").read(3))
    assert reads == ["photos/c/d.jpg", "photos/notes.txt"]


def test_other_images_have_another_digest(photos):
    records("photos/x.tfrecord", 3)
    images = ["photos", "photos/c", "tfrecord:photos", "photos/c,photos/a.png"]
    images += ["photos/a.png,photos/c", "tfrecord:photos,photos/c"]
    digests = {find_inputs(x).digest() for x in images}
    assert len(digests) == len(images)
    assert find_inputs("photos").digest() in digests
    write("photos/z.jpg")
    records("photos/x.tfrecord", 4)
    assert find_inputs("photos").digest() not in digests
    assert find_inputs("tfrecord:photos").digest() not in digests
    assert find_inputs("photos/c").digest() in digests


def test_the_same_names_elsewhere_are_other_images(photos, monkeypatch):
    inputs = find_inputs("photos")
    digest = inputs.digest()
    assert find_inputs(f"{photos}").digest() == digest
    write("elsewhere/photos/a.png")
    monkeypatch.chdir(photos.parent / "elsewhere")
    write("photos/b.jpg", "photos/notes.txt", "photos/c/d.jpg", "photos/Z.JPG")
    assert list(find_inputs("photos").parts) == list(inputs.parts)
    assert find_inputs("photos").digest() != digest


def test_a_name_with_a_comma_is_a_name_where_it_exists(photos):
    write("photos, 2024/a.jpg")
    assert names("photos, 2024") == ["photos, 2024/a.jpg"]


def test_names_of_records_are_utf_8(photos):
    records("photos/x.tfrecord")
    (photos / "\udcfc.tfrecord").touch()
    with pytest.raises(ValueError, match=r"all names are UTF-8 .*images=tfrec"):
        find_inputs("tfrecord:photos")
    assert len(find_inputs("photos/x.tfrecord,tfrecord:photos/x.tfrecord")) == 6
