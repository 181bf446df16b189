"""Files that a training needs: found, or named with where to get them; and what identifies their content."""

from __future__ import annotations

import hashlib
from pathlib import Path

from .checkpoints import file_checksum


def required(path: Path, setting: str, where: str) -> Path:
    """``path``, or FileNotFoundError saying which setting names it, what belongs there and where to get it."""
    if not path.exists():
        raise FileNotFoundError(
            f"{setting}: there is no {path.absolute()}. Get {where}, put it there or change {setting}; nothing is "
            "downloaded by itself"
        )
    return path


def file_digest(path: Path) -> str:
    """16 digits of the content's SHA-256; of a folder, of all files in it."""
    if path.is_file():
        return file_checksum(path)
    parts = [f"{file.relative_to(path)} {file_checksum(file)}" for file in sorted(path.rglob("*")) if file.is_file()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
