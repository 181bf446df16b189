"""A WebDataset shard: an uncompressed tar file whose members of one name up to the first dot are one sample.

Members are read at their place in the shard: nothing is unpacked. Each video or image of a sample is an entry. Its
caption (txt, else json) is that of its own stem; else the sample's own (shot.txt for shot.0001.png); else the only one
of the sample that belongs to no other video or image.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from ..catalogue import Skipped
from ..content import check_regular
from ..errors import DataError
from .base import CAPTION_SUFFIXES, Entry, captions_in, kind_of, member_locator


def scan_shard(path: Path, key: str) -> Iterator[Entry | Skipped]:
    """Entries in the order of the shard; a shard that is damaged yields what comes before the damage, then says so."""
    samples: dict[str, list[tarfile.TarInfo]] = {}
    damage = None
    try:
        check_regular(path)
        with tarfile.open(path, "r:") as shard:
            try:
                for member in shard:
                    if member.isfile():
                        samples.setdefault(_sample_name(member.name), []).append(member)
            except tarfile.TarError as error:
                damage = f"damaged: after {sum(map(len, samples.values()))} members, {error}"
            for sample, members in samples.items():
                yield from _entries(shard, sample, members, key, path)
    except DataError as error:
        damage = str(error)
    except (tarfile.TarError, OSError) as error:
        damage = f"not an uncompressed tar file ({error}); unpack a compressed one first"
    if damage:
        yield Skipped(key, damage)


def _entries(shard: tarfile.TarFile, sample: str, members: list[tarfile.TarInfo], key: str, path: Path):
    media = [(member, kind) for member in members if (kind := kind_of(member.name))]
    if not media:
        suffixes = ", ".join(_suffix(member.name) for member in members)
        yield Skipped(f"{key}/{sample}", f"a sample without a video or image (only {suffixes})")
        return
    captions = _SampleCaptions(shard, sample, members)
    for member, kind in media:
        name = f"{key}/{member.name}"
        try:
            place = member_locator(path, member.offset_data, member.size)
            yield from (Entry(name, kind, caption, place) for caption in captions.of(member.name) or [""])
        except (DataError, tarfile.TarError, OSError) as error:
            yield Skipped(name, str(error))
    for name in captions.left_over():
        yield Skipped(f"{key}/{name}", "a caption without a video or image of its name")


class _SampleCaptions:
    """The caption files of one sample, and which video or image each belongs to."""

    def __init__(self, shard: tarfile.TarFile, sample: str, members: list[tarfile.TarInfo]):
        self._shard, self._sample = shard, sample
        self._taken = {_stem(member.name) for member in members if kind_of(member.name)}
        self._files: dict[str, dict[str, tarfile.TarInfo]] = {}
        for member in members:
            if _suffix(member.name) in CAPTION_SUFFIXES:
                self._files.setdefault(_stem(member.name), {}).setdefault(_suffix(member.name), member)
        self._used: set[str] = set()

    def of(self, name: str) -> list[str]:
        """The captions of a video or image. Raises DataError where several could be meant."""
        for stem in (_stem(name), self._sample):
            if captions := self._read(stem):
                return captions
        free = [stem for stem in sorted(self._files) if stem not in self._taken and self._read(stem)]
        if len(free) > 1:
            raise DataError(f"several captions in its sample: {', '.join(free)}; name one of them as the file is named")
        return self._read(free[0]) if free else []

    def left_over(self) -> list[str]:
        """Texts that were not read. JSON is often about something else."""
        return [files[".txt"].name for stem, files in self._files.items() if ".txt" in files and stem not in self._used]

    def _read(self, stem: str) -> list[str]:
        self._used.add(stem)
        for suffix in CAPTION_SUFFIXES:
            member = self._files.get(stem, {}).get(suffix)
            if member and (captions := captions_in(self._shard.extractfile(member).read(), suffix)):
                return captions
        return []


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _sample_name(name: str) -> str:
    path = PurePosixPath(name)
    return str(path.with_name(path.name.split(".")[0] or path.name))
