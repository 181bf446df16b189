"""A training as data: the recipe's tables, one frozen dataclass each.

Contract: data alone. `recipe_checks.find_problems` names every value out of range and every contradiction at once;
nothing is looked up on disk, for the parts of the training check their own files when they open them. `recipe_file`
reads recipes.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from ..lavie_models import UNetConfig
from ..lavie_models.conditioning import MAX_NOISE_LEVEL
from .data import DataSettings

# Settings unknown to the oldest runs, with the values under which those went on.
LATER = {
    "encoders.long_captions": "cut", "distillation": None, "objective.offset_noise": 0.0,
    "objective.zero_terminal_snr": False, "data.repeats": (), "data.nearest_aspect": False,
}  # fmt: skip


@dataclass(frozen=True)
class ModelSettings:
    """What is trained and from where.

    Attributes:
        stage: which network of the cascade.
        start: "random", the folder of an earlier run (its averaged weights), or weights on disk: a LaVie file, a
            Stable Diffusion checkpoint or UNet, a diffusers folder. Image models are inflated.
        prediction: what the network learns to output.
        first_frame: the clean latent of a clip's first frame comes in by four more input channels (base only).
        train: "all" parameters, "temporal" or "spatial" ones; the others are frozen. LoRA freezes all of them.
        config: sizes that differ from the published ones; only for "random", and ``num_heads`` for image models, whose
            files do not tell it.
    """

    stage: Literal["base", "interpolation", "super_resolution"]
    start: str
    prediction: Literal["epsilon", "v"] = "epsilon"
    first_frame: bool = False
    train: Literal["all", "temporal", "spatial"] = "all"
    config: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class FocusSettings:
    """Draw a ``fraction`` of the timesteps from ``low`` .. ``high`` - 1 alone."""

    fraction: float
    low: int
    high: int


@dataclass(frozen=True)
class ObjectiveSettings:
    """The loss: MSE(video) + image_weight * MSE(images), per row.

    Attributes:
        image_weight: alpha of the paper, where it is not published.
        caption_drop: chance that a caption is replaced by the empty one.
        snr_gamma: min-SNR weighting (arXiv 2303.09556; 5 is usual); none: all timesteps weigh alike. Inference needs
            nothing for it.
        focus: timesteps to prefer; none: uniform.
        condition_drop: chance that a clip's conditioning first frame is zeroed, so that the model can also begin.
        noise_level: range of the low-resolution frames' noise level, both ends included (super-resolution).
        offset_noise: strength of noise that is equal all over a frame's channel, so that brightness is learned too
            (0.05 to 0.1 is usual). Inference needs nothing for it.
        zero_terminal_snr: rescale the schedule so that its last step is noise alone (arXiv 2305.08891, section 3.1);
            needs v-prediction. In ComfyUI, put ModelSamplingDiscrete (v_prediction, zsnr on) after the loader, and
            RescaleCFG before the sampler.
    """

    image_weight: float = 0.25
    caption_drop: float = 0.1
    snr_gamma: float | None = None
    focus: FocusSettings | None = None
    condition_drop: float = 0.1
    noise_level: tuple[int, int] = (0, MAX_NOISE_LEVEL)
    offset_noise: float = 0.0
    zero_terminal_snr: bool = False


@dataclass(frozen=True)
class EncoderSettings:
    """Frozen networks around the UNet, and where their outputs are kept.

    Attributes:
        text: CLIP text encoder, a .safetensors file or a transformers folder. tokenizer: folder with vocab.json and
            merges.txt; empty: the text folder's own, else the one that ComfyUI brings.
        vae: AutoencoderKL, a .safetensors file or a diffusers folder; or the nano VAE.
        cache: folder for encoded texts, and latents where ``data.variants`` makes them repeat; empty: no cache.
        cache_gb: size at which the oldest entries go.
        long_captions: of more than 77 tokens: "cut" there, or read in "chunks" of 77 as ComfyUI reads prompts.
    """

    text: str
    vae: str
    tokenizer: str = ""
    cache: str = ""
    cache_gb: float = 50.0
    long_captions: Literal["cut", "chunks"] = "cut"


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW, or Muon for matrices and AdamW for the rest (`muon.py`).

    ``matrix_lr``: of Muon's matrices, as ``lr`` is of the rest. ``warmup`` in steps; ``clip`` bounds the gradient's
    norm; ``ema`` 0 trains without an average.
    """

    lr: float
    name: Literal["adamw", "adamw8bit", "muon"] = "adamw"
    matrix_lr: float = 0.02
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    warmup: int = 500
    clip: float = 1.0
    ema: float = 0.9999


