"""Data of a training: catalogues of videos and images, batches that are pure functions of (seed, step), caches."""

from .batches import RawBatch, TrainingData
from .catalogue import Catalogue, Item, Skipped
from .errors import DataError
from .pixels import render
from .plan import Draw
from .prefetch import prefetch
from .settings import Bucket, DataSettings

__all__ = [
    "Bucket", "Catalogue", "DataError", "DataSettings", "Draw", "Item", "RawBatch", "Skipped", "TrainingData",
    "prefetch", "render",
]  # fmt: skip
