"""Work handed out to several ComfyUI servers, wherever they run.

Contract: a `Worker` is one server. `Pool.map` gives every thing to one worker at a time and yields each result once, in
the order of completion. A server that fails costs what it was working on: that is handed out again, at most ATTEMPTS
times, and the server is replaced. A workflow that fails is not repeated: it would fail again.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Protocol, TypeVar

from .client import Client, ServerError
from .graphs import WorkflowError

ATTEMPTS = 3  # of a thing, and of a replacement

log = logging.getLogger(__name__)
Thing = TypeVar("Thing")
Out = TypeVar("Out")


class Worker(Protocol):
    """One server. Every method may raise ServerError; only `stop` is called while another one runs."""

    name: str

    def start(self) -> None:
        """Make it ready for work."""

    def ask(self, function: Callable[..., Out], *arguments) -> Out:
        """`function(client, *arguments)`, with a `Client` of this server, on the machine where the server runs."""

    def replace(self) -> None:
        """Make it ready again after it failed."""

    def stop(self) -> None:
        """End it, and what it is doing; harmless if it has ended. Raises nothing."""


@dataclass(frozen=True)
class _Task:
    worker: Worker
    thing: object
    attempt: int


_REPLACEMENT = object()  # a task's thing while its worker is replaced


class Pool:
    """Workers that are started together when the block begins and stopped when it ends. Raises ServerError."""

    def __init__(self, workers: Sequence[Worker]):
        self.workers = list(workers)
        self._threads = ThreadPoolExecutor(max_workers=len(self.workers), thread_name_prefix="lavie-server")

    def __enter__(self) -> Pool:
        try:
            list(self._threads.map(lambda worker: worker.start(), self.workers))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc_info) -> None:
        with ThreadPoolExecutor(max_workers=len(self.workers) or 1) as stopping:  # the other threads may be waiting
            list(stopping.map(lambda worker: worker.stop(), self.workers))
        self._threads.shutdown(wait=True, cancel_futures=True)

    def ask_all(self, function: Callable[..., Out], *arguments) -> list[Out]:
        """What each server answers, in the order of the workers; see `Worker.ask`."""
        return list(self._threads.map(lambda worker: worker.ask(function, *arguments), self.workers))

    def map(
        self, function: Callable[[Client, Thing], Out], things: Iterable[Thing]
    ) -> Iterator[tuple[Thing, Out | Exception]]:
        """(thing, result) of each; the result is the WorkflowError or the last ServerError of one that failed.

        Raises ServerError when no server is left.
        """
        things, again, idle = iter(things), deque(), deque(self.workers)
        running: dict[Future, _Task] = {}
        while True:
            self._hand_out(function, things, again, idle, running)
            if not running:
                return
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            finished = []
            for future in done:
                task = running.pop(future)
                error = future.exception()
                if isinstance(error, ServerError):
                    self._recover(task, error, again, running, finished)
                else:
                    idle.append(task.worker)
                    if task.thing is not _REPLACEMENT:
                        finished.append((task.thing, error if isinstance(error, WorkflowError) else future.result()))
            self._hand_out(function, things, again, idle, running)  # before the caller takes its time
            yield from finished

    def _hand_out(self, function, things: Iterator, again: deque, idle: deque, running: dict[Future, _Task]) -> None:
        while idle:
            thing, attempt = again.popleft() if again else (next(things, _REPLACEMENT), 1)
            if thing is _REPLACEMENT:
                return
            task = _Task(idle.popleft(), thing, attempt)
            running[self._threads.submit(task.worker.ask, function, thing)] = task

    def _recover(self, task: _Task, error: ServerError, again: deque, running: dict, finished: list) -> None:
        """Hand a failed task out again and have its worker replaced, both within ATTEMPTS."""
        log.warning("%s failed: %s", task.worker.name, error)
        attempt = 1
        if task.thing is _REPLACEMENT:
            attempt = task.attempt + 1
        elif task.attempt < ATTEMPTS:
            again.append((task.thing, task.attempt + 1))
        else:
            finished.append((task.thing, error))
        if attempt <= ATTEMPTS:
            log.warning("%s is replaced", task.worker.name)
            running[self._threads.submit(task.worker.replace)] = _Task(task.worker, _REPLACEMENT, attempt)
            return
        log.error("%s is given up after %d attempts to replace it", task.worker.name, ATTEMPTS)
        self.workers.remove(task.worker)
        task.worker.stop()
        if not self.workers:
            raise ServerError(f"no server is left; the last one: {error}")
