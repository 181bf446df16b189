"""The command `attention`: temporal attention of each stage's levels by several kernels, and which is fastest here.

Temporal attention is many short sequences: one of all frames for every pixel and head, with a bias. (Rotary positions
are the same for all kernels and not timed.) The kernels compute the same numbers; those that this machine has not, or
that refuse the shape, are left out with a reason. They take turns; on the CPU time is the CPU's.
"""

from __future__ import annotations

import argparse
import functools
import statistics
from collections.abc import Callable

import torch
import torch.nn.functional as F

from ..lavie_models.attention import sdpa_attention
from ..lavie_models.dtypes import DTYPES
from ..lavie_models.published import PUBLISHED
from ..tables import markdown_table
from .measure import seconds

Kernel = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, int, torch.Tensor], torch.Tensor]
REFERENCE = "fused"
TOLERANCE = {"fp32": 1e-5, "fp16": 1e-2, "bf16": 5e-2}  # of the largest number


def heads_as_sequences(q, k, v, heads: int, mask):
    """The fused kernel on one head of pixels x heads sequences, each copied so that its frames lie together."""
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2).flatten(0, 1)[:, None] for t in (q, k, v))
    mask = mask[0].repeat(len(q) // heads, 1, 1)[:, None]
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)[:, 0]
    return out.unflatten(0, (-1, heads)).transpose(1, 2).flatten(2)


def products(q, k, v, heads: int, mask):
    """Two batched matrix products and a softmax."""
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    return ((scores + mask).softmax(-1) @ v).transpose(1, 2).flatten(2)


def pixels_last(q, k, v, heads: int, mask):
    """Sums over channels with pixels innermost: no matrix product is as small as a clip is short."""
    q, k, v = (t.unflatten(-1, (heads, -1)).permute(2, 1, 3, 0).contiguous() for t in (q, k, v))  # (heads, F, size, S)
    scores = torch.stack([(q * key[:, None]).sum(2) for key in k.unbind(1)], dim=2) * q.shape[2] ** -0.5
    weights = (scores + mask[0, ..., None]).softmax(2)  # (heads, query, key, S)
    out = sum(weights[:, :, i, None] * value[:, None] for i, value in enumerate(v.unbind(1)))
    return out.permute(3, 1, 0, 2).flatten(2)


@functools.cache
def _compiled_flex():
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention)


def flex(q, k, v, heads: int, mask):
    """FlexAttention, compiled: the bias is read inside the kernel, no mask is made."""

    def biased(score, _batch, head, query, key):
        return score + mask[0, head, query, key]

    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    return _compiled_flex()(q, k, v, score_mod=biased).transpose(1, 2).flatten(2)


KERNELS: dict[str, Kernel] = {
    REFERENCE: sdpa_attention, "fused, heads as sequences": heads_as_sequences, "matrix products": products,
    "pixels innermost": pixels_last, "flex": flex,
}  # fmt: skip


def shapes(stage: str) -> list[tuple[int, int, int]]:
    """(frames, heads, channels of a head) of each kind of temporal attention in a stage."""
    published = PUBLISHED[stage]
    heads, levels = published.config.num_heads, published.config.attention_levels
    widths = [width for width, attends in zip(published.config.block_channels, levels, strict=True) if attends]
    return [(published.window, heads, width // heads) for width in dict.fromkeys(widths)]


@torch.no_grad()
def compare(
    shape: tuple[int, int, int], pixels: int, dtype: str, device: str, repeats: int
) -> dict[str, list[float] | str]:
    """{kernel: its seconds in every turn, or why it was left out}. Raises ValueError where one computes other numbers.

    Args:
        shape: as `shapes` gives it. pixels: sequences of frames.
    """
    frames, heads, size = shape
    rng = torch.Generator().manual_seed(0)
    made = {"dtype": DTYPES[dtype], "device": device}
    q, k, v = (torch.randn(pixels, frames, heads * size, generator=rng).to(**made) for _ in range(3))
    mask = torch.randn(1, heads, frames, frames, generator=rng).to(**made)
    wanted = KERNELS[REFERENCE](q, k, v, heads, mask)
    found: dict[str, list[float] | str] = {}
    for name, kernel in KERNELS.items():
        if name == "flex" and device == "cpu":
            found[name] = "not on a CPU"
            continue
        try:
            got = kernel(q, k, v, heads, mask)
        except RuntimeError as error:
            found[name] = str(error).splitlines()[0]
            continue
        if (got - wanted).abs().max() > TOLERANCE[dtype] * wanted.abs().max():
            raise ValueError(f"{name} computes other numbers than {REFERENCE} for {shape}")
        found[name] = []
    for _ in range(repeats):
        for name, times in found.items():
            if isinstance(times, list):
                call = seconds(lambda kernel=KERNELS[name]: kernel(q, k, v, heads, mask), device)
                times.append(call[device == "cpu"])
    return found


def row(stage: str, shape: tuple[int, int, int], found: dict[str, list[float] | str], pixels: int) -> list[str]:
    """Microseconds per pixel of the reference, how many times as fast each other kernel is, and the fastest."""
    reference = found[REFERENCE]
    medians = {name: statistics.median(times) for name, times in found.items() if isinstance(times, list)}
    cells = [
        f"{statistics.median(a / b for a, b in zip(reference, times, strict=True)):.2f}" if name in medians else times
        for name, times in found.items()
        if name != REFERENCE
    ]
    frames, heads, size = shape
    microseconds = 1e6 * medians[REFERENCE] / pixels
    return [stage, f"{frames} x {heads} x {size}", f"{microseconds:.1f}", *cells, min(medians, key=medians.get)]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser the arguments and the help of this command."""
    cuda = torch.cuda.is_available()
    parser.description = __doc__.split("\n\n")[1]
    parser.add_argument("--stages", nargs="+", choices=PUBLISHED, default=list(PUBLISHED))
    parser.add_argument("--device", default="cuda" if cuda else "cpu", choices=("cpu", "cuda"))
    parser.add_argument("--dtype", choices=TOLERANCE, help="default: bf16 on CUDA, fp32 on the CPU")
    parser.add_argument("--pixels", type=int, default=512, help="of a frame (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="turns (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Print the table; returns the exit status. Raises ValueError saying which argument is out of range."""
    if args.repeats < 1 or args.pixels < 1:
        raise ValueError(f"--repeats and --pixels start at 1, got {args.repeats} and {args.pixels}")
    dtype = args.dtype or ("bf16" if args.device == "cuda" else "fp32")
    rows = [
        row(stage, shape, compare(shape, args.pixels, dtype, args.device, args.repeats), args.pixels)
        for stage in args.stages
        for shape in shapes(stage)
    ]
    others = (f"{name}, times as fast" for name in KERNELS if name != REFERENCE)
    head = ("stage", "frames x heads x size", f"{REFERENCE}, us per pixel", *others, "fastest")
    print(markdown_table(head, rows, "ll" + "r" * len(KERNELS) + "l"))
    return 0
