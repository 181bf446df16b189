"""What a metric is, and what it is given.

Contract: a metric gives one number a clip, or the features of each clip and one number of all of them. What it needs
besides pixels is declared, so that what is missing is known before any work.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import EvaluationError
from ..manifest import ClipRecord
from ..statistics import Estimate

NOT_MEASURED = float("nan")  # of a clip in which there is nothing to measure


@dataclass(frozen=True)
class WeightFile:
    """A file, or a folder, that belongs into the folder of --weights. source: where it comes from, in words."""

    name: str
    source: str


@dataclass(frozen=True)
class Setup:
    """What metrics share. frames: how many of each clip networks for videos see. borders: where parts begin."""

    weights: Path | None = None
    device: str = "cpu"
    frames: int = 16
    borders: tuple[int, ...] = ()

    def path(self, file: WeightFile) -> Path:
        """Where a weight file is. Raises EvaluationError if it is not."""
        if self.weights is None or not (self.weights / file.name).exists():
            raise EvaluationError(f"there is no {file.name} in {self.weights or '--weights'}; it is {file.source}")
        return self.weights / file.name


@dataclass
class Clip:
    """A clip that is measured: frames, uint8 (F, H, W, 3), and the reference's of the same shape where there is one.

    real: it belongs to the set of real clips that made ones are compared with.
    """

    frames: np.ndarray
    record: ClipRecord
    reference: np.ndarray | None = None
    real: bool = False
    _made: dict[str, Any] = field(default_factory=dict)

    def once(self, key: str, make: Callable[[], Any]) -> Any:
        """What several metrics need of this clip, made for the first of them."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]


@dataclass(frozen=True)
class SetValue:
    """One number of a set of clips. draws: of a bootstrap, the same clips in each draw for sets of equal size.

    Attributes:
        notes: further figures by name, such as what the number would be without the bias of few clips.
    """

    value: Estimate
    notes: dict[str, float] = field(default_factory=dict)
    draws: tuple[float, ...] = ()


@dataclass(frozen=True)
class Metric:
    """One figure and how it is made.

    Attributes:
        name: of the command line and of files; never changes its meaning. title: what tables show.
        better: "higher", "lower", or "" where neither is.
        protocol: everything another person needs to repeat it, in sentences, with its source.
        start: loads what is needed and returns a function of a clip: to a number (NOT_MEASURED if there is nothing to
            measure), or, of a metric of sets, to features (D,).
        judge: of a metric of sets: (features (N, D) of the clips, (M, D) of the real ones or None) to the number.
        needs: weight files. prompt, reference, borders, real: what it takes besides the frames.
        rate: the number of each clip is 0 or 1.
        digits: behind the point, in tables.
    """

    name: str
    title: str
    better: str
    protocol: str
    start: Callable[[Setup], Callable[[Clip], Any]]
    judge: Callable[[np.ndarray, np.ndarray | None], SetValue] | None = None
    needs: tuple[WeightFile, ...] = ()
    prompt: bool = False
    reference: bool = False
    borders: bool = False
    real: bool = False
    rate: bool = False
    digits: int = 3
