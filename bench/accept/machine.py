"""The machine: versions, memory, and what rate of matrix products it reaches, to which the other parts are compared."""

from __future__ import annotations

import platform
import statistics

import torch

from ...lavie_models.dtypes import DTYPES
from ..measure import seconds
from .setting import Setting

TITLE = "The machine"
READS = ()
REPEATS = 5
HALF = ("fp16", "bf16")


@torch.no_grad()
def matrix_rate(setting: Setting, dtype: str) -> float:
    """FLOP/s of a square matrix product, the median of a few."""
    size = 64 if setting.toy else 8192
    a, b = (torch.randn(size, size, device=setting.device).to(DTYPES[dtype]) for _ in range(2))
    times = [seconds(lambda: a @ b, setting.device)[0] for _ in range(REPEATS + 1)][1:]
    return 2 * size**3 / statistics.median(times)


def measure(setting: Setting) -> dict:
    """Versions, bytes of memory and {dtype: FLOP/s}."""
    cuda = setting.device == "cuda"
    return {
        "name": torch.cuda.get_device_name() if cuda else platform.machine(),
        "memory": torch.cuda.get_device_properties(0).total_memory if cuda else None,
        "capability": ".".join(map(str, torch.cuda.get_device_capability())) if cuda else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "rates": {dtype: matrix_rate(setting, dtype) for dtype in ("fp32", *HALF)},
    }


def report(result: dict) -> str:
    """A list of facts."""
    memory = f", {result['memory'] / 1e9:.1f} GB" if result["memory"] else ""
    rates = ", ".join(f"{dtype} {rate / 1e12:.3g} TFLOP/s" for dtype, rate in result["rates"].items())
    return (
        f"{result['name']}{memory}; torch {result['torch']}, CUDA {result['cuda']}, Python {result['python']}. "
        f"Matrix products reach {rates}."
    )
