"""What a training reads from its data: the [data] table of a recipe.

Contract: frozen and plain, so that two runs with equal settings read equal pixels. `DataSettings.problems` names
everything that is wrong with the table itself; whether the catalogue can fill it is `TrainingData`'s to check.
"""

from __future__ import annotations

from dataclasses import dataclass

CROPS = ("cover", "native")
PIXEL_GRID = 8  # bucket sides are multiples of this: the factor of an SD 1.x VAE


@dataclass(frozen=True)
class Bucket:
    """One shape of batch.

    Attributes:
        frames: of a clip. height, width: pixels, multiples of 8. rows: clips per global batch, over all processes.
        probability: how often a step takes this bucket; those of all buckets sum to 1.
    """

    frames: int
    height: int
    width: int
    rows: int
    probability: float = 1.0


@dataclass(frozen=True)
class DataSettings:
    """Which data, and how clips and images are cut out of it.

    Attributes:
        catalogues: folders that `prepare` made.
        images: captioned images per row beside the clip (M in the paper; 0: clips only).
        video: False: rows are single images (image pre-training); buckets then have one frame, and `images` is 0.
        stride: source frames from one frame of a clip to the next, drawn per clip, both ends included.
        fps: if given, each clip takes the whole stride that plays nearest to this rate, and `stride` is ignored;
            videos that would be off by more than a quarter are not used.
        crop: "cover" shrinks a picture until it just covers the bucket; "native" cuts at full resolution.
        enlarge: whether pictures smaller than the bucket are enlarged; if not, they are not used.
        image_clips: share of rows whose clip is a large image in random translation.
        flip: probability that a clip or an image is mirrored. Leave it 0 where captions say left or right.
        nearest_aspect: an item goes only into those buckets of its kind's length whose shape is nearest to its own, so
            that as little as can be is cut off. The command `buckets` proposes buckets.
        repeats: how often each catalogue, in their order, is there in a round; empty: all of them once.
        max_bad: share of samples that may be unreadable; above it the run saves and stops.
        variants: 0: every draw is new; K: an item has K fixed draws per bucket shape, so that latents can be cached.
    """

    catalogues: tuple[str, ...]
    buckets: tuple[Bucket, ...]
    images: int = 4
    video: bool = True
    stride: tuple[int, int] = (3, 10)
    fps: float | None = None
    crop: str = "cover"
    enlarge: bool = False
    image_clips: float = 0.0
    flip: float = 0.0
    variants: int = 0
    nearest_aspect: bool = False
    repeats: tuple[int, ...] = ()
    max_bad: float = 0.1

    def problems(self) -> list[str]:
        """Everything that is wrong with the table itself, one sentence each; empty if nothing is."""
        low, high = self.stride
        checks = [
            (not self.catalogues, "catalogues: expected at least one folder that prepare made"),
            (not self.buckets, "buckets: expected at least one"),
            (any(count < 1 for count in self.repeats), f"repeats: expected 1 or more each, got {list(self.repeats)}"),
            (len(self.repeats) not in (0, len(self.catalogues)), f"repeats: expected one for each of "
             f"{len(self.catalogues)} catalogues, got {len(self.repeats)}"),
            (not 0 <= self.max_bad <= 1, f"max_bad: expected 0 .. 1, got {self.max_bad}"),
            (self.images < 0, f"images: expected 0 or more, got {self.images}"),
            (self.variants < 0, f"variants: expected 0 or more, got {self.variants}"),
            (not 1 <= low <= high, f"stride: expected two whole numbers, 1 <= first <= second, got {self.stride}"),
            (self.fps is not None and not self.fps > 0, f"fps: expected more than 0, got {self.fps}"),
            (self.crop not in CROPS, f"crop: expected one of {', '.join(CROPS)}, got {self.crop!r}"),
            (not 0 <= self.image_clips <= 1, f"image_clips: expected 0 .. 1, got {self.image_clips}"),
            (not 0 <= self.flip <= 1, f"flip: expected 0 .. 1, got {self.flip}"),
            (not self.video and self.images > 0, f"images is {self.images}, but with video = false rows are images: 0"),
            (not self.video and self.image_clips > 0, "image_clips makes clips, but video = false: set it to 0"),
        ]
        found = [text for wrong, text in checks if wrong]
        for number, bucket in enumerate(self.buckets, 1):
            found += [f"bucket {number}: {text}" for text in self._bucket_problems(bucket)]
        total = sum(bucket.probability for bucket in self.buckets)
        if self.buckets and abs(total - 1) > 1e-3:
            found.append(f"buckets: their probabilities sum to {total:g}; expected 1")
        return found

    def _bucket_problems(self, bucket: Bucket) -> list[str]:
        found = [
            f"{name}: expected a multiple of {PIXEL_GRID}, got {side}"
            for name, side in (("height", bucket.height), ("width", bucket.width))
            if side < PIXEL_GRID or side % PIXEL_GRID
        ]
        for name, count in (("frames", bucket.frames), ("rows", bucket.rows)):
            if count < 1:
                found.append(f"{name}: expected 1 or more, got {count}")
        if not 0 < bucket.probability <= 1:
            found.append(f"probability: expected more than 0, at most 1, got {bucket.probability}")
        if not self.video and bucket.frames > 1:
            found.append(f"frames is {bucket.frames}, but with video = false rows are single images: set it to 1")
        return found
