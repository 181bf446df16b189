"""What the workflow files are about: the uses of LaVie, its stages as published and as nano models, files to download.

Contract: data alone; `designs.py` makes graphs of it. TEMPLATES are what an artist finds in ComfyUI's template browser,
by the name shown there; each asks for the published files and runs with the nano ones chosen in their place. MEASURED
are graphs of the nano models for commands, tests and figures, named `lavie_nano_<use>`.
"""

from __future__ import annotations

from typing import NamedTuple

FRAMES, BASE_FPS, INTERPOLATED_FPS = 16, 8.0, 24.0
EXAMPLE_VIDEO, EXAMPLE_SECONDS = "example.mp4", 2.0
DENOISE = 0.6  # of video to video
EXAMPLE_PICTURE = "example.png"  # comes with ComfyUI
HOLDING = 0.6  # denoise between held frames; docs/nano.md has what it does
LONG_FRAMES, LOOP_FRAMES = 40, 32


class Use(NamedTuple):
    """What an artist wants: stages in their order, what they start from, and what is special about the base stage.

    ``way``: "windows", "extension" and "loop" make it long; "prompts" change along it; "lora" works on a part of it;
    "few_steps" are those of a distilled LoRA.
    """

    stages: tuple[str, ...]
    start: str = "prompt"  # or "video", "pictures"
    way: str | None = None


USES = {
    "text_to_video": Use(("base",)),
    "text_to_video_super_resolution": Use(("base", "super_resolution")),
    "cascade": Use(("base", "interpolation", "super_resolution")),
    "video_to_video": Use(("base",), "video"),
    "interpolate_video": Use(("interpolation",), "video"),
    "upscale_video": Use(("super_resolution",), "video"),
    "long_video": Use(("base",), way="windows"),
    "long_video_extended": Use(("base",), way="extension"),
    "extend_video": Use(("base",), "video", "extension"),
    "looping_video": Use(("base",), way="loop"),
    "prompt_travel": Use(("base",), way="prompts"),
    "first_last_frame": Use(("base",), "pictures"),
    "lora_on_frames": Use(("base",), way="lora"),
    "text_to_video_few_steps": Use(("base",), way="few_steps"),
}


class Sampling(NamedTuple):
    """How a stage is sampled. Without a spacing of the reference's: by KSampler, with one of core's schedulers."""

    spacing: str | None
    sampler: str
    steps: int
    guidance: float
    seed: int
    scheduler: str = "normal"


class Stage(NamedTuple):
    """A stage's files, how it is sampled, what is added to the prompt, the negative prompt.

    Of super-resolution: ``color_radius`` of its colour correction, pixels of the small frames; ``constant_noise`` for
    all frames.
    """

    model: str
    text_encoder: str
    vae: str
    sampling: Sampling
    prompt_end: str = ""
    negative: str = ""
    color_radius: float | None = None
    constant_noise: bool = False


class ModelSet(NamedTuple):
    """Published or nano: everything in which their workflows differ."""

    prefix: str
    width: int
    height: int
    prompt: str
    new_prompt: str  # what an existing video is turned into, and what a prompt that changes becomes
    lora_prompts: tuple[str, str]  # of the frames without a LoRA and of those with it
    stages: dict[str, Stage]


CLIP_L, SD_VAE = "clip_l.safetensors", "vae-ft-mse-840000-ema-pruned.safetensors"
X4_TEXT_ENCODER, X4_VAE = "x4_upscaler_text_encoder.safetensors", "x4_upscaler_vae.safetensors"
NANO_TEXT_ENCODER, NANO_VAE = "lavie_nano_text_encoder.safetensors", "lavie_nano_vae.safetensors"
NANO_X4_VAE = "lavie_nano_upscaler_vae.safetensors"
NANO_SAMPLING = Sampling(None, "euler", 25, 2.0, 1)
# The later stages follow the frames they are given: after 2 steps both are as near to the truth as they come, and
# guidance would double their time.
NANO_FOLLOWING = NANO_SAMPLING._replace(steps=2, guidance=1.0)

