"""Work on many machines, by Ray Data: looking into files, and building datasets with pools of actors.

Contract: as `background.ordered_map`, on the cluster that RAY_ADDRESS names, else on this machine. Every machine needs
this package and sees the files under the same paths.
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TypeVar

from ..ray_cluster import connect_ray

AT_ONCE = 10000  # things that are sent together
BLOCK = 50  # things in one task, fewer where processors would have nothing to do
ACTOR_BLOCK = 4  # things in one task of an actor: what is repeated when it is lost

In = TypeVar("In")
Out = TypeVar("Out")


def connect():
    """The module ray with ray.data, connected to its cluster; results in order. Raises SetupError."""
    connect_ray()
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.WARNING)
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    return ray


def cluster_map(function: Callable[[In], Out], things: Iterable[In]) -> Iterator[Out]:
    """Results in the order of `things`. Raises SetupError if Ray is not installed or does not start."""
    ray = connect()

    def work(row: dict[str, bytes]) -> dict[str, bytes]:
        return {"result": pickle.dumps(function(pickle.loads(row["thing"])))}

    things = iter(things)
    while part := [{"thing": pickle.dumps(thing)} for thing in islice(things, AT_ONCE)]:
        blocks = min(len(part), max(-(-len(part) // BLOCK), int(4 * ray.cluster_resources().get("CPU", 1))))
        for row in ray.data.from_items(part, override_num_blocks=blocks).map(work).iter_rows():
            yield pickle.loads(row["result"])


class _Pool:
    """What an actor does: `work(thing)` of the object that `make(*arguments)` gives it once."""

    def __init__(self, make: Callable, arguments: tuple):
        self._work = make(*arguments)

    def __call__(self, row: dict[str, bytes]) -> dict[str, bytes]:
        result = self._work(pickle.loads(row["thing"]))
        return {"thing": row["thing"], "result": pickle.dumps(result)}


def pool_map(pools: Iterable[tuple[Callable, tuple, bool]], things: Iterable[In]) -> Iterator:
    """Results of the last pool in the order of `things`, each of which passes through all pools.

    Args:
        pools: (make, its arguments, whether it wants a GPU) each: actors hold what `make` returns and call it. A pool
            grows to its share of the cluster's CPUs, or of its GPUs. An actor that is lost is replaced, and its block
            repeated.
    """
    ray = connect()
    resources = ray.cluster_resources()
    cpus, gpus = int(resources.get("CPU", 1)), int(resources.get("GPU", 0))
    things, pools = iter(things), list(pools)
    while part := [{"thing": pickle.dumps(thing)} for thing in islice(things, AT_ONCE)]:
        data = ray.data.from_items(part, override_num_blocks=-(-len(part) // ACTOR_BLOCK))
        for make, arguments, wants_gpu in pools:
            on_gpu = wants_gpu and gpus > 0
            most = max(1, gpus // sum(wants for *_, wants in pools) if on_gpu else cpus // len(pools))
            data = data.map(
                _Pool, fn_constructor_args=(make, arguments), num_gpus=1 if on_gpu else None, num_cpus=1,
                compute=ray.data.ActorPoolStrategy(min_size=1, max_size=most),
            )  # fmt: skip
        for row in data.iter_rows():
            yield pickle.loads(row["result"])
