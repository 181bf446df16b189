"""The command `operators`: where the time of one forward goes, per kind of operator, against the arithmetic it does.

Every operator that torch runs is timed by itself, in a forward after two that nobody watches, the second of which is
timed as a whole. The rate of matrix products is measured in the same process with the same threads. An operator at that
rate is limited by arithmetic; one without FLOPs moves memory, and says how many bytes it read and wrote.
"""

from __future__ import annotations

import argparse
import os
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, shape_wrapper

from ..lavie_models.dtypes import DTYPES
from ..lavie_models.published import PUBLISHED
from ..tables import markdown_table
from .measure import FLOP_FORMULAS, matrix_rate, seconds
from .subjects import SUBJECTS, Case

KINDS = {  # part of an operator's name: the kind it belongs to; the first that fits
    "attention": "attention",
    "group_norm": "normalisation",
    "layer_norm": "normalisation",
    "softmax": "attention",
    "mm": "matrix products",
    "linear": "matrix products",
    "silu": "activation functions",
    "gelu": "activation functions",
    "copy": "copies",
    "clone": "copies",
    "cat": "copies",
    "index": "copies",
    "upsample": "copies",
    "pad": "copies",
    "add": "sums and products",
    "mul": "sums and products",
    "div": "sums and products",
    "sub": "sums and products",
}
OTHER = "other"
RATE_SIZE = 2048  # of the matrices whose product sets the rate


@dataclass
class Cost:
    """Of all operators of a kind: seconds on the clock, FLOPs, bytes that they read and wrote, how many they are."""

    seconds: float = 0.0
    flops: int = 0
    bytes: int = 0
    calls: int = 0


class Operators(TorchDispatchMode):
    """Times every operator inside it, on the CPU."""

    def __init__(self):
        super().__init__()
        self.costs: dict[str, Cost] = defaultdict(Cost)
        self._formulas = flop_registry | {op: shape_wrapper(formula) for op, formula in FLOP_FORMULAS.items()}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        begun = time.perf_counter()
        out = func(*args, **kwargs)
        taken = time.perf_counter() - begun
        cost = self.costs[kind_of(func, args)]
        cost.seconds += taken
        cost.calls += 1
        if formula := self._formulas.get(func.overloadpacket):
            cost.flops += formula(*args, **kwargs, out_val=out)
        if not func.is_view:
            cost.bytes += sum(value.nbytes for value in tree_leaves((args, kwargs, out)) if torch.is_tensor(value))
        return out


def kind_of(func, args: tuple) -> str:
    """Convolutions by what they span: pixels, or frames."""
    name = func.overloadpacket.__name__
    if "convolution" in name:
        kernel = args[1].shape[2:]
        return "convolutions over frames" if kernel[0] > 1 == max(kernel[1:], default=1) else (
            f"convolutions over pixels, {'x'.join(map(str, kernel[-2:]))}"
        )  # fmt: skip
    return next((kind for part, kind in KINDS.items() if part in name), OTHER)


def measure(forward: Callable) -> tuple[dict[str, Cost], float]:
    """({kind: cost} of one forward, the longest first; seconds on the clock of one that is not watched)."""
    forward()
    whole, _ = seconds(forward, "cpu")
    with Operators() as operators:
        forward()
    return dict(sorted(operators.costs.items(), key=lambda item: -item[1].seconds)), whole


def table(costs: dict[str, Cost], whole: float, rate: float) -> str:
    """Markdown: a row per kind, and what its arithmetic alone would take at that rate of FLOP/s."""
    rows, together = [], sum(cost.seconds for cost in costs.values())
    for kind, cost in costs.items():
        reached = f"{cost.flops / cost.seconds / rate:.2f}" if cost.flops else "-"
        moved = f"{cost.bytes / cost.seconds / 1e9:.1f}" if cost.bytes else "-"
        rows.append((kind, cost.calls, f"{cost.seconds:.2f}", f"{cost.seconds / together:.3f}",
                     f"{cost.flops / 1e12:.3f}", reached, moved))  # fmt: skip
    flops = sum(cost.flops for cost in costs.values())
    head = ("operators", "calls", "seconds", "share", "TFLOP", "part of the rate", "GB/s")
    return (
        f"{markdown_table(head, rows)}\n\n{together:.1f} s in all operators, {whole:.1f} s for a forward that is not "
        f"watched. Matrix products reach {rate / 1e9:.1f} GFLOP/s, at which the {flops / 1e12:.2f} TFLOP alone would "
        f"take {flops / rate:.1f} s: {flops / rate / together:.2f} of the operators' time."
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser the arguments and the help of this command."""
    parser.description = __doc__.split("\n\n")[1]
    parser.add_argument("--stage", choices=PUBLISHED, default="base", help="default: %(default)s")
    parser.add_argument("--subject", choices=SUBJECTS, default="LaVieUNet", help="default: %(default)s")
    parser.add_argument("--frames", type=int, help="default: as many as the stage was trained on")
    parser.add_argument("--size", type=int, default=32, help="height and width of the latents (default: %(default)s)")
    parser.add_argument("--width-divisor", type=int, default=1, help="narrower networks")
    parser.add_argument("--dtype", choices=DTYPES, default="fp32", help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads (default: %(default)s)")


@torch.no_grad()
def run(args: argparse.Namespace) -> int:
    """Print the table; returns the exit status."""
    frames = PUBLISHED[args.stage].window if args.frames is None else args.frames
    torch.set_num_threads(args.threads)
    case = Case(args.stage, frames, args.size, args.width_divisor, args.dtype, "cpu", args.threads)
    _, forward = SUBJECTS[args.subject](case)
    costs, whole = measure(forward)
    print(table(costs, whole, matrix_rate("cpu", args.dtype, RATE_SIZE)))
    return 0
