"""Tensors that are costly to make and cheap to keep: text embeddings, latents.

Contract: a folder of one safetensors file per key, each written whole or not at all and checked when it is read; it
belongs to one fingerprint (of the encoder that made the tensors) and is emptied when another one opens it. A cache
never stops a training: what it cannot keep or read it says and does without. Processes may share a folder.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ...datasets.errors import DataError
from ...files import whole_file, write_atomically

VERSION = 1
MARK = "cache.json"
EVICT_TO = 0.9  # of max_bytes, so that not every entry evicts another

log = logging.getLogger(__name__)


class TensorCache:
    """Tensors by key.

    Args:
        folder: made if it is not there. Raises DataError if it holds something else than a cache.
        fingerprint: of what makes the tensors; entries of another fingerprint are removed, said aloud.
        max_bytes: the oldest entries go when the files take more than this. None: no bound.
    """

    def __init__(self, folder: str | Path, fingerprint: str, max_bytes: int | None = None):
        self.folder, self.max_bytes = Path(folder), max_bytes
        self._said_unwritable = False
        self._lock = threading.Lock()
        mark = {"version": VERSION, "fingerprint": fingerprint}
        self.folder.mkdir(parents=True, exist_ok=True)
        found = self._read_mark()
        if found != mark:
            removed = list(self._entries())
            for path in removed:
                path.unlink(missing_ok=True)
            if found is not None:
                log.warning(
                    "%s was made for %s and is now for %s: its %d entries are removed",
                    self.folder, found.get("fingerprint"), fingerprint, len(removed),
                )  # fmt: skip
            write_atomically(self.folder / MARK, [json.dumps(mark)])
        self._bytes = sum(path.stat().st_size for path in self._entries()) if max_bytes is not None else 0

    def get(self, key: str) -> dict[str, torch.Tensor] | None:
        """The tensors of a key, on the CPU, or None if there are none; a damaged entry is removed and is none."""
        path = self._path(key)
        try:
            with safe_open(path, framework="pt") as file:
                about = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if about.get("key") != key or about.get("checksum") != _checksum(tensors):
                raise SafetensorError("its checksum is not that of its content")
            return tensors
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError) as error:
            log.warning("cache entry %s of %r is damaged (%s): removed, to be made again", path, key, error)
            path.unlink(missing_ok=True)
            return None

    def put(self, key: str, tensors: dict[str, torch.Tensor]) -> None:
        """Keep tensors under a key, replacing what was there."""
        path = self._path(key)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        try:
            path.parent.mkdir(exist_ok=True)
            with whole_file(path, durable=False) as part:  # what a power cut damages is noticed and made again
                save_file(tensors, part, {"key": key, "checksum": _checksum(tensors)})
            size = path.stat().st_size
        except (OSError, SafetensorError) as error:
            if not self._said_unwritable:
                log.warning("the cache %s cannot be written (%s): going on without new entries in it", path, error)
            self._said_unwritable = True
            return
        if self.max_bytes is not None:
            with self._lock:
                self._bytes += size
                if self._bytes > self.max_bytes:
                    self._evict()

    def _evict(self) -> None:
        """Remove the oldest entries; counts anew what lies in the folder, for other processes write to it as well."""
        entries = []
        for path in self._entries():
            try:
                stat = path.stat()
            except FileNotFoundError:
                continue  # another process was faster
            entries.append((stat.st_mtime_ns, stat.st_size, path))
        self._bytes = sum(size for _, size, _ in entries)
        for _, size, path in sorted(entries):
            if self._bytes <= EVICT_TO * self.max_bytes:
                break
            path.unlink(missing_ok=True)
            self._bytes -= size

    def _read_mark(self) -> dict | None:
        """What the folder says it is; None if it is empty."""
        strange = any(not path.name.startswith(MARK) for path in self.folder.iterdir())  # first: marks are older
        try:
            found = json.loads((self.folder / MARK).read_text(encoding="utf-8"))
        except FileNotFoundError:
            if strange:
                raise DataError(f"{self.folder} is not empty and not a cache; name a folder of its own") from None
            return None
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    def _entries(self) -> Iterator[Path]:
        """All files of entries; what is being written is none yet."""
        return self.folder.glob("??/*.safetensors")

    def _path(self, key: str) -> Path:
        name = hashlib.sha256(key.encode()).hexdigest()
        return self.folder / name[:2] / f"{name[2:42]}.safetensors"


def _checksum(tensors: dict[str, torch.Tensor]) -> str:
    value = 0
    for name in sorted(tensors):
        tensor = tensors[name]
        value = zlib.crc32(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode(), value)
        value = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy(), value)
    return f"{value:08x}"
