"""A catalogue and settings together: what a training loop asks of its data."""

from __future__ import annotations

import logging
from typing import NamedTuple

import numpy as np

from ...datasets.catalogue import PREPARE, Catalogue, Item, Skipped
from ...datasets.errors import DataError
from .plan import Draw, aspect_distance, draw, find_misfit, pick_bucket, random, shuffled
from .settings import Bucket, DataSettings

log = logging.getLogger(__name__)
NAMED = 3  # how many examples a message gives


class Place(NamedTuple):
    """A place in a global batch. position: counts all places of this kind that steps of this bucket have."""

    seed: int
    bucket: int
    kind: str
    position: int


class TrainingData:
    """Plans of batches; each is a pure function of (seed, step), whatever was asked before. `render` reads a draw.

    Attributes:
        unused: items that no bucket can take, with the reason.

    Raises DataError naming everything at once that keeps the settings and the catalogue from each other.
    """

    def __init__(self, settings: DataSettings, catalogue: Catalogue):
        self.settings, self.catalogue = settings, catalogue
        problems = settings.problems()
        if not problems:
            self._pools = [self._pools_of(bucket) for bucket in settings.buckets]
            problems = self._empty_pools()
        if problems:
            raise DataError("the data settings cannot be used:\n" + "\n".join(f"- {text}" for text in problems))
        self.unused = self._unused()
        self._say_unused()

    def plan(self, seed: int, step: int, rank: int = 0, world: int = 1) -> list[Draw]:
        """The draws of a rank's rows, row by row: the clip, then its images. All ranks' plans joined are `world=1`'s.

        Raises DataError if the bucket's rows cannot be shared equally.
        """
        return [self.draw_at(place) for place in self.places(seed, step, rank, world)]

    def places(self, seed: int, step: int, rank: int = 0, world: int = 1) -> list[Place]:
        """What `plan` fills, in its order."""
        self.check_world(world)
        seed, step = int(seed), int(step)  # numpy's whole numbers would draw others
        number = pick_bucket(self.settings.buckets, seed, step)
        bucket, images = self.settings.buckets[number], self.settings.images
        share = bucket.rows // world
        places = []
        for row in range(rank * share, (rank + 1) * share):
            position = step * bucket.rows + row
            places.append(Place(seed, number, self._row_kind(seed, step, row), position))
            places += [Place(seed, number, "image", position * images + i) for i in range(images)]
        return places

    def draw_at(self, place: Place, attempt: int = 0) -> Draw:
        """The draw of a place; with ``attempt`` 1, 2, ... what stands in for it where the earlier ones are unreadable.

        A stand-in is an item drawn at random, by the place and the attempt alone: which samples a step sees depends on
        which of the files that it asks for are readable, never on what happened before.
        """
        bucket, pool = self.settings.buckets[place.bucket], self._pools[place.bucket][place.kind]
        member, rounds = shuffled(place.position, len(pool), place.seed, place.bucket, place.kind)
        spare = ("spare", attempt) if attempt else ()
        if spare:
            member = int(random(*spare, *place).integers(len(pool)))
        item = self.catalogue.items[pool[member]]
        if self.settings.variants:
            return self._variant(item, place.kind, bucket, rounds % self.settings.variants)
        rng = random("draw", place.seed, place.bucket, place.kind, place.position, *spare)
        return draw(item, place.kind, bucket, self.settings, rng)

    def repeating_draws(self) -> list[Draw]:
        """All the draws that there are, where `variants` makes them repeat; none elsewhere."""
        return [
            self._variant(self.catalogue.items[index], kind, bucket, variant)
            for bucket, pools in zip(self.settings.buckets, self._pools, strict=True)
            for kind, pool in pools.items()
            for index in np.unique(pool)
            for variant in range(self.settings.variants)
        ]

    def _variant(self, item: Item, kind: str, bucket: Bucket, number: int) -> Draw:
        rng = random("variant", item.key, kind, (bucket.frames, bucket.height, bucket.width), number)
        return draw(item, kind, bucket, self.settings, rng)

    def check_world(self, world: int) -> None:
        """Raises DataError unless every bucket's rows can be shared among `world` processes equally."""
        odd = [bucket.rows for bucket in self.settings.buckets if bucket.rows % world]
        if odd:
            raise DataError(f"rows of a bucket are shared equally: {odd} rows cannot be among {world} processes")

    def _row_kind(self, seed: int, step: int, row: int) -> str:
        if not self.settings.video:
            return "image"
        return "pan" if random("row", seed, step, row).random() < self.settings.image_clips else "clip"

    def _wanted(self) -> dict[str, str]:
        """Kinds of draws that the settings ask for, and the kind of item each is made of."""
        settings = self.settings
        wanted = {
            "clip": settings.video and settings.image_clips < 1,
            "pan": settings.image_clips > 0,
            "image": settings.images > 0 or not settings.video,
        }
        return {kind: "video" if kind == "clip" else "image" for kind, is_wanted in wanted.items() if is_wanted}

    def _pools_of(self, bucket: Bucket) -> dict[str, np.ndarray]:
        return {
            kind: np.array(
                [
                    i for i, item in enumerate(self.catalogue.items)
                    if item.kind == source and self._misfit(item, kind, bucket) is None
                    for _ in range(item.repeats)
                ],
                np.int64,
            )
            for kind, source in self._wanted().items()
        }  # fmt: skip

    def _misfit(self, item: Item, kind: str, bucket: Bucket) -> str | None:
        """Why a bucket cannot take an item as ``kind``, or None."""
        found = find_misfit(item, kind, bucket, self.settings)
        if found is None and self.settings.nearest_aspect:
            alike = [other for other in self.settings.buckets if other.frames == bucket.frames]
            best = min(alike, key=lambda other: aspect_distance(item.width, item.height, other.width, other.height))
            if (best.width, best.height) != (bucket.width, bucket.height):
                return f"is nearer in shape to {best.width}x{best.height}"
        return found

    def _empty_pools(self) -> list[str]:
        problems = []
        for number, (bucket, pools) in enumerate(zip(self.settings.buckets, self._pools, strict=True), 1):
            for kind, pool in pools.items():
                if len(pool):
                    continue
                source = self._wanted()[kind]
                items = [item for item in self.catalogue.items if item.kind == source]
                wanted = {"clip": "clips", "pan": "clips out of images (image_clips)", "image": "images"}[kind]
                text = f"bucket {number} needs {wanted}, but the catalogue has no {source}s; {PREPARE} some"
                if items:
                    why = self._misfit(items[0], kind, bucket)
                    text = f"bucket {number}: none of {len(items)} {source}s can be used; {items[0].key} {why}"
                problems.append(text)
        return problems

    def _unused(self) -> tuple[Skipped, ...]:
        used = np.zeros(len(self.catalogue.items), bool)
        for pools in self._pools:
            for pool in pools.values():
                used[pool] = True
        found, wanted, first = [], self._wanted(), self.settings.buckets[0]
        for index in np.flatnonzero(~used):
            item = self.catalogue.items[index]
            kinds = [kind for kind, source in wanted.items() if source == item.kind]
            none = f"the settings ask for no {item.kind}s"
            reason = find_misfit(item, kinds[0], first, self.settings) if kinds else none
            found.append(Skipped(item.key, reason))
        return tuple(found)

    def _say_unused(self) -> None:
        if self.unused:
            examples = "; ".join(f"{skip.key} {skip.reason}" for skip in self.unused[:NAMED])
            count, whole = len(self.unused), len(self.catalogue.items)
            more = f"; and {count - NAMED} more" if count > NAMED else ""
            log.warning("%d of %d items are not used: %s%s", count, whole, examples, more)
        rates = self.catalogue.mixed_rates
        if self.settings.video and self.settings.fps is None and rates:
            text = "videos have %g to %g frames per second, so equal strides mean unequal speed; set fps to even it out"
            log.warning(text, *rates)
