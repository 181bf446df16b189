"""The machine: versions, memory, and what rate of matrix products it reaches, to which the other parts are compared."""

from __future__ import annotations

import platform

import torch

from ..measure import matrix_rate
from .setting import Setting

TITLE = "The machine"
READS = ()
HALF = ("fp16", "bf16")


def rate(setting: Setting, dtype: str) -> float:
    """FLOP/s of matrix products on the device of the setting."""
    return matrix_rate(setting.device, dtype, 64 if setting.toy else 8192)


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
        "rates": {dtype: rate(setting, dtype) for dtype in ("fp32", *HALF)},
    }


def report(result: dict) -> str:
    """A list of facts."""
    memory = f", {result['memory'] / 1e9:.1f} GB" if result["memory"] else ""
    rates = ", ".join(f"{dtype} {rate / 1e12:.3g} TFLOP/s" for dtype, rate in result["rates"].items())
    return (
        f"{result['name']}{memory}; torch {result['torch']}, CUDA {result['cuda']}, Python {result['python']}. "
        f"Matrix products reach {rates}."
    )
