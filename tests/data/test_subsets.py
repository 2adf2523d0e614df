import numpy as np
import pytest

from lambda_keras.data.dataset import RecordRange
from lambda_keras.data.dataset import RecordSplit
from lambda_keras.data.dataset import Split
from lambda_keras.data.subsets import assemble
from lambda_keras.data.subsets import balanced_subset
from lambda_keras.data.subsets import hold_out
from lambda_keras.data.subsets import keep_labels
from lambda_keras.data.subsets import split_by_class


def make_split(labels):
    labels = np.asarray(labels)
    # The image says which one it was.
    return Split(np.arange(len(labels))[:, None, None, None], labels)


def make_records(*counts):
    ranges = [
        RecordRange(str(index), 0, count) for index, count in enumerate(counts)
    ]
    return RecordSplit(tuple(ranges), parse=None)


def test_split_by_class_is_a_partition_that_the_seed_decides():
    labels = np.repeat([0, 1, 2], [10, 20, 30])
    parts = split_by_class(labels, (0.1, 0.2), seed=5)
    assert sorted(np.concatenate(parts)) == list(range(60))
    assert [np.bincount(labels[part]).tolist() for part in parts] == [
        [7, 14, 21],
        [1, 2, 3],
        [2, 4, 6],
    ]
    for part, again in zip(parts, split_by_class(labels, (0.1, 0.2), seed=5)):
        np.testing.assert_array_equal(part, again)
    assert not np.array_equal(
        parts[2], split_by_class(labels, (0.1, 0.2), seed=6)[2]
    )


@pytest.mark.parametrize("shares", [(0.5, 0.5), (1.2,), (-0.1, 0.2)])
def test_shares_that_leave_no_first_split(shares):
    with pytest.raises(ValueError, match="leave something to the first"):
        split_by_class(np.array([0, 1]), shares, seed=0)


def test_a_subset_has_as_many_of_each_class_as_there_can_be():
    labels = np.random.default_rng(0).permutation(
        np.repeat([0, 1, 2], [3, 20, 30])
    )
    for count, expected in [(6, [2, 2, 2]), (9, [3, 3, 3]), (21, [3, 9, 9])]:
        chosen = balanced_subset(labels, count, seed=1)
        assert np.bincount(labels[chosen]).tolist() == expected
        assert len(set(chosen)) == count
    more = balanced_subset(labels, 30, seed=1)
    assert set(chosen) < set(more)
    assert set(more) != set(balanced_subset(labels, 30, seed=2))
    # One or none more, where it does not come out even
    found = np.bincount(labels[balanced_subset(labels, 8, seed=1)])
    assert sorted(found) == [2, 3, 3]


def test_images_that_do_not_keep_their_labels_are_the_others():
    split = make_split(np.repeat([0, 1], [10, 30]))
    kept, others = keep_labels(split, 8, 2)
    assert np.bincount(kept.labels).tolist() == [4, 4]
    assert set(others.labels) == {-1}
    together = np.concatenate([kept.images, others.images]).ravel()
    assert sorted(together) == list(range(40))
    np.testing.assert_array_equal(
        kept.labels, split.labels[kept.images.ravel()]
    )


@pytest.mark.parametrize("labels", [1, 40, 41])
def test_labels_that_cannot_be_kept(labels):
    split = make_split(np.repeat([0, 1], [10, 30]))
    message = f"from 2, .* to below 40, .* Received: labels={labels}"
    with pytest.raises(ValueError, match=message):
        keep_labels(split, labels, 2)


def test_parts_of_records_are_ranges():
    records = make_records(4, 3, 5)
    assert len(records) == 12
    assert records.part(0, 12).ranges == records.ranges
    assert records.part(2, 8).ranges == (
        RecordRange("0", 2, 2),
        RecordRange("1", 0, 3),
        RecordRange("2", 0, 1),
    )
    # A part of a part
    assert records.part(2, 8).part(1, 3).ranges == (
        RecordRange("0", 3, 1),
        RecordRange("1", 0, 1),
    )
    assert len(records.part(5, 5)) == 0


def test_the_last_records_are_held_out_as_in_the_paper():
    train, held_out = hold_out(make_records(*[1250] * 1024))
    # 20 shards, and half of one: 2 % are not a whole number of them.
    assert len(held_out) == 25600
    assert [one.count for one in held_out.ranges] == [600, *[1250] * 20]
    assert train.ranges[-1] == RecordRange("1003", 0, 650)
    assert held_out.ranges[0] == RecordRange("1003", 650, 600)


def test_images_are_held_out_class_by_class():
    split = make_split(np.repeat([0, 1, 2], [120, 50, 30]))
    train, held_out = hold_out(split)
    # A small class loses no more of its images than a large one.
    assert held_out.labels.tolist() == [0, 0, 1, 2]
    together = np.concatenate([train.images, held_out.images]).ravel()
    assert sorted(together) == list(range(200))
    few = hold_out(make_split([0, 0, 1]))
    assert [len(part) for part in few] == [2, 1]
    with pytest.raises(ValueError, match=r"at least two .* Received: 1"):
        hold_out(make_split([0]))


def test_a_data_set_says_what_its_splits_are():
    train, validation, test = (make_records(count) for count in (100, 10, 20))
    names = ("a", "b")
    complete = assemble("set", names, train, validation, test)
    assert (complete.train, complete.validation, complete.test) == (
        train,
        validation,
        test,
    )
    assert complete.notes == ()
    for kwargs in {"validation": test}, {"test": test}:
        two = assemble("set", names, train, **kwargs)
        assert two.test is test
        assert [len(two.train), len(two.validation)] == [98, 2]
        assert two.notes == (
            "set has no split to choose by: 2 of its 100 training images are "
            "held out for that.",
        )
    one = assemble("set", names, train)
    assert one.test is one.validation
    assert "no split to report on" in one.notes[1]
