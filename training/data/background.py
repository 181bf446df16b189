"""Working ahead: batches are decoded while the network trains, files are looked into side by side."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

In = TypeVar("In")
Out = TypeVar("Out")


def ordered_map(function: Callable[[In], Out], things: Iterable[In], workers: int, ahead: int) -> Iterator[Out]:
    """Results in the order of `things`, at most `ahead` of them computed before they are asked for.

    An exception comes out where its result would have. Closing the generator ends its threads.
    """
    pool = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="lavie-data")
    waiting, things = deque(), iter(things)
    try:
        for thing in things:
            waiting.append(pool.submit(function, thing))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
