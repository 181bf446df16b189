"""The command `scale`: what a training at published size needs of its GPUs, computed from the network itself."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace

from ..lavie_models.published import PUBLISHED
from ..tables import markdown_table
from .encoding import NO_ENCODING, EncodingCost, encoding_cost
from .footprint import Footprint, footprint

DESCRIPTION = """\
Memory per GPU and steps per second for several numbers of GPUs, at the published sizes.

FLOPs, activations and parameters come from running the real network and objective, forwards and backwards, on torch's
meta device; nothing is looked up. What has to be assumed is an option, and is printed with the table:

  time      FLOPs / (peak x utilisation); gradients are exchanged while the backward pass goes on (2 passes over them,
            as in a ring), and only what takes longer than that pass adds to the step
  memory    float32 weights, gradients and two AdamW states (8-bit: 2 bytes for both) and float32 average; plus the
            activations at their peak, bf16 copies of weights among them, times --slack for fragmentation and workspace
  fsdp      weights, gradients, states and average divided by the number of GPUs; 3 passes over bf16 weights and
            gradients instead of 2 over float32 gradients
  encoders  the frozen VAE and text encoder in float32, at half the rate of bf16, beside the network; --cached leaves
            their work out, as where data.variants fills the caches
  not in it reading data, sampling
"""
EPILOG = """\
examples:
  scale
  scale --stage super_resolution --rows 2 --no-checkpointing
  scale --gpus 1,8,64,256 --peak-tflops 312 --gpu-memory 80
"""
BF16, FP32 = 2, 4  # bytes


@dataclass(frozen=True)
class Machine:
    """Assumptions. Rates are per GPU: TFLOP/s in bf16, and GB/s to the other GPUs of its node and to other nodes."""

    peak_tflops: float
    utilisation: float
    gpu_memory: float
    per_node: int
    node_gbs: float
    network_gbs: float
    slack: float


@dataclass(frozen=True)
class Estimate:
    """Of one step: GB per GPU and seconds."""

    memory: float
    seconds: float


def estimate(
    cost: Footprint, gpus: int, machine: Machine, fsdp: bool, average: bool, eight_bit: bool,
    encoding: EncodingCost = NO_ENCODING,
) -> Estimate:  # fmt: skip
    """Memory and time of a step in which every GPU has the rows that ``cost`` was found for."""
    states = 2 if eight_bit else 2 * FP32
    kept = FP32 * cost.parameters + (FP32 + states + FP32 * average) * cost.trained
    memory = (kept / (gpus if fsdp else 1) + cost.activations * machine.slack + encoding.weights) / 1e9
    rate = machine.peak_tflops * 1e12 * machine.utilisation
    backward = (cost.flops - cost.forward_flops) / rate
    width = machine.node_gbs if gpus <= machine.per_node else machine.network_gbs
    moved = 3 * BF16 * cost.parameters if fsdp else 2 * FP32 * cost.trained
    exchange = moved * (gpus - 1) / gpus / (width * 1e9)
    encoded = (encoding.vae_flops + encoding.text_flops) / (rate / 2)
    return Estimate(memory, encoded + cost.forward_flops / rate + max(backward, exchange))


def table(
    cost: Footprint, rows: int, counts: list[int], machine: Machine, average: bool, eight_bit: bool,
    encoding: EncodingCost = NO_ENCODING,
) -> str:  # fmt: skip
    """Markdown: a line per number of GPUs and way of sharing."""
    lines = []
    alone = estimate(cost, 1, machine, False, average, eight_bit, encoding).seconds
    for gpus in counts:
        for fsdp in (False, True) if gpus > 1 else (False,):
            if fsdp and eight_bit:
                continue
            one = estimate(cost, gpus, machine, fsdp, average, eight_bit, encoding)
            fits = "" if one.memory <= machine.gpu_memory else " (too much)"
            sharing = "-" if gpus == 1 else "fsdp" if fsdp else "ddp"
            lines.append(
                (gpus, sharing, f"{one.memory:.1f} GB{fits}", f"{1 / one.seconds:.2f}",
                 f"{gpus * rows / one.seconds:.1f}", f"{gpus * alone / one.seconds:.1f}")
            )  # fmt: skip
    return markdown_table(("GPUs", "sharing", "memory per GPU", "steps/s", "rows/s", "speed-up"), lines, "rl")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser the arguments and the help of this command."""
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    parser.add_argument("--stage", choices=PUBLISHED, default="base", help="default: base")
    parser.add_argument("--rows", type=int, default=1, help="rows per GPU and step (default: 1)")
    parser.add_argument("--gpus", type=_counts, default=[1, 8, 64], metavar="N,N,...", help="default: 1,8,64")
    parser.add_argument(
        "--checkpointing", action=argparse.BooleanOptionalAction, default=True,
        help="gradient checkpointing, as in the recipes (default: on)",
    )  # fmt: skip
    parser.add_argument(
        "--average", action=argparse.BooleanOptionalAction, default=True, help="keep an EMA (default: on)"
    )
    parser.add_argument("--cached", action="store_true", help="latents and texts come from the caches")
    parser.add_argument("--eight-bit", action="store_true", help="8-bit AdamW")
    assumed = parser.add_argument_group("assumptions; the defaults are an H100 SXM in nodes of 8")
    for option, default, what in (
        ("--peak-tflops", 989.0, "bf16 TFLOP/s without sparsity"),
        ("--utilisation", 0.35, "share of the peak that training reaches (an assumption, not a measurement)"),
        ("--gpu-memory", 80.0, "GB"),
        ("--node-gbs", 300.0, "GB/s between GPUs of a node, reached"),
        ("--network-gbs", 40.0, "GB/s per GPU between nodes, reached"),
        ("--slack", 1.15, "factor on activations for fragmentation and workspace"),
    ):
        assumed.add_argument(option, type=float, default=default, help=f"{what} (default: {default:g})")
    assumed.add_argument("--per-node", type=int, default=8, help="GPUs per node (default: 8)")


