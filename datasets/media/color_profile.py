"""Colours of still images as sRGB, by the profile that they carry (ICC.1).

Contract: a profile that is damaged or of another kind than its image is passed over, as browsers do.
"""

from __future__ import annotations

import io
from functools import lru_cache

from PIL import Image, ImageCms

KINDS = {"RGB ": ("RGB", "RGBA"), "GRAY": ("L",), "CMYK": ("CMYK",)}  # images that a profile of this kind describes
INTENT = ImageCms.Intent.RELATIVE_COLORIMETRIC


def to_srgb(image: Image.Image) -> Image.Image:
    """An image of 8 bits as RGB, or RGBA if any of it is transparent."""
    profile = image.info.get("icc_profile")
    alpha = image.has_transparency_data
    if image.mode in ("LA", "PA", "P") or alpha or image.mode not in ("L", "CMYK", "RGB"):
        image = image.convert("RGBA" if alpha else "RGB")
    transform = _transform(profile, image.mode) if profile else None
    if transform is not None:
        return transform.apply(image)
    return image.convert("RGBA" if alpha else "RGB")


@lru_cache(maxsize=32)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """None where there is nothing to do."""
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if mode not in KINDS.get(opened.profile.xcolor_space, ()) or "srgb" in _name_of(opened):
            return None
        target = "RGBA" if mode == "RGBA" else "RGB"
        return ImageCms.buildTransform(opened, ImageCms.createProfile("sRGB"), mode, target, INTENT)
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None


def _name_of(profile: ImageCms.ImageCmsProfile) -> str:
    return (profile.profile.profile_description or "").lower()