PUBLISHED = ModelSet(
    prefix="lavie",
    width=512,
    height=320,
    prompt="a teddy bear walking in the park, oil painting style, high quality",
    new_prompt="a robot walking in the park, oil painting style, high quality",
    lora_prompts=(
        "a teddy bear walking in the park, oil painting style, high quality",
        "a teddy bear walking in the park, in the style of the LoRA",
    ),
    stages={
        "base": Stage("lavie_base.pt", CLIP_L, SD_VAE, Sampling("ddim", "ddim", 50, 7.5, 400)),
        "interpolation": Stage(
            "lavie_interpolation.pt", CLIP_L, SD_VAE, Sampling("interpolation", "ddim", 50, 4.0, 400),
            prompt_end=", 4k.", negative="None",
        ),
        "super_resolution": Stage(
            "lavie_vsr.pt", X4_TEXT_ENCODER, X4_VAE, Sampling("ddim", "ddim", 50, 5.0, 400),
            negative="blur, worst quality", color_radius=4.0,  # untried: as cautious as the usual wavelet colour fix
        ),
    },
)  # fmt: skip
NANO = ModelSet(
    prefix="lavie_nano",
    width=64,
    height=64,
    prompt="a red fish moving right",
    new_prompt="a blue fish moving right",
    lora_prompts=("a red car moving right", "a orange car moving right"),
    stages={
        "base": Stage("lavie_nano_base.safetensors", NANO_TEXT_ENCODER, NANO_VAE, NANO_SAMPLING),
        "interpolation": Stage("lavie_nano_interpolation.safetensors", NANO_TEXT_ENCODER, NANO_VAE, NANO_FOLLOWING),
        "super_resolution": Stage(
            "lavie_nano_super_resolution.safetensors",
            NANO_TEXT_ENCODER,
            NANO_X4_VAE,
            NANO_FOLLOWING,
            color_radius=2.0,
            constant_noise=True,
        ),
    },
)
LORA = "lavie_nano_orange_lora.safetensors"
LCM_LORA = "lcm-lora-sdv1-5.safetensors"  # of Stable Diffusion 1.5, distilled to few steps
FEW_STEPS = Sampling(None, "lcm", 6, 1.3, 400, "sgm_uniform")


class Template(NamedTuple):
    """A file of workflows/: whose models it asks for, and what for."""

    model_set: ModelSet
    use: str


_TITLES = (  # ComfyUI shows them in the order of their names when sorted A to Z, else as the file system has them
    ("Start here - small models", NANO, "text_to_video"),
    ("Cascade - small models", NANO, "cascade"),
    ("Text to video", PUBLISHED, "text_to_video"),
    ("Text to large video", PUBLISHED, "text_to_video_super_resolution"),
    ("Cascade - 4x frames and 4x size", PUBLISHED, "cascade"),
    ("Video to video", PUBLISHED, "video_to_video"),
    ("Your video - 4x frames", PUBLISHED, "interpolate_video"),
    ("Your video - 4x size", PUBLISHED, "upscale_video"),
    ("Your video goes on", PUBLISHED, "extend_video"),
    ("Long video in windows", PUBLISHED, "long_video"),
    ("Long video clip by clip", PUBLISHED, "long_video_extended"),
    ("Looping video", PUBLISHED, "looping_video"),
    ("Prompts that change", PUBLISHED, "prompt_travel"),
    ("First and last frame", PUBLISHED, "first_last_frame"),
    ("LoRA on some frames - small models", NANO, "lora_on_frames"),
    ("Text to video in 6 steps", PUBLISHED, "text_to_video_few_steps"),
)
TEMPLATES = {f"LaVie {number:02} {title}": Template(*rest) for number, (title, *rest) in enumerate(_TITLES, 1)}
START, CASCADE = (name for name, template in TEMPLATES.items() if template.model_set is NANO and "LoRA" not in name)
MEASURED = (
    "text_to_video", "cascade", "video_to_video", "interpolate_video", "upscale_video", "long_video",
    "long_video_extended", "extend_video", "looping_video", "first_last_frame",
)  # fmt: skip


def measured_name(use: str) -> str:
    """Name of a graph of MEASURED."""
    return f"{NANO.prefix}_{use}"


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
    LCM_LORA: Download(
        "loras", f"{HUGGING_FACE}/latent-consistency/lcm-lora-sdv1-5/resolve/main/pytorch_lora_weights.safetensors",
        "8f90d840e075ff588a58e22c6586e2ae9a6f7922996ee6649a7f01072333afe4",
    ),
}  # fmt: skip
