"""Super-resolution: how near the truth, how sharp and how steady, against bicubic and against frame by frame."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from ...evaluation.metrics.flicker import error_flicker
from ...evaluation.metrics.psnr_ssim import psnr
from ...evaluation.metrics.sharpness import edge_sharpness
from ...evaluation.statistics import Estimate, mean, ratio
from ...lavie_models.conditioning import UPSCALE
from ...tables import markdown_table
from ...training.data.degrade import Degradation, apply, draw_degradation
from ..shapes import caption, render
from .graphs import remake, sampling_of, through_vae, without_correction, workflow_weights
from .parts import Goal, Settings, column, heldout_scene

NAME, TITLE, SAMPLES = "super_resolution", "Super-resolution", 10
WORKFLOW = "lavie_nano_upscale_video"
SIZE, FRAMES, OF = 256, 8, 61  # neighbouring frames of clips as the cascade gives them
CLEAN = Degradation((0.0, 0.0), "area", "none", 0.0, "none", 0)
CHAIN_SEEDS = 77  # stream of the degradations, apart from those of training
RADII = {"chain": 4.0, "clean": 2.0}  # of the colour correction: what its help advises, the template's
DEGRADATIONS = {"chain": "degraded as in training", "clean": "means of 4 x 4 pixels"}
MEASURES = {"psnr": "PSNR, dB", "sharpness": "edge sharpness", "flicker": "flicker"}
FIGURES = {"psnr": psnr, "sharpness": edge_sharpness, "flicker": error_flicker}
METHODS = {
    "model": "the model", "uncorrected": "the model, without colour correction", "bicubic": "bicubic",
    "apart": "the model, frame by frame", "vae": "the VAE alone",
}  # fmt: skip
LEAST_GAIN = 2.0  # dB over bicubic
MOST_FLICKER = 0.8  # of the same network, frame by frame
TEXT = """\
Held-out scenes are drawn at 256 x 256, {frames} neighbouring frames of {of}, and made four times smaller: by chains of
degradations as in training (blur, noise, compression; other seeds), or by plain means of 4 x 4 pixels. The small frames
go, without loss, into `{workflow}.json`, whose end gives the result the colours of the small frames (*LaVie Color
Correction*; radius {clean:g} for means, as in the template, and {chain:g} for degraded ones, as its help advises).
{samples} clips of each.

- **PSNR**: of all pixels of a clip, mean over the clips, dB.
- **edge sharpness**: slope of luma across the true edges, in parts of the true slope; noise adds nothing on average.
- **flicker**: mean absolute change of the error from frame to frame, of 255.
- *frame by frame*: the same network, each frame by itself with a seed of its own. *the VAE alone*: the true frames,
  encoded and decoded: the model's bound.
"""


def weights() -> list[Path]:
    """The files that are measured."""
    return workflow_weights(WORKFLOW)


def measure(server, settings: Settings) -> dict:
    """Per kind of degradation and clip, each measure of each method."""
    radii = {kind: settings.inputs.get("radius", radius) for kind, radius in RADII.items()}
    upscalers = {
        kind: remake(server, WORKFLOW, **settings.inputs | {"radius": radius}) for kind, radius in radii.items()
    }
    vae = through_vae(server, WORKFLOW)
    uncorrected = without_correction(server, WORKFLOW, **settings.inputs)
    clips = []
    for number in tqdm(range(settings.samples), desc=NAME, unit="clip"):
        seed = settings.seed + number
        scene = heldout_scene(seed)
        rng = np.random.default_rng((CHAIN_SEEDS, seed))
        first = int(rng.integers(OF - FRAMES + 1))
        truth = render(scene, OF, SIZE, only=range(first, first + FRAMES))
        coded = vae(truth)
        for kind, chain in (("chain", draw_degradation(rng, UPSCALE)), ("clean", CLEAN)):
            small, upscale = apply(chain, truth, rng, UPSCALE), upscalers[kind]
            alone = [upscale(small[i : i + 1], caption(scene), 1000 * (seed + 1) + i) for i in range(FRAMES)]
            seen = {
                "model": upscale(small, caption(scene), seed),
                "uncorrected": uncorrected(small, caption(scene), seed),
                "bicubic": bicubic(small),
                "apart": np.concatenate(alone),
                "vae": coded,
            }
            errors = {method: {key: figure(f, truth) for key, figure in FIGURES.items()} for method, f in seen.items()}
            clips.append({"prompt": caption(scene), "seed": seed, "degradation": kind, "chain": str(chain), **errors})
    return {"sampling": sampling_of(server, WORKFLOW, **settings.inputs), "radii": radii, "clips": clips}


def bicubic(small: np.ndarray) -> np.ndarray:
    """Frames four times as wide and high, by Pillow."""
    size = (small.shape[2] * UPSCALE, small.shape[1] * UPSCALE)
    return np.stack([np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC)) for frame in small])


def tell(result: dict) -> str:
    """Per kind of degradation: each method's measures, the gain in PSNR, the flicker in parts of the other's."""
    samples = len({clip["seed"] for clip in result["clips"]})
    lines = [TEXT.format(workflow=WORKFLOW, samples=samples, frames=FRAMES, of=OF, **result["radii"])]
    for kind, words in DEGRADATIONS.items():
        clips = _of_kind(result, kind)
        rows = [[name, *(mean(column(clips, key, m)).text() for m in MEASURES)] for key, name in METHODS.items()]
        steadier = _flicker(clips)
        lines += [
            f"Small frames: {words}.\n", markdown_table(["", *MEASURES.values()], rows) + "\n",
            f"PSNR over bicubic: {_gain(clips).text()} dB. Flicker, parts of frame by frame: {steadier.text()}.\n",
        ]  # fmt: skip
    return "\n".join(lines)


def goals(result: dict) -> list[Goal]:
    """The gain over bicubic and the flicker on either kind of small frames."""
    found = []
    for kind, words in DEGRADATIONS.items():
        gain = _gain(_of_kind(result, kind))
        aim = f"super-resolution: {LEAST_GAIN:g} dB over bicubic, small frames {words}"
        found.append(Goal(aim, f"{gain.text()} dB", gain.value >= LEAST_GAIN))
    for kind, words in DEGRADATIONS.items():
        steadier = _flicker(_of_kind(result, kind))
        aim = f"super-resolution: flicker at most {MOST_FLICKER:g} of frame by frame, small frames {words}"
        found.append(Goal(aim, steadier.text(), steadier.value <= MOST_FLICKER))
    return found


def _of_kind(result: dict, kind: str) -> list[dict]:
    return [clip for clip in result["clips"] if clip["degradation"] == kind]


def _flicker(clips: list[dict]) -> Estimate:
    return ratio(column(clips, "model", "flicker"), column(clips, "apart", "flicker"))


def _gain(clips: list[dict]) -> Estimate:
    return mean(np.subtract(column(clips, "model", "psnr"), column(clips, "bicubic", "psnr")))
