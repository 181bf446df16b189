"""The command `forward`: both networks side by side, as a Markdown table.

The timed forwards of the two take turns, so that whatever else the machine does slows both alike; the table gives
medians, and the ratio of the two in every turn. On the CPU the ratio is one of CPU time, which other programs do not
lengthen. FLOPs and memory are measured outside the timed forwards. The first forward of each (the one whose FLOPs are
counted) warms it up.
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import statistics
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from ..lavie_models.dtypes import DTYPES
from ..lavie_models.published import PUBLISHED
from ..tables import markdown_table
from .measure import Subject
from .subjects import SUBJECTS, Case

SPEED_GOAL = 1.2  # at least this many times the peer's FLOP/s
MEMORY_GOAL = 0.8  # at most this many times the peer's peak activations


@dataclass(frozen=True)
class Result:
    """Measurements of one network: bytes, FLOPs and seconds of one forward; ``growth`` None where unknown.

    ``times`` are (on the clock, of the CPU) per timed forward.
    """

    name: str
    weights: int
    flops: int
    times: tuple[tuple[float, float], ...]
    activations: int
    growth: int | None

    def speeds(self, device: str) -> list[float]:
        """FLOP/s of each timed forward: per second on the clock, on the CPU per second of CPU time."""
        return [self.flops / (cpu if device == "cpu" else clock) for clock, cpu in self.times]


@contextmanager
def networks() -> Iterator[tuple[Subject, ...]]:
    """Ours and the peer, each in a process of its own."""
    with ExitStack() as stack:
        yield tuple(stack.enter_context(Subject(name)) for name in SUBJECTS)


def measure(subjects: tuple[Subject, ...], case: Case, repeats: int) -> list[Result]:
    """Measure `networks` on a case, ours first; ``repeats`` timed forwards of each, taking turns."""
    log = logging.getLogger(__name__)
    found = {subject: {"name": subject.name, "times": ()} for subject in subjects}
    for subject in subjects:
        subject.ask(case)
        for question in ("weights", "flops"):
            found[subject][question] = subject.ask(question)
            log.info("%s: %s %.3g", subject.name, question, found[subject][question])
    for turn in range(repeats):
        for subject in subjects:
            taken = subject.ask("seconds")
            found[subject]["times"] += (taken,)
            log.info("%s: forward %d of %d took %.2f s (%.2f of CPU)", subject.name, turn + 1, repeats, *taken)
    for question in ("activations", "growth"):
        for subject in subjects:
            found[subject][question] = subject.ask(question)
    return [Result(**figures) for figures in found.values()]


def table(case: Case, ours: Result, theirs: Result) -> str:
    """The Markdown report: the case, one row per network, the ratios, and whether each goal is met."""
    about = (
        f"{case.stage}: {case.frames} frames, {case.size}x{case.size} latents, widths {case.config.block_channels}, "
        f"{case.dtype}, {_device_name(case)}, torch {torch.__version__.split('+')[0]}; median of {len(ours.times)} "
        "forwards of each, in turns."
    )
    speeds = [mine / peer for mine, peer in zip(ours.speeds(case.device), theirs.speeds(case.device), strict=True)]
    speed, memory = statistics.median(speeds), ours.activations / theirs.activations
    head = ("network", "weights", "seconds", "CPU seconds", "TFLOP", "peak activations", "process growth")
    rows = [_row(ours), _row(theirs), _ratios(ours, theirs)]
    goals = [
        f"- Goal: at least {SPEED_GOAL} x the peer's FLOP/s: {_span(speeds)}, {_met(speed >= SPEED_GOAL)}.",
        f"- Goal: at most {MEMORY_GOAL} x the peer's peak activations: {memory:.2f}, {_met(memory <= MEMORY_GOAL)}.",
    ]
    return "\n".join([about, "", markdown_table(head, rows), "", *goals]) + "\n"


def _row(result: Result) -> list[str]:
    clock, cpu = (_span([times[i] for times in result.times]) for i in (0, 1))
    growth = "-" if result.growth is None else f"{result.growth / 1e6:.0f} MB"
    return [result.name, f"{result.weights / 1e6:.0f} MB", clock, cpu, f"{result.flops / 1e12:.3g}",
            f"{result.activations / 1e6:.0f} MB", growth]  # fmt: skip


def _ratios(ours: Result, theirs: Result) -> list[str]:
    """Ours by theirs; of times, of every turn."""
    turns = list(zip(ours.times, theirs.times, strict=True))
    clock, cpu = (_span([mine[i] / peer[i] for mine, peer in turns]) for i in (0, 1))
    growth = f"{ours.growth / theirs.growth:.2f}" if ours.growth and theirs.growth else "-"
    weights, flops, activations = (
        f"{getattr(ours, name) / getattr(theirs, name):.2f}" for name in ("weights", "flops", "activations")
    )
    return ["ratio", weights, clock, cpu, flops, activations, growth]


def _span(values: list[float]) -> str:
    """Median and range."""
    return f"{statistics.median(values):.3g} ({min(values):.3g} - {max(values):.3g})"


def _met(met: bool) -> str:
    return "met" if met else "not met"


def _device_name(case: Case) -> str:
    if case.device == "cuda":
        return torch.cuda.get_device_name()
    return f"CPU ({platform.machine()}, {torch.backends.cpu.get_cpu_capability()}), {case.threads} threads"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser the arguments and the help of this command."""
    cuda = torch.cuda.is_available()
    parser.description = __doc__.split("\n\n")[1]
    parser.add_argument("--stage", choices=PUBLISHED, default="base", help="default: %(default)s")
    parser.add_argument("--frames", type=int, help="default: as many as the stage was trained on")
    parser.add_argument("--size", type=int, default=32, help="height and width of the latents (default: %(default)s)")
    parser.add_argument("--width-divisor", type=int, default=1, help="narrower networks")
    parser.add_argument("--repeats", type=int, default=3, help="timed forwards of each network (default: %(default)s)")
    parser.add_argument("--device", default="cuda" if cuda else "cpu", choices=("cpu", "cuda"))
    parser.add_argument("--dtype", choices=DTYPES, help="default: bf16 on CUDA, fp32 on the CPU")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="also write the table to this file")


def run(args: argparse.Namespace) -> int:
    """Do it; returns the exit status. Raises ValueError saying which argument is out of range."""
    if args.repeats < 1 or args.threads < 1:
        raise ValueError(f"--repeats and --threads start at 1, got {args.repeats} and {args.threads}")
    dtype = args.dtype or ("bf16" if args.device == "cuda" else "fp32")
    frames = PUBLISHED[args.stage].window if args.frames is None else args.frames
    case = Case(args.stage, frames, args.size, args.width_divisor, dtype, args.device, args.threads)
    with networks() as pair:
        report = table(case, *measure(pair, case, args.repeats))
    print(report, end="")
    if args.out:
        args.out.write_text(report)
    return 0