@dataclass(frozen=True)
class RunSettings:
    """How long, how precisely, on what.

    Attributes:
        out: the run's folder. steps: of the optimiser. decay: over the last so many the learning rate falls to zero.
        accumulate: into how many parts, one after the other, each process divides its rows.
        parallel: what several processes share out: "ddp" the rows, "fsdp" (version 2) parameters and states too.
        workers: threads that read data, 0: one per core; threads: of torch on the CPU, 0 leaves its choice.
        prefetch_gb: pixels that are read ahead of the network, at most, per process.
        keep: checkpoints kept.
        wandb: project at Weights & Biases that gets what TensorBoard gets; empty: none.
    """

    out: str
    steps: int
    decay: int = 0
    seed: int = 0
    precision: Literal["no", "bf16", "fp16"] = "bf16"
    accumulate: int = 1
    gradient_checkpointing: bool = False
    parallel: Literal["ddp", "fsdp"] = "ddp"
    save_every: int = 500
    keep: int = 2
    log_every: int = 20
    workers: int = 0
    threads: int = 0
    prefetch_gb: float = 2.0
    wandb: str = ""


@dataclass(frozen=True)
class LoRASettings:
    """Low-rank adapters instead of the weights themselves.

    ``targets``: of lora.TARGETS. ``text_encoder``: adapt it too, at ``text_lr`` times the learning rate.
    """

    rank: int = 16
    alpha: float = 16.0
    targets: tuple[str, ...] = ("attention",)
    text_encoder: bool = False
    text_lr: float = 1.0


@dataclass(frozen=True)
class DistillationSettings:
    """Learn to answer at once what the model without its adapters answers in many steps (see distill.py).

    ``steps``: points of the teacher's trajectory, a divisor of 1000. ``guidance``: of the teacher. ``huber``: width of
    the loss's quadratic middle.
    """

    steps: int = 50
    guidance: float = 7.5
    huber: float = 0.001


@dataclass(frozen=True)
class ValidationSettings:
    """Loss of the averaged weights on clips kept out of training.

    ``every`` steps (0: never), on ``heldout`` items of each kind in ``batches`` batches, at the middle of each of
    ``quantiles`` equal parts of the timesteps.
    """

    every: int = 0
    heldout: int = 0
    batches: int = 1
    quantiles: int = 5


@dataclass(frozen=True)
class SampleSettings:
    """Videos of the averaged weights ``every`` steps (0: never), into the run's folder and TensorBoard.

    Without ``prompts``, the captions of ``count`` held-out clips, which also give their conditions (first frame, frames
    to interpolate, low-resolution frames). The size is that of the first bucket, and so are the ``frames`` where they
    are 0.

    ``evaluate``: "module:function", imported when the training begins; it is given [(caption, frames)] and returns
    {name: number}, which are recorded beside the loss. Such a one is "comfyui_lavie.evaluation.watch:figures".
    """

    every: int = 0
    prompts: tuple[str, ...] = ()
    count: int = 4
    frames: int = 0
    steps: int = 25
    guidance: float = 7.5
    seed: int = 0
    evaluate: str = ""


@dataclass(frozen=True)
class Recipe:
    """One training."""

    model: ModelSettings
    encoders: EncoderSettings
    data: DataSettings
    optimizer: OptimizerSettings
    run: RunSettings
    objective: ObjectiveSettings = ObjectiveSettings()
    lora: LoRASettings | None = None
    distillation: DistillationSettings | None = None
    validation: ValidationSettings = ValidationSettings()
    samples: SampleSettings = SampleSettings()

    def settings(self) -> dict[str, Any]:
        """What decides the result of a run besides its length and files: equal for the runs that may go on as one."""
        free = {"run": ("out", "steps", "decay", "save_every", "keep", "log_every", "workers", "threads",
                        "gradient_checkpointing", "parallel", "prefetch_gb", "wandb"),
                "validation": ("every", "batches", "quantiles"),
                "encoders": ("cache", "cache_gb", "text", "tokenizer", "vae"), "data": ("catalogues", "max_bad"),
                "model": ("start",)}  # fmt: skip
        found = {}
        for section, values in dataclasses.asdict(self).items():
            if section == "samples":
                continue
            if values is None:
                found[section] = None
                continue
            found |= {f"{section}.{key}": v for key, v in values.items() if key not in free.get(section, ())}
        return {key: value for key, value in found.items() if key not in LATER or value != LATER[key]}

    def unet_config(self) -> UNetConfig:
        """The UNet's sizes where the start is "random"; elsewhere the file has a say too (see start.py)."""
        overrides = {"in_channels": 8, **self.model.config} if self.model.first_frame else self.model.config
        return getattr(UNetConfig, self.model.stage)(**overrides)
