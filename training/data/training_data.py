"""A catalogue and settings together: what a training loop asks of its data."""

from __future__ import annotations

import logging

import numpy as np

from .catalogue import PREPARE, Catalogue, Skipped
from .errors import DataError
from .plan import Draw, draw, pick_bucket, random, shuffled, unfit
from .settings import Bucket, DataSettings

log = logging.getLogger(__name__)
NAMED = 3  # how many examples a message gives


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
        self.check_world(world)
        seed, step = int(seed), int(step)  # numpy's whole numbers would draw others
        number = pick_bucket(self.settings.buckets, seed, step)
        bucket = self.settings.buckets[number]
        share = bucket.rows // world
        draws = []
        for row in range(rank * share, (rank + 1) * share):
            position = step * bucket.rows + row
            draws.append(self._draw(self._row_kind(seed, step, row), number, seed, position))
            images = self.settings.images
            draws += [self._draw("image", number, seed, position * images + i) for i in range(images)]
        return draws

    def check_world(self, world: int) -> None:
        """Raises DataError unless every bucket's rows can be shared among `world` processes equally."""
        odd = [bucket.rows for bucket in self.settings.buckets if bucket.rows % world]
        if odd:
            raise DataError(f"rows of a bucket are shared equally: {odd} rows cannot be among {world} processes")

    def _row_kind(self, seed: int, step: int, row: int) -> str:
        if not self.settings.video:
            return "image"
        return "pan" if random("row", seed, step, row).random() < self.settings.image_clips else "clip"

    def _draw(self, kind: str, number: int, seed: int, position: int) -> Draw:
        bucket, pool = self.settings.buckets[number], self._pools[number][kind]
        member, rounds = shuffled(position, len(pool), seed, number, kind)
        item = self.catalogue.items[pool[member]]
        if self.settings.variants:
            shape = (bucket.frames, bucket.height, bucket.width)
            rng = random("variant", item.key, kind, shape, rounds % self.settings.variants)
        else:
            rng = random("draw", seed, number, kind, position)
        return draw(item, kind, bucket, self.settings, rng)

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
                    if item.kind == source and unfit(item, kind, bucket, self.settings) is None
                ],
                np.int64,
            )
            for kind, source in self._wanted().items()
        }  # fmt: skip

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
                    why = unfit(items[0], kind, bucket, self.settings)
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
            reason = unfit(item, kinds[0], first, self.settings) if kinds else f"the settings ask for no {item.kind}s"
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
