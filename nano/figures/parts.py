"""What every part of the figures is: a way to measure, and a way to tell.

What `measure` gives is JSON, and `tell` and `goals` need nothing else, so that a page can be made of what was measured
earlier.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ..shapes import Scene, sample_scene


@dataclass(frozen=True)
class Settings:
    """How much is measured. samples: clips. clips: folder for those of text-to-video. seed: of the first clip, each
    further one adds 1. inputs: changed inputs of the workflow, such as {"steps": 8}."""

    samples: int
    clips: Path
    seed: int = 0
    inputs: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Goal:
    """What was aimed at, what came out, and whether that is enough."""

    aim: str
    figure: str
    met: bool


class Part(Protocol):
    """The face of a part's module. SAMPLES: clips, unless told otherwise."""

    NAME: str
    TITLE: str
    SAMPLES: int

    def weights(self) -> list[Path]:
        """The files that are measured. Raises TrainingError if one is not there."""

    def measure(self, server, settings: Settings) -> dict:
        """Run the clips. Raises WorkflowError."""

    def tell(self, result: dict) -> str:
        """Definitions and tables, in Markdown."""

    def goals(self, result: dict) -> list[Goal]:
        """How it stands with the part's goals."""


def heldout_scene(seed: int) -> Scene:
    """A scene whose colour, thing and direction never came together in training."""
    return sample_scene(seed, "heldout")


def column(clips: list[dict], method: str, measure: str) -> list[float]:
    """One measure of one method, clip by clip; NaN where nothing could be measured."""
    return [clip[method][measure] for clip in clips]
