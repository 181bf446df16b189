"""Looking into video and image files: what they hold (probe) and their pixels (decode).

Contract: a source is a path or the file's bytes. Pictures are uint8 RGB, (H, W, 3), turned upright. Every failure is a
DataError whose text fits after "name: ".
"""

from .file import Probed, Source
from .image import decode_image, probe_image
from .video import decode_video, probe_video

__all__ = ["Probed", "Source", "decode_image", "decode_video", "probe_image", "probe_video"]
