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


def work_ahead(things: Iterator[Out]) -> Iterator[Out]:
    """The same things; another thread makes the next one while the caller works on this one."""
    end = object()
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="lavie-ahead") as pool:
        coming = pool.submit(next, things, end)
        try:
            while (thing := coming.result()) is not end:
                coming = pool.submit(next, things, end)
                yield thing
        finally:
            coming.exception()  # wait for it: a generator cannot be closed while it runs
            things.close()
