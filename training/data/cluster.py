"""Looking into files on many machines, by Ray Data.

Contract: as `background.ordered_map`, on the cluster that RAY_ADDRESS names, else on this machine. Every machine needs
this package and sees the files under the same paths.
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TypeVar

from .errors import DataError

AT_ONCE = 10000  # things that are sent together
BLOCK = 50  # things in one task

In = TypeVar("In")
Out = TypeVar("Out")


def cluster_map(function: Callable[[In], Out], things: Iterable[In]) -> Iterator[Out]:
    """Results in the order of `things`. Raises DataError if Ray is not installed."""
    try:
        import ray
        import ray.data
    except ImportError:
        raise DataError("work on a cluster needs Ray, which is not installed: pip install 'lavie[ray]'") from None
    if not ray.is_initialized():
        ray.init(include_dashboard=False, logging_level="warning")
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False

    def work(row: dict[str, bytes]) -> dict[str, bytes]:
        return {"result": pickle.dumps(function(pickle.loads(row["thing"])))}

    things = iter(things)
    while part := [{"thing": pickle.dumps(thing)} for thing in islice(things, AT_ONCE)]:
        blocks = -(-len(part) // BLOCK)
        for row in ray.data.from_items(part, override_num_blocks=blocks).map(work).iter_rows():
            yield pickle.loads(row["result"])
