"""The training loop: one recipe, on one or many processes, resumable at any step.

Contract: the run's folder holds `recipe.json`, checkpoints (see `state`), `metrics.jsonl` with a line per step,
TensorBoard's events and `samples/`. A run that is stopped in any way goes on from its last checkpoint when it is
started again, and on the CPU its parameters, averages and losses are then bit for bit those of a run that was never
stopped. N processes compute what one computes with the same global batch, up to the rounding of sums.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Iterator
from contextlib import closing, nullcontext
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, gather_object

from ..datasets.catalogue import Catalogue
from ..datasets.sources import describe_missing, find_missing
from .batch import Inputs, Prepared
from .checkpoints import Checkpoints, CheckpointWriteError, OtherRunError, check_settings
from .data import TrainingData
from .ending import BadSamples, asked_to_end
from .fsdp import gather_optimizer_state, gather_whole, scatter_optimizer_state, scatter_whole, shard
from .metrics import Metrics
from .monitor import Watch
from .reading import Share
from .recipe import Recipe
from .recipe_file import save_recipe
from .run_record import describe_change, note, save_data_record, was_accepted
from .step import Batch, add_gradients, snr_weights
from .trainee import BLOCKS, Average, Trainee, find_trained, make_optimizer

log = logging.getLogger(__name__)


class Training:
    """A run in memory: networks, average, optimiser, data, and the number of steps they have made."""

    def __init__(self, recipe: Recipe, accept_data: bool = False):
        self.recipe, run = recipe, recipe.run
        if run.threads:
            torch.set_num_threads(run.threads)
        self.accelerator = make_accelerator(recipe)
        self.main = self.accelerator.is_main_process
        if not self.main:
            logging.getLogger().setLevel(logging.WARNING)
        self.rank, self.world = self.accelerator.process_index, self.accelerator.num_processes
        self.local = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        catalogue = Catalogue.load_all(recipe.data.catalogues, recipe.data.repeats)
        learn, heldout = catalogue.split(recipe.validation.heldout)
        self.data = TrainingData(recipe.data, learn)
        self.data.check_world(self.world * run.accumulate)
        missing, files = find_missing(catalogue.items) if self.main else ([], 0)
        if missing:
            log.warning("%s. Until then other samples take their places", describe_missing(missing, files))
        self.inputs = Inputs(recipe, self.accelerator.device)
        trainee = Trainee(recipe, self.inputs.texts.model, self.accelerator.device)
        self.config, self.prediction = trainee.unet.config, trainee.prediction
        self.settings = recipe.settings() | {
            "config": json.dumps(self.config.to_dict()), "data": catalogue.fingerprint, "start": trainee.source,
            "text": self.inputs.text_digest, "vae": self.inputs.vae_digest,
        }  # fmt: skip
        self.sharded = run.parallel == "fsdp" and self.world > 1
        if self.sharded:
            shard(trainee, BLOCKS)
        groups = [{"params": [], "lr": 0.0, "share": 1.0}]
        if trainee.text_lora is not None:
            groups.append({"params": list(trainee.text_lora.parameters()), "lr": 0.0, "share": recipe.lora.text_lr})
        apart = {id(parameter) for group in groups for parameter in group["params"]}
        groups[0]["params"] = [p for p in find_trained(trainee).values() if id(p) not in apart]
        self.plain = trainee
        self.trainee = trainee if self.sharded else self.accelerator.prepare(trainee)
        self.optimizer = self.accelerator.prepare(make_optimizer(recipe.optimizer, groups))
        self.parameters = find_trained(self.plain)
        self.average = Average(self.parameters, recipe.optimizer.ema) if recipe.optimizer.ema else None
        self.step, self.is_whole = 0, True  # False while the optimiser is at work
        self.checkpoints = Checkpoints(run.out, run.keep)
        self.catalogue, self.note = catalogue, ""
        self._resume(accept_data)
        self.watch = Watch(self, TrainingData(recipe.data, heldout) if recipe.validation.heldout else None)

    # Checkpoints

    def _resume(self, accept_data: bool) -> None:
        """Go on from the newest checkpoint. Raises OtherRunError if it is another run's, or the data has changed."""
        state = self.checkpoints.load()
        if state is None:
            return
        then = state["settings"]
        if then["data"] != self.settings["data"]:
            folder, data = self.checkpoints.folder, self.settings["data"]
            change, known = describe_change(folder, self.catalogue), was_accepted(folder, data)
            if not (accept_data or known):
                raise OtherRunError(
                    f"the data is not what {self.checkpoints.folder} learned from ({change}). Bring the old data back, "
                    "or add --accept-data to go on with the new; the run's record will say so"
                )
            self.note, then = "" if known else f"went on with other data: {change}", then | {"data": data}
        check_settings(self.checkpoints.folder, then, self.settings)
        scatter_whole(state["model"], self.parameters)
        if self.average:
            scatter_whole(state["average"], self.average.values)
        scatter_optimizer_state(self.optimizer, state["optimizer"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.step = state["step"]
        log.info("going on from step %d of %s", self.step, self.checkpoints.folder)

    def save(self, together: bool = True) -> None:
        """Write a checkpoint: all processes call this, the main one writes; ``together`` = False: it alone calls it."""
        scaler = self.accelerator.scaler
        state = {
            "model": gather_whole(self.parameters),
            "average": gather_whole(self.average.values) if self.average else None,
            "optimizer": gather_optimizer_state(self.optimizer), "scaler": scaler and scaler.state_dict(),
        }  # fmt: skip
        if self.main:
            self.checkpoints.save(self.step, self.settings, **state)
        if together:
            self.accelerator.wait_for_everyone()

    def averaged(self):
        """A context in which the networks have their averaged weights, if the recipe keeps an average."""
        return self.average.in_place_of(self.parameters) if self.average else nullcontext()

    # One step

    def learning_rate(self) -> float:
        """Rise over the warm-up, hold, and fall to zero over the last ``decay`` steps."""
        optimizer, run = self.recipe.optimizer, self.recipe.run
        rising = min(1.0, (self.step + 1) / max(1, optimizer.warmup))
        falling = min(1.0, (run.steps - self.step) / max(1, run.decay))
        return optimizer.lr * min(rising, falling)

    def train_step(self, share: Share, batch: Batch | None = None) -> dict[str, float]:
        """Learn from one global batch, of which this process has ``share``; returns what is to be recorded.

        ``batch``: what was made of the share, if that was done ahead.

        Raises:
            FloatingPointError: the loss or the gradient is not finite; the state before this step is saved.
        """
        recipe, begun = self.recipe, time.perf_counter()
        objective, batch = recipe.objective, batch or self.inputs.batch(share)
        weights = snr_weights(batch.timesteps, self.plain.alphas, self.prediction, objective.snr_gamma)
        image_weight = objective.image_weight if recipe.data.video else 1.0
        losses = add_gradients(
            self.trainee, batch, weights, image_weight, recipe.run.accumulate, self.accelerator, self._synchronise
        )
        table = self.accelerator.gather(losses).double().cpu()  # (rows of the global batch, 3)
        norm = self.accelerator.clip_grad_norm_(list(self.parameters.values()), recipe.optimizer.clip)
        norm = gather_whole({"norm": norm})["norm"].item()
        scaled = self.accelerator.scaler is not None  # fp16: the scaler skips what overflows
        if not table.isfinite().all() or not (scaled or math.isfinite(norm)):
            self._stop(share, batch.timesteps, table[:, 2], norm)
        learned, self.is_whole = time.perf_counter(), False
        rate = self.learning_rate()
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], torch.Tensor):  # of torchao's 8-bit optimiser
                group["lr"].fill_(rate * group["share"])
            else:
                group["lr"] = rate * group["share"]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average:
            self.average.update(self.parameters, self.step)
        self.step, self.is_whole = self.step + 1, True
        video, images, total = table.mean(0).tolist()
        return {
            "step": self.step, "loss": total, "video": video, "images": images, "lr": rate, "grad_norm": norm,
            "network_seconds": learned - begun, "optimiser_seconds": time.perf_counter() - learned,
        }  # fmt: skip

    def _synchronise(self, last: bool):
        """A context for one part of a batch: processes exchange gradients in the last one only."""
        if self.sharded:
            self.trainee.set_requires_gradient_sync(last)
        return nullcontext() if last or self.sharded else self.accelerator.no_sync(self.trainee)

    def _stop(self, share: Share, timesteps: torch.Tensor, losses: torch.Tensor, norm: float) -> None:
        """Save the state, which is the one before this step, and raise with the names of what was in the batch."""
        per_row = 1 + share.num_images
        keys = [draw.item.key for draw in share.draws]
        rows = [
            f"t = {t}: {', '.join(keys[i * per_row : (i + 1) * per_row])}" for i, t in enumerate(timesteps.tolist())
        ]
        rows = gather_object(rows)
        bad = [f"row {i} ({loss:g}) {rows[i]}" for i, loss in enumerate(losses.tolist()) if not math.isfinite(loss)]
        finite = all(value.isfinite().all() for value in gather_whole(self.parameters).values())
        if finite:
            self.save()
        kept = f"the state of step {self.step} is saved" if finite else "the last checkpoint is intact"
        what = "; ".join(bad) if bad else f"the gradient's norm is {norm}, of these rows: {'; '.join(rows)}"
        raise FloatingPointError(f"training stopped at step {self.step}: the loss is not finite: {what}. {kept}")

    # The run

    def run(self) -> None:
        """Train until ``run.steps``, or until the process is asked to end; the state is saved before any stop."""
        run, folder = self.recipe.run, Path(self.recipe.run.out)
        if self.main:
            folder.mkdir(parents=True, exist_ok=True)
            save_recipe(self.recipe, folder)
            save_data_record(folder, self.catalogue)
            if self.note:
                note(folder, self.step, self.note, self.settings["data"])
        metrics = Metrics(folder, self.step, run.steps, run.wandb) if self.main else None
        bad = BadSamples(self.recipe.data.max_bad)
        batches = self.inputs.batches(self.data, range(self.step, run.steps), self.rank, self.world, self.local)
        try:
            with closing(batches), asked_to_end() as asked:
                while self.step < run.steps and not any(self._sum(asked())):
                    self._advance(batches, bad, metrics)
        except BaseException as error:
            self._save_at_last(error)
            raise
        finally:
            if metrics:
                metrics.close()
        if self.step < run.steps:
            self._save_at_last(None)
            raise KeyboardInterrupt

    def _advance(self, batches: Iterator[Prepared], bad: BadSamples, metrics: Metrics | None) -> None:
        """One step and what is due after it."""
        run, begun, used = self.recipe.run, time.perf_counter(), time.process_time()
        prepared = next(batches)
        waited = time.perf_counter() - begun
        share = prepared.share
        bad.name(self.step, share.bad)
        missed, drawn = self._sum(len(share.bad), len(share.draws))
        row = self.train_step(share, prepared.batch) | {"bad": int(missed)}
        seconds = time.perf_counter() - begun
        row |= {
            "seconds": seconds, "waiting_seconds": waited, "reading_seconds": share.seconds,
            "encoding_seconds": prepared.seconds, "cpu_seconds": time.process_time() - used,
        }  # fmt: skip
        if metrics:
            metrics.add(row, len(prepared.batch.timesteps) * self.world, run.log_every)
        done = self.step == run.steps
        if done or self.step % run.save_every == 0:
            self.save()
        self.watch(metrics, done)
        bad.check(missed, drawn)

    def _sum(self, *numbers: float) -> list[float]:
        """Sums over all processes: what they decide by these, they decide alike."""
        if self.world == 1:
            return list(numbers)
        sums = torch.tensor([float(number) for number in numbers], device=self.accelerator.device)
        return self.accelerator.reduce(sums, "sum").tolist()

    def _save_at_last(self, error: BaseException | None) -> None:
        """Save the state of the last whole step, unless that has been done or cannot be.

        Where a process fails, others may wait for it in vain: then only a state that one process has whole is saved.
        """
        alone = self.world == 1 or (self.main and not self.sharded)
        tried = isinstance(error, (FloatingPointError, CheckpointWriteError))
        saved = self.step in (0, self.checkpoints.newest())
        if tried or saved or (error is not None and not alone) or not self.is_whole:
            return
        self.save(together=error is None)
        if self.main:
            log.info("the state of step %d is saved; the same command goes on from there", self.step)


def make_accelerator(recipe: Recipe) -> Accelerator:
    """For the processes that `accelerate launch` or torchrun started, or for this one alone."""
    ddp = DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)
    cpu = not torch.accelerator.is_available()  # said aloud: accelerate joins CPU processes only then
    return Accelerator(mixed_precision=recipe.run.precision, kwargs_handlers=[ddp], cpu=cpu)


