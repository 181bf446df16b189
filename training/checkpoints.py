"""Checkpoints of a training run: written whole or not at all, recognised when damaged, and tied to their run.

Contract: a checkpoint is one file, `step-00001200.0123456789abcdef.ckpt`; the second part of its name is the checksum
of its content. It is written under another name, brought to the disk and then renamed, so a process that is killed or
a disk that fills up leaves the older ones as they were. Files hold tensors and plain values only.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
from pathlib import Path
from typing import Any

import torch

from ..files import sha256_of
from .errors import TrainingError

NAME = re.compile(r"step-(\d+)\.([0-9a-f]{16})\.ckpt")
DAMAGED = ".damaged"
log = logging.getLogger(__name__)


class CheckpointWriteError(TrainingError):
    """A checkpoint could not be written; the earlier ones are intact."""


class OtherRunError(TrainingError):
    """A folder's checkpoints belong to a run with other settings."""


class _HashedFile:
    """A file opened for writing that knows the checksum of what went through it, and what stopped it."""

    def __init__(self, file):
        self._file, self._hash, self.error = file, hashlib.sha256(), None

    def write(self, data) -> int:
        try:
            if self.error is None:
                self._file.write(data)
        except OSError as error:  # torch's writer would replace it by a message without the reason
            self.error = error
        self._hash.update(data)
        return len(data)

    def flush(self) -> None:
        self._file.flush()

    def checksum(self) -> str:
        return self._hash.hexdigest()[:16]


def file_checksum(path: Path) -> str:
    """The checksum that stands in a checkpoint's name."""
    return sha256_of(path)[:16]


class Checkpoints:
    """The checkpoints in ``folder``, of which the newest ``keep`` are kept."""

    def __init__(self, folder: str | Path, keep: int = 2):
        self.folder, self.keep = Path(folder), keep

    def files(self) -> list[Path]:
        """Oldest first."""
        return sorted(path for path in self.folder.glob("step-*.ckpt") if NAME.fullmatch(path.name))

    def newest(self) -> int | None:
        """The step of the newest file."""
        files = self.files()
        return int(NAME.fullmatch(files[-1].name)[1]) if files else None

    def save(self, step: int, settings: dict[str, Any], **state: Any) -> Path:
        """Write the state reached after ``step`` steps; ``settings`` name the run it belongs to.

        Raises:
            CheckpointWriteError: disk full or not writable, with the checkpoint that is still good.
        """
        partial = self.folder / f"step-{step:08d}.partial"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for left in self.folder.glob("*.partial"):  # of a run that was killed while writing
                left.unlink()
            with partial.open("wb") as raw:
                file = _HashedFile(raw)
                torch.save({"settings": settings, "step": step, **state}, file)
                if file.error:
                    raise file.error
                raw.flush()
                os.fsync(raw.fileno())
            path = self.folder / f"step-{step:08d}.{file.checksum()}.ckpt"
            os.replace(partial, path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            good = next(filter(_is_whole, reversed(self.files())), None)
            last = f"the last good one, {good}, is intact" if good else "there is no earlier one"
            raise CheckpointWriteError(
                f"cannot write the checkpoint of step {step} to {self.folder}: {error.strerror or error}; {last}. Make "
                "room, then repeat the command to go on from there"
            ) from error
        for old in self.files()[: -self.keep]:
            if old != path:
                old.unlink()
        return path

    def load(self, settings: dict[str, Any] | None = None) -> dict[str, Any] | None:
        """The newest state that is whole, or None where there is no checkpoint yet.

        Damaged ones are named and moved aside, so that they do not count among those that are kept. ``settings``, if
        given, must be those it was saved with.

        Raises:
            OtherRunError: the state belongs to a run with other settings; going on would mix two trainings.
            TrainingError: there are checkpoints, all of them damaged.
        """
        for path in reversed(self.files()):
            if _is_whole(path):
                state = torch.load(path, weights_only=True, map_location="cpu")
                if settings is not None:
                    check_settings(path, state["settings"], settings)
                return state
            log.warning("%s is damaged: its content does not match its checksum; trying the one before", path)
            with contextlib.suppress(OSError):  # another process was faster, or nothing may be changed here
                path.rename(path.with_suffix(DAMAGED))
        if self.files() or any(self.folder.glob(f"step-*{DAMAGED}")):
            raise TrainingError(f"all checkpoints in {self.folder} are damaged; delete them to start from nothing")
        return None


def _is_whole(path: Path) -> bool:
    return file_checksum(path) == NAME.fullmatch(path.name)[2]


def check_settings(path: Path, then: dict, now: dict) -> None:
    """Raises OtherRunError naming the settings that a state was saved with and that are others now."""
    keys = sorted({*then, *now})
    changes = [f"{key}: then {then.get(key)!r}, now {now.get(key)!r}" for key in keys if then.get(key) != now.get(key)]
    if changes:
        raise OtherRunError(
            f"{path} belongs to a run with other settings ({'; '.join(changes)}). Use the old settings again, or "
            "another folder for the new run"
        )
