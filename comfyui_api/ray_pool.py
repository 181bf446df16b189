"""Servers as Ray actors: one ComfyUI process each, on whatever machine of the cluster Ray puts it.

Contract: on the cluster that RAY_ADDRESS names, else on this machine. Every machine needs this package, a ComfyUI that
`find_comfyui` finds, and the model files. An actor that is killed takes its server with it, because a server ends with
its owner. Ray gives each actor its GPU by CUDA_VISIBLE_DEVICES, which the server inherits.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from ..ray_cluster import connect_ray
from .client import ServerError
from .graphs import WorkflowError
from .workers import StartedServer

START_TIMEOUT_S = 900.0  # a cluster may have to bring a machine up
STOP_TIMEOUT_S = 30.0

Out = TypeVar("Out")


class ServerActor:
    """What runs in the actor: a server, started by the constructor."""

    def __init__(self, name: str, home: Path | None):
        self.worker = StartedServer(name, home)
        self.worker.start()

    def ask(self, function: Callable[..., Out], *arguments) -> Out:
        return self.worker.ask(function, *arguments)

    def stop(self) -> None:
        self.worker.stop()


class RayServer:
    """A worker whose server is an actor's. `gpus`: GPUs that the actor has to itself."""

    def __init__(self, name: str, home: Path | None, gpus: float):
        self.name, self.home, self.gpus = name, home, gpus
        self.actor = None

    def start(self) -> None:
        import ray

        actor_class = ray.remote(ServerActor)
        self.actor = actor_class.options(num_gpus=self.gpus, num_cpus=1).remote(self.name, self.home)
        self._get(self.actor.__ray_ready__.remote(), START_TIMEOUT_S)

    def ask(self, function: Callable[..., Out], *arguments) -> Out:
        if self.actor is None:
            raise ServerError(f"{self.name} has no actor")
        return self._get(self.actor.ask.remote(function, *arguments))

    def replace(self) -> None:
        self.stop()
        self.start()

    def stop(self) -> None:
        import ray

        if self.actor is not None:
            actor, self.actor = self.actor, None
            try:
                ray.get(actor.stop.remote(), timeout=STOP_TIMEOUT_S)
            except ray.exceptions.RayError:
                pass  # it is busy or dead; killed, it takes its server with it
            ray.kill(actor)

    def _get(self, reference, timeout_s: float | None = None):
        """The value of a reference. Raises what the actor raised, and ServerError for whatever befell the actor."""
        import ray

        try:
            return ray.get(reference, timeout=timeout_s)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, (ServerError, WorkflowError)):
                raise error.cause from None
            raise
        except ray.exceptions.RayError as error:
            raise ServerError(f"{self.name}: its Ray actor failed: {error}") from None


def ray_workers(count: int | None = None, home: Path | None = None) -> list[RayServer]:
    """Workers of a Ray cluster: `count` of them, or one for each GPU; without GPUs, one for each machine.

    Raises SetupError if Ray is not installed or does not start, ServerError if its cluster has too little.
    """
    ray = connect_ray()
    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0))
    count = count or gpus or len(ray.nodes())
    available, kind = (gpus, "GPUs") if gpus else (int(resources.get("CPU", 0)), "CPUs")
    if count > available:
        raise ServerError(f"expected at most {available} servers, one for each of this cluster's {kind}, got {count}")
    return [RayServer(f"Ray server {i + 1} of {count}", home, 1.0 if gpus else 0.0) for i in range(count)]
