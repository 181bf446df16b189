"""Numbers: golden cases in float32 on the device, and each smaller format beside float32 there."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator

import torch

from ...lavie_models import LaVieUNet
from ...lavie_models.dtypes import DTYPES
from ...tables import markdown_table
from ..hashed import GoldenCase, small_unet, to_frames
from .setting import Setting

TITLE = "Numbers"
READS = ()
CASES = {"base": "base_forward", "interpolation": "interpolation_forward", "super_resolution": "vsr_forward"}
FP8 = torch.float8_e4m3fn
BOUNDS = {"fp32": 1e-5, "fp16": 0.01, "bf16": 0.08, "fp8": 0.3}  # of the relative error


@torch.no_grad()
def measure(setting: Setting) -> dict:
    """{stage: {format: relative error}}."""
    with full_float32():
        return {stage: errors(GoldenCase(case), setting) for stage, case in CASES.items()}


@contextlib.contextmanager
def full_float32() -> Iterator[None]:
    """TF32 is off inside."""
    backends = torch.backends.cuda.matmul, torch.backends.cudnn
    kept = [backend.allow_tf32 for backend in backends]
    try:
        for backend in backends:
            backend.allow_tf32 = False
        yield
    finally:
        for backend, allowed in zip(backends, kept, strict=True):
            backend.allow_tf32 = allowed


def errors(golden: GoldenCase, setting: Setting) -> dict[str, float]:
    """Of float32 beside the reference, of the other formats beside float32; fp8 weights are computed with in bf16."""
    unet, given = small_unet(golden.config()), golden.arguments()
    found = {"fp32": relative(run(unet, given, setting.device, "fp32"), to_frames(golden.expected["output"]))}
    if setting.toy:  # half precision takes some CPUs seconds
        given = cropped(given)
    exact = run(unet, given, setting.device, "fp32")
    for dtype in ("fp16", "bf16"):
        found[dtype] = relative(run(unet, given, setting.device, dtype), exact)
    for parameter in unet.parameters():
        parameter.data = parameter.to(FP8).float()
    return {**found, "fp8": relative(run(unet, given, setting.device, "bf16"), exact)}


def run(unet: LaVieUNet, given: dict, device: str, dtype: str) -> torch.Tensor:
    """One forward there, as float32 on the CPU."""
    unet = copy.deepcopy(unet).to(device=device, dtype=DTYPES[dtype])
    moved = {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in given.items()}
    moved |= {name: moved[name].to(DTYPES[dtype]) for name in ("x", "context")}
    return unet(**moved).float().cpu()


def cropped(given: dict) -> dict:
    """The first clip alone, of two frames of 8 x 8."""
    first = {name: given[name][:1] for name in ("timesteps", "context", "noise_level") if given[name] is not None}
    return {**given, **first, "x": given["x"][:2, :, :8, :8], "num_frames": 2}


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    """Norm of the difference in parts of the norm of ``b``."""
    return ((a - b).norm() / b.norm()).item()


def report(result: dict) -> str:
    """One row per stage; what exceeds its bound is marked."""
    about = (
        "Relative errors of small networks: float32 (TF32 off) beside the reference's outputs, the others beside "
        "float32 on this device; fp8: weights alone."
    )
    rows = [
        [stage, *(f"{error:.2g}{' (too large)' * (error > BOUNDS[name])}" for name, error in errors.items())]
        for stage, errors in result.items()
    ]
    return about + "\n\n" + markdown_table(["stage", *next(iter(result.values()))], rows)
