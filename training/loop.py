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
from contextlib import nullcontext
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, gather_object
from tqdm import tqdm

from .config import Recipe
from .data import Catalogue, TrainingData, ordered_map
from .data.sources import check_files
from .inputs import Inputs, Share
from .objective import snr_weights, total_loss
from .recipe_file import save_recipe
from .shards import full, full_optimizer_state, load_full, load_full_optimizer_state, shard
from .state import Checkpoints
from .trainee import BLOCKS, Average, Trainee, make_optimizer, trained
from .watch import Watch

log = logging.getLogger(__name__)


class Training:
    """A run in memory: networks, average, optimiser, data, and the number of steps they have made."""

    def __init__(self, recipe: Recipe):
        self.recipe, run = recipe, recipe.run
        if run.threads:
            torch.set_num_threads(run.threads)
        self.accelerator = make_accelerator(recipe)
        self.main = self.accelerator.is_main_process
        if not self.main:
            logging.getLogger().setLevel(logging.WARNING)
        self.rank, self.world = self.accelerator.process_index, self.accelerator.num_processes
        catalogue = Catalogue.load_all(recipe.data.catalogues)
        learn, heldout = catalogue.split(recipe.validation.heldout)
        self.data = TrainingData(recipe.data, learn)
        self.data.check_world(self.world * run.accumulate)
        if self.main:
            check_files(catalogue.items)
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
        groups[0]["params"] = [p for p in trained(trainee).values() if id(p) not in apart]
        self.plain = trainee
        self.trainee = trainee if self.sharded else self.accelerator.prepare(trainee)
        self.optimizer = self.accelerator.prepare(make_optimizer(recipe.optimizer, groups))
        self.parameters = trained(self.plain)
        self.average = Average(self.parameters, recipe.optimizer.ema) if recipe.optimizer.ema else None
        self.step = 0
        self.checkpoints = Checkpoints(run.out, run.keep)
        self._resume()
        self.watch = Watch(self, TrainingData(recipe.data, heldout) if recipe.validation.heldout else None)

    # Checkpoints

    def _resume(self) -> None:
        state = self.checkpoints.load(self.settings)
        if state is None:
            return
        load_full(state["model"], self.parameters)
        if self.average:
            load_full(state["average"], self.average.values)
        load_full_optimizer_state(self.optimizer, state["optimizer"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.step = state["step"]
        log.info("going on from step %d of %s", self.step, self.checkpoints.folder)

    def save(self) -> None:
        """Write a checkpoint; all processes call this, the main one writes."""
        scaler = self.accelerator.scaler
        state = {
            "model": full(self.parameters), "average": full(self.average.values) if self.average else None,
            "optimizer": full_optimizer_state(self.optimizer), "scaler": scaler and scaler.state_dict(),
        }  # fmt: skip
        if self.main:
            self.checkpoints.save(self.step, self.settings, **state)
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

    def train_step(self, share: Share) -> dict[str, float]:
        """Learn from one global batch, of which this process has ``share``; returns what is to be recorded.

        Raises:
            FloatingPointError: the loss or the gradient is not finite; the state before this step is saved.
        """
        recipe, parts = self.recipe, self.recipe.run.accumulate
        batch = self.inputs.batch(share)
        weights = snr_weights(batch.timesteps, self.plain.alphas, self.prediction, recipe.objective.snr_gamma)
        size = len(weights) // parts
        seen = []
        for part in range(parts):
            rows = slice(part * size, (part + 1) * size)
            with self._synchronised(part == parts - 1), self.accelerator.autocast():
                losses = self.trainee(batch.rows(rows.start, rows.stop))
                loss = total_loss(losses, weights[rows], recipe.objective.image_weight if recipe.data.video else 1.0)
            with self._synchronised(part == parts - 1):
                self.accelerator.backward(loss.mean() / parts)
            seen.append(torch.cat((losses.detach(), loss.detach()[:, None]), dim=1))
        table = self.accelerator.gather(torch.cat(seen)).double().cpu()  # (rows of the global batch, 3)
        norm = self.accelerator.clip_grad_norm_(list(self.parameters.values()), recipe.optimizer.clip)
        norm = full({"norm": norm})["norm"].item()
        scaled = self.accelerator.scaler is not None  # fp16: the scaler skips what overflows
        if not table.isfinite().all() or not (scaled or math.isfinite(norm)):
            self._stop(share, batch.timesteps, table[:, 2], norm)
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
        self.step += 1
        video, images, total = table.mean(0).tolist()
        return {"step": self.step, "loss": total, "video": video, "images": images, "lr": rate, "grad_norm": norm}

    def _synchronised(self, last: bool):
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
        finite = all(full_value.isfinite().all() for full_value in full(self.parameters).values())
        if finite:
            self.save()
        kept = f"the state of step {self.step} is saved" if finite else "the last checkpoint is intact"
        what = "; ".join(bad) if bad else f"the gradient's norm is {norm}, of these rows: {'; '.join(rows)}"
        raise FloatingPointError(f"training stopped at step {self.step}: the loss is not finite: {what}. {kept}")

    # The run

    def run(self) -> None:
        """Train until ``run.steps``."""
        run = self.recipe.run
        folder = Path(run.out)
        if self.main:
            folder.mkdir(parents=True, exist_ok=True)
            save_recipe(self.recipe, folder)
        metrics = Metrics(folder, self.step) if self.main else None
        steps = range(self.step, run.steps)
        shares = ordered_map(
            lambda step: self.inputs.read(self.data, run.seed, step, self.rank, self.world),
            steps, run.workers, 2 * run.workers,
        )  # fmt: skip
        progress = tqdm(steps, initial=self.step, total=run.steps, unit="step", mininterval=2, disable=not self.main)
        used = time.process_time()
        with progress:
            for share in shares:
                begun = time.perf_counter()
                row = self.train_step(share)
                used, before = time.process_time(), used
                row |= {"seconds": round(time.perf_counter() - begun, 4), "cpu_seconds": round(used - before, 4)}
                if metrics:
                    metrics.add(row, run.log_every)
                progress.set_postfix(loss=f"{row['loss']:.4f}", refresh=False)
                progress.update()
                done = self.step == run.steps
                if done or self.step % run.save_every == 0:
                    self.save()
                self.watch(metrics, done)
        if metrics:
            metrics.close()


class Metrics:
    """`metrics.jsonl` and TensorBoard's events of a run's folder, without what lies after the step it resumes from."""

    def __init__(self, folder: Path, step: int):
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        path = folder / "metrics.jsonl"
        kept = []
        if path.exists():
            for line in path.read_text().splitlines():
                try:
                    row = json.loads(line)
                except ValueError:  # half a line of a run that was killed
                    continue
                if row["step"] <= step:
                    kept.append(line)
        partial = path.with_suffix(".partial")
        partial.write_text("".join(f"{line}\n" for line in kept))
        os.replace(partial, path)
        self._file = path.open("a", buffering=1)
        self.board = SummaryWriter(str(folder), purge_step=step + 1)
        self._since: list[dict] = []

    def add(self, row: dict, every: int) -> None:
        """Record one step; TensorBoard gets means over ``every`` steps."""
        self._file.write(json.dumps(row) + "\n")
        self._since.append(row)
        if row["step"] % every == 0:
            for name in row.keys() - {"step"}:
                mean = sum(one[name] for one in self._since) / len(self._since)
                self.board.add_scalar(f"train/{name}", mean, row["step"])
            self._since.clear()

    def record(self, name: str, values: dict[str, float], step: int) -> None:
        """Record a measurement that is not made at every step."""
        self._file.write(json.dumps({"step": step, name: values}) + "\n")
        for key, value in values.items():
            self.board.add_scalar(f"{name}/{key}", value, step)

    def close(self) -> None:
        self._file.close()
        self.board.close()


def make_accelerator(recipe: Recipe) -> Accelerator:
    """For the processes that `accelerate launch` or torchrun started, or for this one alone."""
    ddp = DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)
    cpu = not torch.accelerator.is_available()  # said aloud: accelerate joins CPU processes only then
    return Accelerator(mixed_precision=recipe.run.precision, kwargs_handlers=[ddp], cpu=cpu)


