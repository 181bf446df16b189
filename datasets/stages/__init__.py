"""What is measured of shots, one file each; STAGES is the order in which they run."""

from .aesthetics import Aesthetics
from .agreement import Agreement
from .base import Stage, fingerprint
from .captions import Captions
from .duplicates import Duplicates
from .embeddings import Embeddings
from .learned_quality import LearnedQuality
from .motion import Motion
from .quality import Quality
from .safety import Safety
from .scenes import Scenes
from .technical import Technical
from .text import Text

STAGES: tuple[type[Stage], ...] = (
    Technical, Motion, Quality, Text, Safety, Duplicates, Captions, Aesthetics, Agreement, Embeddings,
    LearnedQuality,
)  # fmt: skip

__all__ = ["STAGES", "Scenes", "Stage", "fingerprint"]
