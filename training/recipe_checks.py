"""What can be wrong with a recipe: values out of range, and settings that contradict each other."""

from __future__ import annotations

from ..lavie_models.conditioning import MAX_NOISE_LEVEL
from ..lavie_models.schedule import TRAINED_STEPS
from .lora import TARGETS
from .recipe import Recipe


def find_problems(recipe: Recipe) -> list[str]:
    """One sentence each; empty if there are none."""
    found = [f"data.{text}" for text in recipe.data.problems()]
    found += [text for wrong, text in (*_list_ranges(recipe), *_list_contradictions(recipe)) if wrong]
    try:
        recipe.unet_config()
    except (ValueError, TypeError) as error:
        found.append(f"model.config: {error}")
    return found


def _list_ranges(recipe: Recipe) -> list[tuple[bool, str]]:
    objective, optimizer, run = recipe.objective, recipe.optimizer, recipe.run
    low, high = objective.noise_level
    checks = [
        *((not 0 <= value <= 1, f"{name}: expected 0 .. 1, got {value}") for name, value in (
            ("objective.caption_drop", objective.caption_drop),
            ("objective.condition_drop", objective.condition_drop),
        )),
        *((value < 0, f"{name}: expected 0 or more, got {value}") for name, value in (
            ("objective.image_weight", objective.image_weight), ("optimizer.warmup", optimizer.warmup),
            ("optimizer.weight_decay", optimizer.weight_decay), ("run.decay", run.decay), ("run.seed", run.seed),
            ("run.threads", run.threads), ("run.workers", run.workers),
            ("objective.offset_noise", objective.offset_noise), ("validation.every", recipe.validation.every),
            ("validation.heldout", recipe.validation.heldout), ("samples.every", recipe.samples.every),
            ("samples.frames", recipe.samples.frames),
        )),
        *((value < 1, f"{name}: expected 1 or more, got {value}") for name, value in (
            ("run.steps", run.steps), ("run.accumulate", run.accumulate), ("run.save_every", run.save_every),
            ("run.keep", run.keep), ("run.log_every", run.log_every),
            ("validation.batches", recipe.validation.batches), ("validation.quantiles", recipe.validation.quantiles),
            ("samples.steps", recipe.samples.steps),
        )),
        (not run.prefetch_gb > 0, f"run.prefetch_gb: expected more than 0, got {run.prefetch_gb}"),
        (not optimizer.lr > 0, f"optimizer.lr: expected more than 0, got {optimizer.lr}"),
        (not optimizer.matrix_lr > 0, f"optimizer.matrix_lr: expected more than 0, got {optimizer.matrix_lr}"),
        (not optimizer.clip > 0, f"optimizer.clip: expected more than 0, got {optimizer.clip}"),
        (not 0 <= optimizer.ema < 1, f"optimizer.ema: expected 0 .. below 1, got {optimizer.ema}"),
        (not all(0 <= b < 1 for b in optimizer.betas), f"optimizer.betas: expected 0 .. 1, got {optimizer.betas}"),
        (not 0 <= low <= high <= MAX_NOISE_LEVEL, "objective.noise_level: expected two levels, "
         f"0 <= first <= second <= {MAX_NOISE_LEVEL}, got {objective.noise_level}"),
    ]  # fmt: skip
    if (gamma := objective.snr_gamma) is not None:
        checks.append((not gamma > 0, f"objective.snr_gamma: expected more than 0, got {gamma}"))
    if focus := objective.focus:
        right = 0 <= focus.fraction <= 1 and 0 <= focus.low < focus.high <= TRAINED_STEPS
        checks.append((not right, "objective.focus: expected a fraction 0 .. 1 and "
                       f"0 <= low < high <= {TRAINED_STEPS}, got {focus}"))  # fmt: skip
    if distillation := recipe.distillation:
        steps, width = distillation.steps, distillation.huber
        checks += [
            (steps < 1 or TRAINED_STEPS % steps > 0, f"distillation.steps: expected a divisor of {TRAINED_STEPS}, got "
             f"{steps}"),
            (not width > 0, f"distillation.huber: expected more than 0, got {width}"),
        ]
    if lora := recipe.lora:
        unknown = [name for name in lora.targets if name not in TARGETS]
        checks += [
            (lora.rank < 1, f"lora.rank: expected 1 or more, got {lora.rank}"),
            (bool(unknown), f"lora.targets: expected some of {', '.join(TARGETS)}, got {', '.join(unknown)}"),
            (not lora.targets, "lora.targets: expected at least one; the text encoder alone is not enough"),
        ]
    return checks


def _list_contradictions(recipe: Recipe) -> list[tuple[bool, str]]:
    model, data, stage = recipe.model, recipe.data, recipe.model.stage
    conditioned = model.first_frame or stage != "base"
    watched = recipe.validation.every > 0 or (recipe.samples.every > 0 and not recipe.samples.prompts)
    odd = [bucket.frames for bucket in data.buckets if bucket.frames % 4 != 1 or bucket.frames < 5]
    uneven = [bucket.rows for bucket in data.buckets if bucket.rows % recipe.run.accumulate]
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
        (recipe.objective.zero_terminal_snr and model.prediction != "v", "objective.zero_terminal_snr needs "
         "model.prediction = v: where nothing but noise is left, the noise says nothing about the clip"),
        (recipe.distillation is not None and (recipe.lora is None or recipe.lora.text_encoder), "distillation learns "
         "adapters of the UNet alone: add a [lora] table, with text_encoder = false"),
        (recipe.lora is not None and model.train != "all", "lora freezes the model: leave out model.train"),
        (recipe.lora is not None and recipe.run.parallel == "fsdp", "lora is small: use run.parallel = ddp"),
        (recipe.lora is not None and model.start == "random", "lora needs a trained model: set model.start"),
        (recipe.run.parallel == "fsdp" and recipe.optimizer.name == "adamw8bit", "8-bit states cannot be shared out: "
         "use either run.parallel = fsdp or optimizer.name = adamw8bit"),
        (recipe.run.parallel == "fsdp" and recipe.optimizer.name == "muon", "a matrix that is shared out cannot be "
         "made orthogonal: use either run.parallel = fsdp or optimizer.name = muon"),
        (recipe.run.parallel == "fsdp" and recipe.run.precision == "fp16", "run.parallel = fsdp knows no loss scaling: "
         "use run.precision = bf16"),
        (recipe.run.decay > recipe.run.steps, f"run.decay {recipe.run.decay} is longer than run.steps "
         f"{recipe.run.steps}"),
        (bool(uneven), f"rows of data.buckets must divide by run.accumulate = {recipe.run.accumulate}, got {uneven}"),
        (watched and not recipe.validation.heldout, "validation.heldout is 0, but validation or samples want "
         "held-out clips"),
        (conditioned and bool(recipe.samples.prompts), "samples.prompts: this model continues given frames; leave "
         "prompts out to sample from held-out clips"),
    ]  # fmt: skip
