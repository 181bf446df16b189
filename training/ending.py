"""How a run ends before its last step: asked to by a signal, or because too much of its data cannot be read."""

from __future__ import annotations

import logging
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .reading import UnreadableDataError

log = logging.getLogger(__name__)
SIGNALS = (signal.SIGINT, signal.SIGTERM)
WINDOW, LEAST = 1000, 200  # samples over which the share of unreadable ones is taken, and from which on it counts


@contextmanager
def asked_to_end() -> Iterator[Callable[[], bool]]:
    """A function that tells whether SIGINT or SIGTERM has come. The second one interrupts at once."""
    came: list[int] = []

    def note(number, frame) -> None:
        if came:
            raise KeyboardInterrupt
        came.append(number)
        log.warning("%s: ending after this step", signal.Signals(number).name)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class BadSamples:
    """Names samples that could not be read, once each, and ends the run where they are more than ``limit`` of all."""

    def __init__(self, limit: float):
        self.limit = limit
        self._said: set[str] = set()
        self._steps: deque[tuple[int, int]] = deque()

    def name(self, step: int, sentences: list[str]) -> None:
        """Say what a step of this process missed."""
        for sentence in sentences:
            if sentence not in self._said:
                self._said.add(sentence)
                log.warning("step %d: a sample is replaced: %s", step, sentence)

    def check(self, bad: int, drawn: int) -> None:
        """Take in the counts of a step of all processes. Raises UnreadableDataError above the limit."""
        self._steps.append((bad, drawn))
        while sum(count for _, count in self._steps) - self._steps[0][1] >= WINDOW:
            self._steps.popleft()
        bad, drawn = (sum(counts) for counts in zip(*self._steps, strict=True))
        if drawn >= LEAST and bad > self.limit * drawn:
            raise UnreadableDataError(
                f"{bad} of the last {drawn} samples could not be read, more than data.max_bad = {self.limit:g} allows; "
                "mend the data, or raise data.max_bad, and repeat the command"
            )
