"""The resumable state of a training run: one file, written whole or not at all, that knows which run it belongs to."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch


def save_state(path: Path, settings: dict[str, Any], **state: Any) -> None:
    """Write to a neighbour, then rename: a stop in between leaves the older state. `settings` name the run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    torch.save({"settings": settings, **state}, temporary)
    os.replace(temporary, path)


def load_state(path: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """What save_state wrote, or None where there is nothing yet.

    Raises ValueError if the file belongs to a run with other settings: going on with it would mix two trainings.
    """
    if not path.exists():
        return None
    state = torch.load(path, weights_only=True)
    other = {k: (state["settings"].get(k), v) for k, v in settings.items() if state["settings"].get(k) != v}
    if other:
        changes = ", ".join(f"{key}: then {then}, now {now}" for key, (then, now) in other.items())
        raise ValueError(f"{path} belongs to a run with other settings ({changes}); repeat them or take another --out")
    return state
