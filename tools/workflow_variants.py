"""What the workflow files are about: the uses of LaVie, its stages as published and as nano models, files to download.

Contract: data alone; `workflow_recipes.py` makes graphs of it. A file is named `<prefix of the variant>_<use>.json`.
"""

from __future__ import annotations

from typing import NamedTuple

FRAMES, BASE_FPS, INTERPOLATED_FPS = 16, 8.0, 24.0
EXAMPLE_VIDEO, EXAMPLE_SECONDS = "example.mp4", 2.0
DENOISE = 0.6  # of video to video
LONG_FRAMES = 40


class Use(NamedTuple):
    """What an artist wants: stages in their order, what they start from, and how it gets long, if it does."""

    stages: tuple[str, ...]
    from_video: bool = False
    longer_by: str | None = None  # "windows" or "extension"


USES = {
    "text_to_video": Use(("base",)),
    "text_to_video_interpolation": Use(("base", "interpolation")),
    "text_to_video_super_resolution": Use(("base", "super_resolution")),
    "cascade": Use(("base", "interpolation", "super_resolution")),
    "video_to_video": Use(("base",), from_video=True),
    "interpolate_video": Use(("interpolation",), from_video=True),
    "upscale_video": Use(("super_resolution",), from_video=True),
    "long_video": Use(("base",), longer_by="windows"),
    "long_video_extended": Use(("base",), longer_by="extension"),
    "extend_video": Use(("base",), from_video=True, longer_by="extension"),
}


class Sampling(NamedTuple):
    """How a stage is sampled. Without a spacing of the reference's: by KSampler with its scheduler "normal"."""

    spacing: str | None
    sampler: str
    steps: int
    guidance: float
    seed: int


class Stage(NamedTuple):
    """A stage's files, how it is sampled, what is added to the prompt, the negative prompt."""

    model: str
    text_encoder: str
    vae: str
    sampling: Sampling
    prompt_end: str = ""
    negative: str = ""


class Variant(NamedTuple):
    """Published or nano: everything in which their workflows differ."""

    prefix: str
    width: int
    height: int
    prompt: str
    new_prompt: str  # what an existing video is turned into
    stages: dict[str, Stage]


CLIP_L, SD_VAE = "clip_l.safetensors", "vae-ft-mse-840000-ema-pruned.safetensors"
X4_TEXT_ENCODER, X4_VAE = "x4_upscaler_text_encoder.safetensors", "x4_upscaler_vae.safetensors"
NANO_TEXT_ENCODER, NANO_VAE = "lavie_nano_text_encoder.safetensors", "lavie_nano_vae.safetensors"
NANO_X4_VAE = "lavie_nano_upscaler_vae.safetensors"
NANO_SAMPLING = Sampling(None, "euler", 25, 2.0, 1)
# The later stages follow the frames they are given: after 2 steps both are as near to the truth as they come, and
# guidance would double their time.
NANO_FOLLOWING = NANO_SAMPLING._replace(steps=2, guidance=1.0)

PUBLISHED = Variant(
    prefix="lavie",
    width=512,
    height=320,
    prompt="a teddy bear walking in the park, oil painting style, high quality",
    new_prompt="a robot walking in the park, oil painting style, high quality",
    stages={
        "base": Stage("lavie_base.pt", CLIP_L, SD_VAE, Sampling("ddim", "ddim", 50, 7.5, 400)),
        "interpolation": Stage(
            "lavie_interpolation.pt", CLIP_L, SD_VAE, Sampling("interpolation", "ddim", 50, 4.0, 400),
            prompt_end=", 4k.", negative="None",
        ),
        "super_resolution": Stage(
            "lavie_vsr.pt", X4_TEXT_ENCODER, X4_VAE, Sampling("ddim", "ddim", 50, 5.0, 400),
            negative="blur, worst quality",
        ),
    },
)  # fmt: skip
NANO = Variant(
    prefix="lavie_nano",
    width=64,
    height=64,
    prompt="a red fish moving right",
    new_prompt="a blue fish moving right",
    stages={
        "base": Stage("lavie_nano_base.safetensors", NANO_TEXT_ENCODER, NANO_VAE, NANO_SAMPLING),
        "interpolation": Stage("lavie_nano_interpolation.safetensors", NANO_TEXT_ENCODER, NANO_VAE, NANO_FOLLOWING),
        "super_resolution": Stage(
            "lavie_nano_super_resolution.safetensors", NANO_TEXT_ENCODER, NANO_X4_VAE, NANO_FOLLOWING
        ),
    },
)
VARIANTS = (PUBLISHED, NANO)


class Download(NamedTuple):
    """A published file: its folder under models/, where it is, and its SHA-256 where that is known."""

    folder: str
    url: str
    sha256: str = ""

    def entry(self, name: str) -> dict:
        """What a workflow says about the file, for the browser's dialog of missing models."""
        known = {"hash": self.sha256, "hash_type": "SHA256"} if self.sha256 else {}
        return {"name": name, "url": self.url, **known, "directory": self.folder}


HUGGING_FACE = "https://huggingface.co"
LAVIE, X4 = f"{HUGGING_FACE}/YaohuiW/LaVie/resolve/main", f"{HUGGING_FACE}/stabilityai/stable-diffusion-x4-upscaler"
DOWNLOADS = {
    **{stage.model: Download("diffusion_models", f"{LAVIE}/{stage.model}") for stage in PUBLISHED.stages.values()},
    CLIP_L: Download(
        "text_encoders", f"{HUGGING_FACE}/comfyanonymous/flux_text_encoders/resolve/main/{CLIP_L}",
        "660c6f5b1abae9dc498ac2d21e1347d2abdb0cf6c0c0c8576cd796491d9a6cdd",
    ),
    SD_VAE: Download(
        "vae", f"{HUGGING_FACE}/stabilityai/sd-vae-ft-mse-original/resolve/main/{SD_VAE}",
        "735e4c3a447a3255760d7f86845f09f937809baa529c17370d83e4c3758f3c75",
    ),
    X4_TEXT_ENCODER: Download("text_encoders", f"{X4}/resolve/main/text_encoder/model.safetensors"),
    X4_VAE: Download("vae", f"{X4}/resolve/main/vae/diffusion_pytorch_model.safetensors"),
}  # fmt: skip