def run(args: argparse.Namespace) -> int:
    """Do it; returns the exit status."""
    machine = Machine(
        args.peak_tflops, args.utilisation, args.gpu_memory, args.per_node, args.node_gbs, args.network_gbs, args.slack
    )
    published = PUBLISHED[args.stage]
    frames, images, height, width = published.crop
    temporal = args.stage == "super_resolution"
    cost = footprint(published.config, frames, images, height, width, args.rows, args.checkpointing, temporal)
    encoding = encoding_cost(args.stage, args.rows * (frames + images), args.rows * (1 + images), height, width)
    if args.cached:
        encoding = replace(encoding, vae_flops=0, text_flops=0)
    joined = f" + {images} images" if images else ""
    print(f"{args.stage}, {cost.parameters / 1e6:.1f} M parameters, {cost.trained / 1e6:.1f} M of them learn")
    print(f"{args.rows} row(s) per GPU of {frames} frames{joined}, latents {height} x {width}; gradient checkpointing "
          f"{'on' if args.checkpointing else 'off'}; average {'kept' if args.average else 'not kept'}")
    print(f"step: {cost.flops / 1e12:.1f} TFLOP (forward {cost.forward_flops / 1e12:.1f}), activations "
          f"{cost.activations / 1e9:.1f} GB, per GPU")
    print(f"encoders: VAE {encoding.vae_flops / 1e12:.1f} TFLOP, text {encoding.text_flops / 1e12:.1f} TFLOP per step, "
          f"{encoding.weights / 1e9:.2f} GB of weights")
    print(f"assumed: {machine}\n")
    print(table(cost, args.rows, args.gpus, machine, args.average, args.eight_bit, encoding))
    return 0


def _counts(text: str) -> list[int]:
    counts = [int(part) for part in text.split(",")]
    if any(count < 1 for count in counts):
        raise argparse.ArgumentTypeError("expected numbers of GPUs, 1 or more")
    return counts
