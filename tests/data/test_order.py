import numpy as np
import pytest

from lambda_keras.data.dataset import Shard
from tests.data import numbered

pytestmark = pytest.mark.tf_data

COUNTS = (4, 3, 5, 4, 4, 4, 3, 3)
COUNT = sum(COUNTS)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """A split of 30 records in 8 shards, which are read two at a time."""
    from lambda_keras.data import reading

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "WINDOW_EXAMPLES", 8)
        directory = tmp_path_factory.mktemp("records")
        yield numbered.make_records(directory, COUNTS)


def file_order(start_step=0, shard=Shard(), seed=1, taken=4 * COUNT):  # noqa: B008
    from lambda_keras.data.order import file_order

    dataset = file_order(COUNT, seed, 6, start_step, shard)
    return [
        (int(epoch), int(index))
        for epoch, index in dataset.take(taken).as_numpy_iterator()
    ]


def record_order(split, start=0, seed=1, taken=4 * COUNT):
    from lambda_keras.data.order import record_order
    from lambda_keras.data.reading import RecordReader

    dataset = record_order(RecordReader(split), seed, start)
    return [
        (int(epoch), int(index), record)
        for epoch, index, record in dataset.take(taken).as_numpy_iterator()
    ]


def test_a_pass_over_files_has_each_once_in_an_order_of_its_own():
    passes = np.reshape(file_order(), (4, COUNT, 2))
    for epoch, one in enumerate(passes):
        assert set(one[:, 0]) == {epoch}
        assert sorted(one[:, 1]) == list(range(COUNT))
    assert len({tuple(one[:, 1]) for one in passes}) == 4
    assert file_order(seed=2) != file_order(seed=1)


@pytest.mark.parametrize("start_step", [1, 4, 5, 17])
def test_files_go_on_where_they_stopped(start_step):
    later = file_order(start_step)
    assert later[: 4 * COUNT - 6 * start_step] == file_order()[6 * start_step :]


def test_hosts_divide_each_batch_of_files():
    parts = [file_order(1, Shard(host, 3), taken=20) for host in range(3)]
    batches = np.concatenate(np.reshape(parts, (3, 10, 2, 2)), axis=1)
    assert (
        batches.reshape(-1, 2).tolist()
        == np.array(file_order(1, taken=60))
        .reshape(10, 6, 2)
        .reshape(-1, 2)
        .tolist()
    )


def test_a_pass_over_records_has_each_once_window_by_window(records):
    shard_of = np.repeat(np.arange(len(COUNTS)), COUNTS)
    found = record_order(records)
    passes = np.reshape([index for _, index, _ in found], (4, COUNT))
    assert [epoch for epoch, _, _ in found] == sorted([0, 1, 2, 3] * COUNT)
    for one in passes:
        assert sorted(one) == list(range(COUNT))
        shards, windows = shard_of[one], []
        while len(shards):
            windows.append(set(shards[: COUNTS[shards[0]]]) | {shards[0]})
            members = np.isin(shards, list(windows[-1]))
            shards = shards[members.sum() :]
    assert len({tuple(one) for one in passes}) == 4
    # Two shards of one window are shuffled together.
    changes = (np.diff(shard_of[passes[0]]) != 0).sum()
    assert changes > len(COUNTS)


@pytest.mark.parametrize("start", [1, 7, 29, 30, 31, 90])
def test_records_go_on_where_they_stopped(records, start):
    later = record_order(records, start, taken=4 * COUNT - start)
    assert later == record_order(records)[start:]


def test_only_the_window_that_is_wanted_is_read_again(records, tmp_path):
    """All other shards are gone, and nothing is missing."""
    from lambda_keras.data.dataset import RecordRange
    from lambda_keras.data.dataset import RecordSplit

    first_pass = record_order(records, taken=COUNT)
    shard_of = np.repeat(np.arange(len(COUNTS)), COUNTS)
    last = [shard_of[index] for _, index, _ in first_pass[-3:]]
    # The last window is two shards; three of their records are wanted.
    window = set(shard_of[[index for _, index, _ in first_pass[-6:]]])
    assert set(last) <= window and len(window) == 2
    split = RecordSplit(
        tuple(
            one
            if shard in window
            else RecordRange(str(tmp_path / "gone"), one.first, one.count)
            for shard, one in enumerate(records.ranges)
        ),
        records.parse,
    )
    assert record_order(split, COUNT - 3, taken=3) == first_pass[-3:]


def test_a_long_file_is_read_in_parts(tmp_path):
    from lambda_keras.data.reading import RecordReader

    split = numbered.make_records(tmp_path, (5, 30))
    reader = RecordReader(split.part(3, 33), base=3, window=8)
    assert reader.firsts.numpy().tolist() == [3, 0, 7, 14, 21]
    assert reader.counts.numpy().tolist() == [2, 7, 7, 7, 7]
    indices, records = reader.read(3)
    assert indices.numpy().tolist() == list(range(19, 26))
    names = [
        name.decode().split("-")[-1] for name in reader.name(indices).numpy()
    ]
    assert names == [f"00002#{number}" for number in range(14, 21)]
    _, everything = RecordReader(split, window=30).read(1)
    np.testing.assert_array_equal(records, everything[14:21])


def test_records_that_cannot_be_read_keep_their_place(records, tmp_path):
    from lambda_keras.data.dataset import RecordRange
    from lambda_keras.data.dataset import RecordSplit

    missing = RecordRange(str(tmp_path / "gone"), 0, COUNTS[0])
    split = RecordSplit((missing, *records.ranges[1:]), records.parse)
    for found, expected in zip(record_order(split), record_order(records)):
        epoch, index, record = expected
        record = b"" if index < COUNTS[0] else record
        assert found == (epoch, index, record)


def test_orders_are_as_random_as_they_can_be():
    """Neither place nor neighbours tell anything about an example."""
    from lambda_keras.data.order import _shuffled_range

    orders = np.stack([_shuffled_range(1000, 3, n) for n in range(100)])
    places = np.tile(np.arange(1000), 100)
    following = np.roll(orders, -1, axis=1)[:, :-1].ravel()
    for other, these in ((places, orders), (following, orders[:, :-1])):
        correlation = np.corrcoef(these.ravel(), other)[0, 1]
        assert abs(correlation) < 5 / np.sqrt(other.size)
    assert len({tuple(order) for order in orders}) == 100
