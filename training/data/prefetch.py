"""Reading ahead: batches are decoded in the background while the network trains."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from .batches import RawBatch, TrainingData

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


def prefetch(
    data: TrainingData, seed: int, first_step: int, stop_step: int, rank: int = 0, world: int = 1, workers: int = 2
) -> Iterator[RawBatch]:
    """Batches of steps first_step .. stop_step - 1 in order, the same for any number of workers (0: no threads)."""
    steps = range(first_step, stop_step)
    if workers == 0:
        return (data.batch(seed, step, rank, world) for step in steps)
    return ordered_map(lambda step: data.batch(seed, step, rank, world), steps, workers, ahead=2 * workers)
