"""The command `chunks`: time and memory of a stage's forward by the number of values that it works on at a time.

Large activations are worked on in parts (``lavie_models/parts.py``). The forward with parts of each size takes turns
with the forward on the whole, in this process; the table gives the ratio of their times (on the CPU, of CPU time) in
every turn, and that of their activations.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from ..lavie_models import parts
from ..lavie_models.dtypes import DTYPES
from ..lavie_models.published import PUBLISHED
from ..tables import markdown_table
from .measure import peak_activations, seconds
from .subjects import Case, lavie

WHOLE = 2**62
NAMES = {"cpu": "CHUNK_VALUES_CPU", "cuda": "CHUNK_VALUES"}  # constants of `parts`


@contextmanager
def working_on(values: int, device: str) -> Iterator[None]:
    """As many values at a time on that device, while the block runs."""
    name = NAMES[device]
    kept = getattr(parts, name)
    setattr(parts, name, values)
    try:
        yield
    finally:
        setattr(parts, name, kept)


def compare(forward: Callable, sizes: list[int], device: str, repeats: int) -> dict[int, tuple[list[float], int]]:
    """{values: (seconds of every turn, bytes of activations)} of one forward, in turns, one each to warm up."""
    found: dict[int, tuple[list[float], int]] = {}
    for values in sizes:
        with working_on(values, device):
            found[values] = ([], peak_activations(forward, device))
    for _ in range(repeats):
        for values, (times, _memory) in found.items():
            with working_on(values, device):
                times.append(seconds(forward, device)[device == "cpu"])
    return found


def table(found: dict[int, tuple[list[float], int]]) -> str:
    """Markdown: a row per size, beside `WHOLE`."""
    whole, memory = found[WHOLE]
    rows = []
    for values, (times, held) in found.items():
        ratios = [mine / other for mine, other in zip(times, whole, strict=True)]
        rows.append(
            ("all" if values == WHOLE else values, f"{statistics.median(times):.3g}",
             f"{statistics.median(ratios):.2f} ({min(ratios):.2f} - {max(ratios):.2f})", f"{held / 1e6:.0f} MB",
             f"{held / memory:.2f}")
        )  # fmt: skip
    return markdown_table(("values at a time", "seconds", "ratio (range)", "activations", "ratio"), rows, "r")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser the arguments and the help of this command."""
    parser.description = __doc__.split("\n\n")[1]
    parser.add_argument("--stage", choices=PUBLISHED, default="super_resolution", help="default: %(default)s")
    parser.add_argument("--frames", type=int, help="default: as many as the stage was trained on")
    parser.add_argument("--size", type=int, default=64, help="height and width of the latents (default: %(default)s)")
    parser.add_argument("--width-divisor", type=int, default=1, help="narrower networks")
    parser.add_argument("--values", type=int, nargs="+", help="default: what the device has, a quarter and four times")
    parser.add_argument("--repeats", type=int, default=3, help="turns (default: %(default)s)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=NAMES)
    parser.add_argument("--dtype", choices=DTYPES, help="default: bf16 on CUDA, fp32 on the CPU")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads (default: %(default)s)")


@torch.no_grad()
def run(args: argparse.Namespace) -> int:
    """Print the table; returns the exit status."""
    dtype = args.dtype or ("bf16" if args.device == "cuda" else "fp32")
    frames = PUBLISHED[args.stage].window if args.frames is None else args.frames
    torch.set_num_threads(args.threads)
    usual = getattr(parts, NAMES[args.device])
    sizes = args.values or [usual // 4, usual, 4 * usual]
    case = Case(args.stage, frames, args.size, args.width_divisor, dtype, args.device, args.threads)
    _, forward = lavie(case)
    print(table(compare(forward, [*sizes, WHOLE], args.device, args.repeats)))
    return 0
