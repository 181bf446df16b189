"""The command `predict`: how long a large build takes and what it fills, from the rates of one that was made.

Contract: arithmetic on measured figures, with its assumptions printed beside the result. What was not measured (stages
that were not run, shards that were not written) is not in it, and named.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

from .blueprint import NAMES
from .build import RATES
from .errors import DataError
from .parquet import iterate_rows
from .prepare import positive
from .select import COSTS, SHOTS
from .write_shards import ABOUT

DAY = 86400.0
TAXED = 0.85  # share of the time in which workers of a large cluster do work that is kept


@dataclass(frozen=True)
class Rates:
    """Of a build that was made.

    Attributes:
        cpu, device: {stage: seconds of one worker per shot}. kept: selected clips per shot. seconds: mean of a clip.
        table: bytes per shot. shards: bytes per clip, None if none were written.
    """

    cpu: dict[str, float]
    device: dict[str, float]
    kept: float
    seconds: float
    table: float
    shards: float | None


@dataclass(frozen=True)
class Machines:
    """count: of machines; workers, gpus: of each."""

    count: int
    workers: int
    gpus: int


def measured_rates(folder: Path, shards: Path | None) -> Rates:
    """Rates of the build in `folder`. Raises DataError if there is none, or it selected nothing."""
    try:
        sums = json.loads((folder / RATES).read_text())
        costs = json.loads((folder / COSTS).read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"{folder} holds no finished build ({error}); make one with `build`") from None
    if not costs[-1]["left"]:
        raise DataError(f"the build in {folder} selected nothing: nothing can be predicted from it")
    if any("device" not in value for value in sums.values()):
        raise DataError(f"the rates in {folder} do not say which stages a GPU makes faster: build it again elsewhere")
    each = {stage: value["seconds"] / value["shots"] for stage, value in sums.items() if value["shots"]}
    usable = next(cost["left"] for cost in costs if cost["rule"] == "usable")
    # Scenes are found in all shots, the other stages run on usable ones: both are counted per usable shot.
    if "scenes" in each:
        each["scenes"] *= costs[0]["left"] / max(1, usable)
    device = {stage: value for stage, value in each.items() if sums[stage]["device"]}
    lengths = [row["seconds"] for row in iterate_rows(folder / SHOTS, ["seconds", "unusable"])
               if not row["unusable"]]  # fmt: skip
    written = json.loads((shards / ABOUT).read_text())["shards"].values() if shards else ()
    clips = sum(fact["clips"] for fact in written)
    return Rates(
        {stage: value for stage, value in each.items() if stage not in device}, device, costs[-1]["left"] / usable,
        sum(lengths) / len(lengths), (folder / SHOTS).stat().st_size / usable,
        sum(fact["bytes"] for fact in written) / clips if clips else None,
    )  # fmt: skip


def predict_days(rates: Rates, clips: int, machines: Machines) -> tuple[float, float]:
    """(days of the CPU workers, days of the GPUs) until `clips` are selected; both work at the same time."""
    shots = clips / rates.kept
    busy = DAY * TAXED * machines.count
    return (
        shots * sum(rates.cpu.values()) / (busy * machines.workers),
        shots * sum(rates.device.values()) / (busy * max(1, machines.gpus)),
    )


def prediction_text(rates: Rates, clips: int, machines: Machines) -> str:
    """What comes out, and what it rests on."""
    cpu, device = predict_days(rates, clips, machines)
    shots = clips / rates.kept
    lacking = sorted(set(NAMES) - set(rates.cpu) - set(rates.device))
    disk = [f"table {shots * rates.table / 1e9:,.1f} GB"]
    disk += [f"shards {clips * rates.shards / 1e12:,.2f} TB"] if rates.shards else ["shards not measured (--shards)"]
    lines = [
        f"{clips:,} clips on {machines.count} machines of {machines.workers} workers and {machines.gpus} GPUs: "
        f"{max(cpu, device):,.1f} days (CPU stages {cpu:,.1f}, model stages {device:,.1f}); {', '.join(disk)}",
        "assumptions:",
        f"  {rates.kept:.1%} of usable shots are selected, as here: {shots:,.0f} usable shots are looked at",
        f"  a shot lasts {rates.seconds:.1f} s and is as large as here; time grows with both",
        f"  a worker of there is as fast as one of here; {1 - TAXED:.0%} of the time is lost to stragglers and repeats",
        "  storage and network feed all workers; models run at the speed of the device on which they were measured",
        "  seconds of a worker per usable shot: "
        + ", ".join(f"{stage} {value:.3f}" for stage, value in {**rates.cpu, **rates.device}.items()),
    ]
    if lacking:
        lines.append(f"  not measured and not in it: {', '.join(lacking)}")
    return "\n".join(lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser the arguments and the help of this command."""
    parser.description = "Predict days and disk of a large build from the measured rates of a small one."
    parser.add_argument("folder", type=Path, help="what `build --out` made, of footage like that of the large build")
    parser.add_argument("--clips", type=positive, default=25_000_000, help="selected clips (default: 25 million)")
    parser.add_argument("--machines", type=positive, default=1)
    parser.add_argument("--workers", type=positive, default=16, help="of each machine (default: 16)")
    parser.add_argument("--gpus", type=positive, default=1, help="of each machine (default: 1)")
    parser.add_argument("--shards", type=Path, help="what `shards --out` wrote of it, to predict their size")


def run(args: argparse.Namespace) -> int:
    """Do it; returns the exit status."""
    rates = measured_rates(args.folder, args.shards)
    print(prediction_text(rates, args.clips, Machines(args.machines, args.workers, args.gpus)))
    return 0
