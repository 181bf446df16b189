"""Measure both networks side by side and print a Markdown table: ``python -m comfyui_lavie.bench --help``.

The timed forwards of the two take turns, so that whatever else the machine does slows both alike; the table gives
medians. FLOPs and memory are measured outside the timed forwards. The first forward of each (the one whose FLOPs are
counted) warms it up.
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import statistics
from dataclasses import dataclass
from pathlib import Path

import torch

from .measure import Subject
from .subjects import SUBJECTS, Case

SPEED_GOAL = 1.2  # at least this many times the peer's FLOP/s
MEMORY_GOAL = 0.8  # at most this many times the peer's peak activations
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Result:
    """Measurements of one network: bytes, FLOPs and seconds of one forward; ``growth`` None where unknown."""

    name: str
    weights: int
    flops: int
    times: tuple[float, ...]
    activations: int
    growth: int | None

    @property
    def seconds(self) -> float:
        return statistics.median(self.times)

    @property
    def speed(self) -> float:
        """FLOP/s of the median forward."""
        return self.flops / self.seconds


def run(case: Case, repeats: int) -> list[Result]:
    """Measure all subjects, ours first; ``repeats`` timed forwards of each, taking turns."""
    log = logging.getLogger(__name__)
    with Subject("LaVieUNet", case) as ours, Subject("UNetMotionModel", case) as theirs:
        subjects = (ours, theirs)
        answers = {subject.name: {"name": subject.name, "times": []} for subject in subjects}
        for question in ("weights", "flops"):
            for subject in subjects:
                answers[subject.name][question] = subject.ask(question)
                log.info("%s: %s %.3g", subject.name, question, answers[subject.name][question])
        for turn in range(repeats):
            for subject in subjects:
                taken = subject.ask("seconds")
                answers[subject.name]["times"].append(taken)
                log.info("%s: forward %d of %d took %.2f s", subject.name, turn + 1, repeats, taken)
        for question in ("activations", "growth"):
            for subject in subjects:
                answers[subject.name][question] = subject.ask(question)
    return [Result(**{**answers[name], "times": tuple(answers[name]["times"])}) for name in SUBJECTS]


def table(case: Case, ours: Result, theirs: Result) -> str:
    """The Markdown report: the case, one row per network, the ratios, and whether each goal is met."""
    lines = [
        f"{case.frames} frames, {case.size}x{case.size} latents, widths {case.widths}, {case.dtype}, "
        f"{_device_name(case)}, torch {torch.__version__.split('+')[0]}; median of {len(ours.times)} forwards of each, "
        "in turns.",
        "",
        "| network | weights | seconds per forward (range) | TFLOP | GFLOP/s | peak activations | process growth |",
        "|---|---|---|---|---|---|---|",
        *(_row(result) for result in (ours, theirs)),
    ]
    speed, memory = ours.speed / theirs.speed, ours.activations / theirs.activations
    growth = f"{ours.growth / theirs.growth:.2f}" if ours.growth and theirs.growth else "-"
    lines.append(
        f"| ratio | {ours.weights / theirs.weights:.2f} | {ours.seconds / theirs.seconds:.2f} | "
        f"{ours.flops / theirs.flops:.2f} | {speed:.2f} | {memory:.2f} | {growth} |"
    )
    lines += [
        "",
        f"- Goal: at least {SPEED_GOAL} x the peer's FLOP/s: {speed:.2f}, {_met(speed >= SPEED_GOAL)}.",
        f"- Goal: at most {MEMORY_GOAL} x the peer's peak activations: {memory:.2f}, {_met(memory <= MEMORY_GOAL)}.",
    ]
    return "\n".join(lines) + "\n"


def _row(result: Result) -> str:
    growth = "-" if result.growth is None else f"{result.growth / 1e6:.0f} MB"
    span = f"{result.seconds:.3g} ({min(result.times):.3g} - {max(result.times):.3g})"
    return (
        f"| {result.name} | {result.weights / 1e6:.0f} MB | {span} | {result.flops / 1e12:.3g} | "
        f"{result.speed / 1e9:.1f} | {result.activations / 1e6:.0f} MB | {growth} |"
    )


def _met(met: bool) -> str:
    return "met" if met else "not met"


def _device_name(case: Case) -> str:
    if case.device == "cuda":
        return torch.cuda.get_device_name()
    return f"CPU ({platform.machine()}, {torch.backends.cpu.get_cpu_capability()}), {case.threads} threads"


def main(argv: list[str] | None = None) -> None:
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(prog="dev.py bench", description=__doc__.split("\n")[0])
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--size", type=int, default=32, help="height and width of the latents (default: %(default)s)")
    parser.add_argument("--width-divisor", type=int, default=1, choices=(1, 2, 5, 10), help="narrower networks")
    parser.add_argument("--repeats", type=int, default=3, help="timed forwards of each network (default: %(default)s)")
    parser.add_argument("--device", default="cuda" if cuda else "cpu", choices=("cpu", "cuda"))
    parser.add_argument("--dtype", choices=DTYPES, help="default: bfloat16 on CUDA, float32 on the CPU")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="also write the table to this file")
    args = parser.parse_args(argv)
    if args.repeats < 1 or args.threads < 1:
        parser.error(f"--repeats and --threads start at 1, got {args.repeats} and {args.threads}")
    dtype = args.dtype or ("bfloat16" if args.device == "cuda" else "float32")
    try:
        case = Case(args.frames, args.size, args.width_divisor, dtype, args.device, args.threads)
    except ValueError as error:
        parser.error(str(error))
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    report = table(case, *run(case, args.repeats))
    print(report, end="")
    if args.out:
        args.out.write_text(report)


if __name__ == "__main__":
    main()
