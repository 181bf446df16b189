"""What a run records of its steps: a line each in `metrics.jsonl`, TensorBoard's events, and a progress bar.

Contract: lines of steps after the one that a run resumes from are removed. Seconds of a step: `waiting` for its batch,
`network` (forwards, backwards, exchange), `optimiser`; of other threads, meanwhile: `reading` (of all that read, added
up) and `encoding`. A network that waits is starved: by encoding where that takes as long as a step, else by reading.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

from tqdm import tqdm

from ..files import write_atomically

BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"
STARVED = 0.1  # share of a step's time that the network waits, from which on the bar says so


class Metrics:
    """The records of a run's folder. steps: at which it ends. wandb: a project at Weights & Biases, or empty."""

    def __init__(self, folder: Path, step: int, steps: int, wandb: str = ""):
        path = folder / "metrics.jsonl"
        write_atomically(path, _lines_until(path, step))
        self._file = path.open("a", buffering=1)
        self._wandb = _start_wandb(wandb, folder) if wandb else None
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        self.board = SummaryWriter(str(folder), purge_step=step + 1)
        self._since: list[dict] = []
        self._bar = tqdm(initial=step, total=steps, unit="step", mininterval=2, bar_format=BAR)
        self._rate: Rate = Rate()

    def add(self, row: dict, rows: int, every: int) -> None:
        """Record one step of ``rows`` rows; TensorBoard gets means over ``every`` steps."""
        row = {name: round(value, 4) if "seconds" in name else value for name, value in row.items()}
        self._file.write(json.dumps(row) + "\n")
        self._since.append(row | {"rows": rows})
        if row["step"] % every == 0:
            for name in row.keys() - {"step"}:
                mean = sum(one.get(name, 0) for one in self._since) / len(self._since)
                self.board.add_scalar(f"time/{name}" if "seconds" in name else f"train/{name}", mean, row["step"])
            self.board.add_scalar("time/rows_per_second", self._sum("rows") / self._sum("seconds"), row["step"])
            self._since.clear()
        self._show(row, rows)

    def record(self, name: str, values: dict[str, float], step: int) -> None:
        """Record a measurement that is not made at every step."""
        self._file.write(json.dumps({"step": step, name: values}) + "\n")
        for key, value in values.items():
            self.board.add_scalar(f"{name}/{key}", value, step)

    def close(self) -> None:
        self._bar.close()
        self._file.close()
        self.board.close()
        if self._wandb is not None:
            self._wandb.finish()

    def _sum(self, name: str) -> float:
        return sum(one[name] for one in self._since)

    def _show(self, row: dict, rows: int) -> None:
        self._rate.add(rows)
        waits = row["waiting_seconds"] / row["seconds"]
        words = {"loss": f"{row['loss']:.4f}", "rows/s": f"{self._rate.rows_per_second:.3g}"}
        if waits > STARVED:
            words["waits"] = f"{waits:.0%}"
        if left := self._rate.seconds_for(self._bar.total - row["step"]):
            words["left"] = tqdm.format_interval(left)
        self._bar.set_postfix(words, refresh=False)
        self._bar.update()


class Rate:
    """How fast steps pass, the first one left out: it waits for the first batch and for what is made only once."""

    def __init__(self):
        self._begun, self._steps, self._rows = None, 0, 0

    def add(self, rows: int) -> None:
        """A step of ``rows`` rows has ended."""
        if self._begun is None:
            self._begun = time.perf_counter()
            return
        self._steps += 1
        self._rows += rows

    @property
    def rows_per_second(self) -> float:
        """0 before there are two steps."""
        return self._rows / (time.perf_counter() - self._begun) if self._steps else 0.0

    def seconds_for(self, steps: int) -> float | None:
        """For so many more steps, validation and samples among them; None before there are two."""
        return steps * (time.perf_counter() - self._begun) / self._steps if self._steps else None


def _lines_until(path: Path, step: int) -> list[str]:
    """Whole lines of steps that the resumed state has made."""
    kept = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
        except ValueError:  # half a line of a run that was killed
            continue
        if row["step"] <= step:
            kept.append(f"{line}\n")
    return kept


def _start_wandb(project: str, folder: Path):
    """Weights & Biases, which then gets what TensorBoard gets. Raises ImportError naming what it needs."""
    try:
        import wandb
    except ImportError:
        raise ImportError(f"run.wandb = {project} needs the package wandb; install it, or leave it out") from None
    return wandb.init(project=project, name=folder.name, dir=str(folder), sync_tensorboard=True)
