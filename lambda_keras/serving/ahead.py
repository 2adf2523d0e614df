"""Work that goes on while the results before it are still in use."""

from collections import deque
from collections.abc import Callable
from collections.abc import Generator
from collections.abc import Iterable
from concurrent.futures import Future
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_ahead(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    threads: int,
    ahead: int,
) -> Generator[Result]:
    """Maps in threads, in order, and never far ahead of what is taken.

    `ThreadPoolExecutor.map` takes all items at once, and keeps all results.

    Args:
        function: Called with each item, in one of the threads.
        items: The items, which this thread takes one by one.
        threads: How many items are worked on at a time.
        ahead: How many items more than the one asked for are begun.

    Yields:
        A result for each item.

    Example:

    >>> list(map_ahead(abs, [-1, 2, -3], threads=2, ahead=4))
    [1, 2, 3]
    """
    pool = ThreadPoolExecutor(threads)
    begun: deque[Future] = deque()
    try:
        for item in items:
            begun.append(pool.submit(function, item))
            if len(begun) > ahead:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:
        # Who stops in between does not wait for what nobody will see.
        pool.shutdown(cancel_futures=True)
