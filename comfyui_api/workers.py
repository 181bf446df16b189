"""Servers that a `Pool` works with: running ones by their addresses, and processes started on this machine.

Contract: `given` and `started` make workers; nothing runs before `start`. `LentServer` is one that runs already.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import torch

from ..place import find_comfyui
from .client import Client, ServerError
from .server import ComfyUIServer, borrow

PATIENCE_S = 300.0  # for a given server to come back
PROBE_S = 2.0

Out = TypeVar("Out")


class GivenServer:
    """A server that someone else runs: asked, waited for, never ended."""

    def __init__(self, url: str, patience_s: float = PATIENCE_S):
        self.client, self.patience_s = Client(url), patience_s
        self.name = self.client.url
        self._stopped = False

    def start(self) -> None:
        self.client.get("/system_stats")

    def ask(self, function: Callable[..., Out], *arguments) -> Out:
        return function(self.client, *arguments)

    def replace(self) -> None:
        """Wait until it answers again."""
        deadline = time.monotonic() + self.patience_s
        while not self._stopped:
            try:
                return self.start()
            except ServerError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(PROBE_S)

    def stop(self) -> None:
        self._stopped = True
        with contextlib.suppress(ServerError):
            self.client.cancel()


class _Process:
    """A `ComfyUIServer` of this machine, whose previews are cleared behind every question."""

    server: ComfyUIServer | None

    def ask(self, function: Callable[..., Out], *arguments) -> Out:
        try:
            return function(self.server, *arguments)
        finally:
            self.server.clear_previews()


class LentServer(_Process):
    """A process of the caller's, who started it and ends it; replaced means started again."""

    def __init__(self, server: ComfyUIServer):
        self.name, self.server = server.url, server

    def start(self) -> None:
        """Nothing: it runs."""

    def replace(self) -> None:
        self.server.stop()
        self.server.start()

    def stop(self) -> None:
        """Nothing: the caller does."""


class StartedServer(_Process):
    """A process on this machine with a base directory of its own, which is gone with it.

    Args:
        home: a ComfyUI base directory whose models, inputs and custom nodes it uses; None: those of ComfyUI's folder.
        environment: as of `ComfyUIServer`.
    """

    def __init__(self, name: str, home: Path | None = None, environment: dict[str, str] | None = None):
        self.name, self.home, self.environment = name, home, environment
        self.server = None
        self._folder: tempfile.TemporaryDirectory | None = None

    def start(self) -> None:
        comfyui = find_comfyui()
        self._folder = tempfile.TemporaryDirectory(prefix="lavie-server-")
        borrow(Path(self._folder.name), self.home or comfyui)
        self.server = ComfyUIServer(comfyui, self._folder.name, environment=self.environment)
        self.server.start()

    def replace(self) -> None:
        self.stop()
        self.start()

    def stop(self) -> None:
        if self._folder is not None:
            if self.server is not None:
                self.server.stop()
            self._folder.cleanup()
            self._folder = self.server = None


def given(urls: Sequence[str]) -> list[GivenServer]:
    """Workers of running servers. Raises ServerError for what is no address or is named twice."""
    workers = [GivenServer(url) for url in urls]
    if len({worker.name for worker in workers}) < len(workers):
        raise ServerError(f"expected different servers, got one twice in {', '.join(urls)}")
    return workers


def started(count: int | None = None, home: Path | None = None) -> list[StartedServer]:
    """Workers of processes on this machine: `count` of them, or one for each GPU, which it has to itself.

    More processes than GPUs share them in turn. Without a GPU one process is the default.
    """
    gpus = visible_gpus()
    count = count or len(gpus) or 1
    devices = [{"CUDA_VISIBLE_DEVICES": gpus[i % len(gpus)]} if gpus else {} for i in range(count)]
    return [StartedServer(f"server {i + 1} of {count}", home, device) for i, device in enumerate(devices)]


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [gpu.strip() for gpu in named.split(",") if gpu.strip() not in ("", "-1")]
    return [str(i) for i in range(torch.cuda.device_count())]
