"""The VAE alone: true pictures through it. It bounds everything that is made in its latents."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...evaluation.statistics import mean
from ...tables import markdown_table
from ...training.pack_encoders import load_vae
from ..evaluate import VAE, ceiling
from ..shapes import REFERENCE_SIZE
from ..strict import MEASURES, values_of
from ..vae import quality
from .parts import Goal, Settings

NAME, TITLE, SAMPLES = "vae", "VAE", 96
FRAMES = "held-out clips' frames"
LEAST_DB, LEAST_OUTLINE = 40.0, 0.97
TEXT = """\
True pictures, encoded and decoded: PSNR over all pixels of single ones, and over those of their small details alone;
of {samples} whole held-out clips the strict measures that the base is held to (see there).
"""


def weights() -> list[Path]:
    """The file that is measured."""
    return [VAE]


def measure(server, settings: Settings) -> dict:
    """Decibels, and the strict measures of true clips; needs no server."""
    clips = ceiling(VAE, settings.samples)
    return {
        "sampling": {}, "psnr": quality(load_vae(VAE).model, REFERENCE_SIZE),
        "strict": {field: values_of(clips, field) for field in MEASURES},
    }  # fmt: skip


def tell(result: dict) -> str:
    """What single pictures and what clips lose."""
    pictures = markdown_table(["PSNR", "dB"], [(name, f"{value:.2f}") for name, value in result["psnr"].items()])
    clips = [(MEASURES[field], mean(values).text(3)) for field, values in result["strict"].items()]
    text = TEXT.format(samples=len(result["strict"]["outline"]))
    return f"{text}\n{pictures}\n\n{markdown_table(['clips', 'mean'], clips)}\n"


def goals(result: dict) -> list[Goal]:
    """40 dB, and outlines that are nearly the true ones."""
    decibels, outlines = result["psnr"][FRAMES], result["strict"]["outline"]
    return [
        Goal(f"VAE: {LEAST_DB:g} dB on {FRAMES}", f"{decibels:.2f} dB", decibels >= LEAST_DB),
        Goal(f"VAE: outline at least {LEAST_OUTLINE}", mean(outlines).text(3), np.mean(outlines) >= LEAST_OUTLINE),
    ]
