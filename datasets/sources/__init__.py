"""Where items come from: folders, lists, shards.

Contract: `scan` walks a source and yields, in a stable order, an `Entry` for each video or image that it names and a
`Skipped` for each thing that it cannot use; it does not look inside media. `probe` does. `read_frames` gives the pixels
of an item again, from the item alone.
"""

from .base import Entry, describe_missing, find_missing, probe, read_frames
from .scan import check_source, scan

__all__ = ["Entry", "check_source", "describe_missing", "find_missing", "probe", "read_frames", "scan"]
