"""Data of a training: catalogues of videos and images, plans that are pure functions of (seed, step), caches.

`prepare` makes catalogues of sources; `TrainingData.plan` says what a step sees and `render` reads it. The tensor cache
(cache.py) and the degradations of super-resolution (degrade.py) are imported from where they are.
"""

from ...datasets.background import ordered_map
from ...datasets.catalogue import Catalogue, Item, Skipped
from ...datasets.errors import DataError
from .pixels import render
from .plan import Draw
from .settings import Bucket, DataSettings
from .training_data import TrainingData

__all__ = [
    "Bucket", "Catalogue", "DataError", "DataSettings", "Draw", "Item", "Skipped", "TrainingData", "ordered_map",
    "render",
]  # fmt: skip
