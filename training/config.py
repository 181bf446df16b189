"""A training as data: the recipe's tables, one frozen dataclass each.

Contract: `Recipe.problems` names every value out of range and every contradiction at once. Nothing is looked up on disk
here; the parts of the training check their own files when they open them. `recipe_file` reads recipes.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from ..lavie_models import UNetConfig
from ..lavie_models.schedule import TRAINED_STEPS
from .data import DataSettings
from .lora import TARGETS

LOWEST_NOISE, HIGHEST_NOISE = 0, 350  # levels of the low-resolution frames (super-resolution)


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
        snr_gamma: min-SNR weighting (arXiv 2303.09556); none: all timesteps weigh alike.
        focus: timesteps to prefer; none: uniform.
        condition_drop: chance that a clip's conditioning first frame is zeroed, so that the model can also begin.
        noise_level: range of the low-resolution frames' noise level, both ends included (super-resolution).
    """

    image_weight: float = 0.25
    caption_drop: float = 0.1
    snr_gamma: float | None = None
    focus: FocusSettings | None = None
    condition_drop: float = 0.1
    noise_level: tuple[int, int] = (LOWEST_NOISE, HIGHEST_NOISE)


@dataclass(frozen=True)
class EncoderSettings:
    """Frozen networks around the UNet, and where their outputs are kept.

    Attributes:
        text: CLIP text encoder, a .safetensors file or a transformers folder. tokenizer: folder with vocab.json and
            merges.txt; empty: the text folder's own, else the one that ComfyUI brings.
        vae: AutoencoderKL, a .safetensors file or a diffusers folder; or the nano VAE.
        cache: folder for encoded texts, and latents where ``data.variants`` makes them repeat; empty: no cache.
        cache_gb: size at which the oldest entries go.
    """

    text: str
    vae: str
    tokenizer: str = ""
    cache: str = ""
    cache_gb: float = 50.0


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW. ``warmup`` in steps; ``clip`` bounds the gradient's norm; ``ema`` 0 trains without an average."""

    lr: float
    name: Literal["adamw", "adamw8bit"] = "adamw"
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
        workers: threads that read data; threads: of torch on the CPU, 0 leaves its choice.
        keep: checkpoints kept.
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
    workers: int = 4
    threads: int = 0


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
    """

    every: int = 0
    prompts: tuple[str, ...] = ()
    count: int = 4
    frames: int = 0
    steps: int = 25
    guidance: float = 7.5
    seed: int = 0


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
    validation: ValidationSettings = ValidationSettings()
    samples: SampleSettings = SampleSettings()

    def settings(self) -> dict[str, Any]:
        """What decides the result of a run besides its length and files: equal for the runs that may go on as one."""
        free = {"run": ("out", "steps", "decay", "save_every", "keep", "log_every", "workers", "threads",
                        "gradient_checkpointing", "parallel"),
                "validation": ("every", "batches", "quantiles"),
                "encoders": ("cache", "cache_gb", "text", "tokenizer", "vae"), "data": ("catalogues",),
                "model": ("start",)}  # fmt: skip
        found = {}
        for section, values in dataclasses.asdict(self).items():
            if section == "samples":
                continue
            if values is None:
                found[section] = None
                continue
            found |= {f"{section}.{key}": v for key, v in values.items() if key not in free.get(section, ())}
        return found

    def problems(self) -> list[str]:
        """Values out of range and settings that contradict each other, one sentence each; empty if there are none."""
        found = [f"data.{text}" for text in self.data.problems()]
        found += [text for wrong, text in (*self._ranges(), *self._contradictions()) if wrong]
        try:
            self.unet_config()
        except (ValueError, TypeError) as error:
            found.append(f"model.config: {error}")
        return found

    def unet_config(self) -> UNetConfig:
        """The UNet's sizes where the start is "random"; elsewhere the file has a say too (see start.py)."""
        overrides = {"in_channels": 8, **self.model.config} if self.model.first_frame else self.model.config
        return getattr(UNetConfig, self.model.stage)(**overrides)

    def _ranges(self) -> list[tuple[bool, str]]:
        objective, optimizer, run = self.objective, self.optimizer, self.run
        low, high = objective.noise_level
        checks = [
            *((not 0 <= value <= 1, f"{name}: expected 0 .. 1, got {value}") for name, value in (
                ("objective.caption_drop", objective.caption_drop),
                ("objective.condition_drop", objective.condition_drop),
            )),
            *((value < 0, f"{name}: expected 0 or more, got {value}") for name, value in (
                ("objective.image_weight", objective.image_weight), ("optimizer.warmup", optimizer.warmup),
                ("optimizer.weight_decay", optimizer.weight_decay), ("run.decay", run.decay), ("run.seed", run.seed),
                ("run.threads", run.threads), ("validation.every", self.validation.every),
                ("validation.heldout", self.validation.heldout), ("samples.every", self.samples.every),
                ("samples.frames", self.samples.frames),
            )),
            *((value < 1, f"{name}: expected 1 or more, got {value}") for name, value in (
                ("run.steps", run.steps), ("run.accumulate", run.accumulate), ("run.save_every", run.save_every),
                ("run.keep", run.keep), ("run.log_every", run.log_every), ("run.workers", run.workers),
                ("validation.batches", self.validation.batches), ("validation.quantiles", self.validation.quantiles),
                ("samples.steps", self.samples.steps),
            )),
            (not optimizer.lr > 0, f"optimizer.lr: expected more than 0, got {optimizer.lr}"),
            (not optimizer.clip > 0, f"optimizer.clip: expected more than 0, got {optimizer.clip}"),
            (not 0 <= optimizer.ema < 1, f"optimizer.ema: expected 0 .. below 1, got {optimizer.ema}"),
            (not all(0 <= b < 1 for b in optimizer.betas), f"optimizer.betas: expected 0 .. 1, got {optimizer.betas}"),
            (not LOWEST_NOISE <= low <= high <= HIGHEST_NOISE, "objective.noise_level: expected two levels, "
             f"{LOWEST_NOISE} <= first <= second <= {HIGHEST_NOISE}, got {objective.noise_level}"),
        ]  # fmt: skip
        if (gamma := objective.snr_gamma) is not None:
            checks.append((not gamma > 0, f"objective.snr_gamma: expected more than 0, got {gamma}"))
        if focus := objective.focus:
            right = 0 <= focus.fraction <= 1 and 0 <= focus.low < focus.high <= TRAINED_STEPS
            checks.append((not right, "objective.focus: expected a fraction 0 .. 1 and "
                           f"0 <= low < high <= {TRAINED_STEPS}, got {focus}"))  # fmt: skip
        if lora := self.lora:
            unknown = [name for name in lora.targets if name not in TARGETS]
            checks += [
                (lora.rank < 1, f"lora.rank: expected 1 or more, got {lora.rank}"),
                (bool(unknown), f"lora.targets: expected some of {', '.join(TARGETS)}, got {', '.join(unknown)}"),
                (not lora.targets, "lora.targets: expected at least one; the text encoder alone is not enough"),
            ]
        return checks

    def _contradictions(self) -> list[tuple[bool, str]]:
        model, data, stage = self.model, self.data, self.model.stage
        conditioned = model.first_frame or stage != "base"
        watched = self.validation.every > 0 or (self.samples.every > 0 and not self.samples.prompts)
        odd = [bucket.frames for bucket in data.buckets if bucket.frames % 4 != 1 or bucket.frames < 5]
        uneven = [bucket.rows for bucket in data.buckets if bucket.rows % self.run.accumulate]
        return [
            (model.first_frame and stage != "base", f"model.first_frame belongs to stage base, not to {stage}"),
            (model.first_frame and not data.video, "model.first_frame needs clips, but data.video = false"),
            (stage != "base" and data.images > 0, f"data.images must be 0 for stage {stage}, got {data.images}"),
            (stage != "base" and not data.video, f"stage {stage} needs clips, but data.video = false"),
            (stage == "interpolation" and bool(odd), f"stage interpolation makes 4 n + 1 frames of n + 1: 5, 9, .. 61; "
             f"data.buckets have {odd}"),
            (stage != "super_resolution" and data.image_clips > 0, "data.image_clips are for stage super_resolution"),
            (not data.video and model.train == "temporal", "model.train = temporal, but single images train no "
             "temporal layer (data.video = false)"),
            (self.lora is not None and model.train != "all", "lora freezes the model: leave out model.train"),
            (self.lora is not None and self.run.parallel == "fsdp", "lora is small: use run.parallel = ddp"),
            (self.lora is not None and model.start == "random", "lora needs a trained model: set model.start"),
            (self.run.parallel == "fsdp" and self.optimizer.name == "adamw8bit", "8-bit states cannot be shared out: "
             "use either run.parallel = fsdp or optimizer.name = adamw8bit"),
            (self.run.parallel == "fsdp" and self.run.precision == "fp16", "run.parallel = fsdp knows no loss scaling: "
             "use run.precision = bf16"),
            (self.run.decay > self.run.steps, f"run.decay {self.run.decay} is longer than run.steps {self.run.steps}"),
            (bool(uneven), f"rows of data.buckets must divide by run.accumulate = {self.run.accumulate}, got {uneven}"),
            (watched and not self.validation.heldout, "validation.heldout is 0, but validation or samples want "
             "held-out clips"),
            (conditioned and bool(self.samples.prompts), "samples.prompts: this model continues given frames; leave "
             "prompts out to sample from held-out clips"),
        ]  # fmt: skip
