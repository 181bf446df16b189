"""Each stage beside diffusers' UNetMotionModel, in turns."""

from __future__ import annotations

from ...lavie_models.published import PUBLISHED
from .. import forward
from ..subjects import Case
from .setting import Setting

TITLE = "Beside diffusers' UNetMotionModel"
READS = ()
NARROW = {"base": 10, "interpolation": 10, "super_resolution": 8}  # divisors of the widths of toys


def measure(setting: Setting) -> dict:
    """{stage: the Markdown table of ``bench forward``}."""
    tables = {}
    with forward.networks() as pair:
        for stage, published in PUBLISHED.items():
            frames, size, divisor = (2, 8, NARROW[stage]) if setting.toy else (published.window, 64, 1)
            case = Case(stage, frames, size, divisor, setting.dtypes[0], setting.device)
            tables[stage] = forward.table(case, *forward.measure(pair, case, setting.repeats))
    return tables


def report(result: dict) -> str:
    """The tables."""
    return "\n\n".join(table.strip() for table in result.values())
