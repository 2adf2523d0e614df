import threading

import pytest

from lambda_keras.serving.ahead import map_ahead


def test_results_come_in_order_although_later_ones_are_ready_first():
    last_is_done = threading.Event()

    def work(item):
        if item == 0:
            assert last_is_done.wait(10)
        if item == 2:
            last_is_done.set()
        return item

    assert list(map_ahead(work, range(5), threads=3, ahead=3)) == [*range(5)]


def test_no_more_is_begun_than_a_few_items_ahead():
    taken = []

    def items():
        for item in range(100):
            taken.append(item)
            yield item

    for count, result in enumerate(map_ahead(abs, items(), 2, ahead=3), 1):
        assert result == count - 1
        assert len(taken) <= count + 3
    assert len(taken) == 100


def test_an_error_reaches_who_takes_the_result():
    results = map_ahead(lambda item: 1 // item, [1, 0, 2], 2, ahead=2)
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_who_stops_does_not_wait_for_the_rest():
    is_begun, may_end, seen = threading.Event(), threading.Event(), []

    def work(item):
        seen.append(item)
        if item == 1:
            is_begun.set()
            assert may_end.wait(10)

    results = map_ahead(work, range(100), threads=1, ahead=50)
    next(results)
    assert is_begun.wait(10)
    threading.Timer(1.0, may_end.set).start()
    results.close()
    assert seen == [0, 1]
