"""A WebDataset shard: an uncompressed tar file whose members of one name up to the first dot are one sample.

Members are read at their place in the shard: nothing is unpacked. Each video or image of a sample is an entry; they
share the sample's caption (txt, else json).
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from ..catalogue import Skipped
from ..errors import DataError
from .base import CAPTION_SUFFIXES, Entry, caption_in, file_locator, kind_of


def scan_shard(path: Path, key: str) -> Iterator[Entry | Skipped]:
    """Entries in the order of the shard; a shard that is damaged yields what comes before the damage, then says so."""
    samples: dict[str, list[tarfile.TarInfo]] = {}
    damage = None
    try:
        with tarfile.open(path, "r:") as shard:
            try:
                for member in shard:
                    if member.isfile():
                        samples.setdefault(_sample_name(member.name), []).append(member)
            except tarfile.TarError as error:
                damage = f"damaged after {sum(map(len, samples.values()))} members ({error})"
            locator = file_locator(path, "tar")
            for members in samples.values():
                yield from _entries(shard, members, key, locator)
    except (tarfile.TarError, OSError) as error:
        damage = f"not an uncompressed tar file ({error}); unpack a compressed one first"
    if damage:
        yield Skipped(key, damage)


def _entries(shard: tarfile.TarFile, members: list[tarfile.TarInfo], key: str, locator: dict):
    media = [(member, kind) for member in members if (kind := kind_of(member.name))]
    caption, trouble = "", None
    if media:
        try:
            caption = _caption(shard, members)
        except (DataError, tarfile.TarError, OSError) as error:
            trouble = str(error)
    for member, kind in media:
        name = f"{key}/{member.name}"
        if trouble:
            yield Skipped(name, trouble)
        else:
            yield Entry(name, kind, caption, {**locator, "offset": member.offset_data, "size": member.size})
    if not media:
        suffixes = ", ".join(_suffix(member.name) for member in members)
        yield Skipped(f"{key}/{_sample_name(members[0].name)}", f"a sample without a video or image (only {suffixes})")


def _caption(shard: tarfile.TarFile, members: list[tarfile.TarInfo]) -> str:
    for suffix in CAPTION_SUFFIXES:
        for member in members:
            if _suffix(member.name) == suffix and (caption := caption_in(shard.extractfile(member).read(), suffix)):
                return caption
    return ""


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _sample_name(name: str) -> str:
    path = PurePosixPath(name)
    return str(path.with_name(path.name.split(".")[0] or path.name))
