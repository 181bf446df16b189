"""Reading: what a step sees, from files or from the cache of latents, ahead of the network and side by side.

Contract: a share is a pure function of (seed, step), of the catalogue and of which files are readable. What cannot be
read costs a sample, not the run: its place is taken by what `TrainingData.draw_at` puts there, and it is named in the
share. Reading ahead is bounded in bytes.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch

from ..datasets.errors import DataError
from ..lavie_models.conditioning import UPSCALE
from .data import Draw, TrainingData, render
from .data.cache import TensorCache
from .data.degrade import degrade
from .errors import TrainingError

ATTEMPTS = 50  # stand-ins that are tried for one place


class UnreadableDataError(TrainingError):
    """So much of the data cannot be read that going on would be another training."""


@dataclass(frozen=True)
class Row:
    """One row of a step, read; its lists are as in `Share`. seconds: that a thread spent on it."""

    draws: list[Draw]
    pixels: list[np.ndarray | None]
    latents: list[torch.Tensor | None]
    small: np.ndarray | None
    bad: list[str]
    seconds: float


@dataclass(frozen=True)
class Share:
    """One process's rows of one step, read.

    Attributes:
        seed, step, first_row: which rows of which global batch these are.
        draws: row by row, the clip's and then its M images'.
        pixels: of each draw, uint8 (F or 1, H, W, 3); None where ``latents`` has its cached latents.
        small: degraded clips, uint8 (F, H / 4, W / 4, 3) per row; super-resolution only.
        num_images: M.
        bad: what could not be read and why, one sentence each.
        seconds: of all threads that read it, added up.
    """

    seed: int
    step: int
    first_row: int
    draws: list[Draw]
    pixels: list[np.ndarray | None]
    latents: list[torch.Tensor | None]
    small: list[np.ndarray]
    num_images: int
    bad: list[str]
    seconds: float

    @classmethod
    def of(cls, seed: int, step: int, first_row: int, num_images: int, rows: list[Row]) -> Share:
        joined = {
            name: list(chain.from_iterable(getattr(row, name) for row in rows))
            for name in ("draws", "pixels", "latents", "bad")
        }
        small = [row.small for row in rows if row.small is not None]
        return cls(seed, step, first_row, small=small, num_images=num_images,
                   seconds=sum(row.seconds for row in rows), **joined)  # fmt: skip

    def generators(self, stream: int) -> list[np.random.Generator]:
        """One per row, the same whichever process has the row."""
        rows = len(self.draws) // (1 + self.num_images)
        return [row_generator(self.seed, self.step, self.first_row + i, stream) for i in range(rows)]

    def captions(self) -> list[str]:
        return [draw.item.caption for draw in self.draws]


def row_generator(seed: int, step: int, row: int, stream: int) -> np.random.Generator:
    """What is random about a row of a global batch; ``stream`` tells its uses apart."""
    return np.random.default_rng((seed, step, row, stream))


class Reader:
    """Reads shares. degraded: whether rows get small degraded copies. cache: of latents; its clips are not decoded."""

    def __init__(self, degraded: bool, cache: TensorCache | None = None):
        self.degraded, self.cache = degraded, cache

    def read(self, data: TrainingData, seed: int, step: int, rank: int = 0, world: int = 1) -> Share:
        """One share, in this thread."""
        return next(self.read_ahead(data, seed, [step], rank, world, workers=0))

    def read_ahead(
        self, data: TrainingData, seed: int, steps: Iterable[int], rank: int = 0, world: int = 1, workers: int = 1,
        max_bytes: float = float("inf"),
    ) -> Iterator[Share]:  # fmt: skip
        """Shares in the order of ``steps``; their rows are read by ``workers`` threads, the earliest first.

        At most ``max_bytes`` of pixels are there or on their way, but always one share. Closing ends the threads.

        Raises:
            UnreadableDataError: ATTEMPTS samples for one place cannot be read.
        """
        pool = ThreadPoolExecutor(workers, thread_name_prefix="lavie-data") if workers else None
        submit = pool.submit if pool else _run_now
        ahead: deque[tuple[int, int, list[Future], int]] = deque()
        taken, per_row = 0, 1 + data.settings.images
        try:
            for step in steps:
                places = data.places(seed, step, rank, world)
                size = sum(data.draw_at(place).bytes for place in places)
                while ahead and taken + size > max_bytes:
                    taken -= ahead[0][-1]
                    yield _gather(seed, per_row - 1, *ahead.popleft()[:3])
                first = rank * len(places) // per_row
                rows = [
                    submit(self._read_row, data, seed, step, first + i, places[i * per_row : (i + 1) * per_row])
                    for i in range(len(places) // per_row)
                ]
                ahead.append((step, first, rows, size))
                taken += size
                if not pool or len(ahead) > 1 + 2 * workers:
                    taken -= ahead[0][-1]
                    yield _gather(seed, per_row - 1, *ahead.popleft()[:3])
            while ahead:
                yield _gather(seed, per_row - 1, *ahead.popleft()[:3])
        finally:
            if pool:
                pool.shutdown(wait=True, cancel_futures=True)

    def _read_row(self, data: TrainingData, seed: int, step: int, row: int, places) -> Row:
        begun = time.perf_counter()
        bad: list[str] = []
        read = [self._read_place(data, place, bad) for place in places]
        draws, pixels, latents = (list(part) for part in zip(*read, strict=True))
        small = degrade(pixels[0], row_generator(seed, step, row, 1), UPSCALE) if self.degraded else None
        return Row(draws, pixels, latents, small, bad, time.perf_counter() - begun)

    def _read_place(self, data: TrainingData, place, bad: list[str]):
        """(draw, pixels or None, latents or None); what cannot be read is added to ``bad``."""
        for attempt in range(ATTEMPTS):
            draw = data.draw_at(place, attempt)
            if found := self.cache and self.cache.get(draw.name):
                return draw, None, found["latents"]
            try:
                return draw, render(draw), None
            except (DataError, OSError) as error:
                bad.append(str(error))
        raise UnreadableDataError(
            f"{ATTEMPTS} samples in a row cannot be read, the last of them: {bad[-1]}. Is the disk there?"
        )


def _gather(seed: int, images: int, step: int, first_row: int, rows: list[Future]) -> Share:
    return Share.of(seed, step, first_row, images, [row.result() for row in rows])


def _run_now(function, *arguments) -> Future:
    done = Future()
    done.set_result(function(*arguments))
    return done


def count_workers(asked: int, processes: int) -> int:
    """Threads that read: as asked, or this process's part of the cores it may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return asked or max(1, cores // processes)
