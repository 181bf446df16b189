"""Train the base UNet: `python -m comfyui_lavie.training.unet {images,joint,refine,export}`.

Contract: the steps of the paper on one small model. `images` trains the spatial layers on captioned images; `joint`
starts from that result (temporal output projections still zero, so it begins as the image model) and trains everything
on rows of one clip and M images, which share all spatial layers and bypass temporal attention; `refine` goes on with
more images and less noise, for the shapes of things; `export` writes what the loader nodes read. Batches, timesteps
and noise are pure functions of (seed, step) and the state is written atomically: a run stopped at any moment goes on
when its command is repeated. --steps may be changed between runs; the learning rate is constant after the warm-up and
falls linearly to zero over the last --decay steps.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from ..lavie_models import LaVieUNet, UNetConfig
from ..lavie_models.schedule import alphas_cumprod
from .latents import FRAMES, LatentSet
from .measure_shapes import measure_clip
from .objective import TimestepFocus, diffusion_loss, draw_batch, probe_losses
from .sample import sample
from .shapes import DIRECTIONS, HEADED, caption, render, sample_scene
from .state import load_state, save_state
from .text_encoder import encode, load_text_encoder
from .vae import load_vae

NANO = UNetConfig.base(
    block_channels=(64, 96, 128), layers_per_block=1, num_heads=2, context_dim=64, attention_levels=(True, True, False)
)
FILE_NAME = "lavie_nano_base.safetensors"
OPPOSITE = {"left": "right", "right": "left", "up": "down", "down": "up"}
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """What decides the result of a run besides its length."""

    rows: int
    images: int
    lr: float
    video: bool
    seed: int = 0
    warmup: int = 100
    drop: float = 0.1
    focus: TimestepFocus = TimestepFocus(0.35, 400, 800)  # where layout and motion are decided
    ema: float = 0.998
    clip: float = 1.0
    prediction: str = "v"


RECIPES = {
    "images": Recipe(rows=64, images=0, lr=1.2e-3, video=False),
    "joint": Recipe(rows=8, images=4, lr=8e-4, video=True),
    "refine": Recipe(rows=5, images=16, lr=8e-4, video=True, focus=TimestepFocus(0.35, 150, 550)),
}


def eager_attention(q, k, v, heads: int, mask=None, transformer_options=None):
    """Plain matrix products: on sequences as short as the nano model's about 1.3 times as fast as the fused kernel."""
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    weights = (scores if mask is None else scores + mask).softmax(-1)
    return (weights.to(v.dtype) @ v).transpose(1, 2).flatten(2)


def is_temporal(name: str) -> bool:
    """Whether a parameter of the base UNet belongs to its temporal layers."""
    return "attn_temp." in name or "norm_temp." in name


class Texts:
    """Frozen text encoder; remembers what it has encoded."""

    def __init__(self, path: str, device):
        self._encoder = load_text_encoder(path)
        self._device = device
        self._known: dict[str, torch.Tensor] = {}

    def __call__(self, captions) -> torch.Tensor:
        """(N, tokens, width) on the device."""
        missing = sorted({c for c in captions if c not in self._known})
        for start in range(0, len(missing), 64):
            part = missing[start : start + 64]
            self._known.update(zip(part, encode(*self._encoder, part).to(self._device), strict=True))
        return torch.stack([self._known[c] for c in captions])


class Run:
    """One training run: model, average, optimiser, data, and the step they have reached."""

    def __init__(self, args, recipe: Recipe, config: UNetConfig = NANO):
        self.args, self.recipe, self.config = args, recipe, config
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.manual_seed(recipe.seed)
        attention = {"attention": eager_attention} if self.device.type == "cpu" else {}
        self.unet = LaVieUNet(config, **attention).to(self.device, memory_format=torch.channels_last)
        if args.init:
            self.unet.load_state_dict(torch.load(args.init, weights_only=True)["average"])
        for name, parameter in self.unet.named_parameters():
            parameter.requires_grad_(recipe.video or not is_temporal(name))
        self.average = AveragedModel(self.unet, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema))
        trained = [p for p in self.unet.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=recipe.lr, betas=(0.9, 0.99), weight_decay=0.0)
        self.step = 0
        self.alphas = alphas_cumprod().to(self.device)
        self.state_file = Path(args.out) / "state.pt"
        self.settings = {**asdict(recipe), "config": json.dumps(config.to_dict()), "init": str(args.init)}
        if state := load_state(self.state_file, self.settings):
            self.unet.load_state_dict(state["model"])
            self.average.module.load_state_dict(state["average"])
            self.average.n_averaged.fill_(state["step"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step = state["step"]
            log.info("resumed at step %d", self.step)

    def autocast(self):
        return torch.autocast(self.device.type, torch.bfloat16) if self.args.bf16 else nullcontext()

    def save(self):
        save_state(
            self.state_file, self.settings, model=self.unet.state_dict(), average=self.average.module.state_dict(),
            optimizer=self.optimizer.state_dict(), step=self.step,
        )  # fmt: skip

    def learning_rate(self) -> float:
        """Warm up, hold, and fall to zero over the last --decay steps."""
        rising = min(1.0, (self.step + 1) / self.recipe.warmup)
        falling = min(1.0, (self.args.steps - self.step) / max(1, self.args.decay))
        return self.recipe.lr * min(rising, falling)

    def train_step(self, data: LatentSet, text: torch.Tensor) -> float:
        recipe = self.recipe
        batch = draw_batch(
            data, text, recipe.seed, self.step, recipe.rows, recipe.images, recipe.video, recipe.drop, recipe.focus
        )
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        with self.autocast():
            loss = diffusion_loss(self.unet, batch.to(self.device), self.alphas, recipe.prediction).mean()
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss.item()} at step {self.step}; the last saved state is intact")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.unet.parameters(), recipe.clip)
        self.optimizer.step()
        self.average.update_parameters(self.unet)
        self.step += 1
        return loss.item()


class Watch:
    """What is reported on held-out scenes while a video model trains: probe losses, and measured samples."""

    def __init__(self, run: Run, vae_file: str, texts: Texts, clips: int = 32):
        self.run, self.texts, self.vae = run, texts, load_vae(vae_file)
        self.scenes = [sample_scene(i, "heldout") for i in range(clips)]
        frames = torch.from_numpy(np.stack([render(scene, FRAMES) for scene in self.scenes]))
        latents = torch.cat([self.vae.encode(part) for part in frames])
        self.clips = latents.view(clips, FRAMES, *latents.shape[1:]).to(run.device)

    def probe(self) -> str:
        headed = torch.tensor([scene.thing in HEADED for scene in self.scenes])
        lines = []
        for name, chosen in (("headed", headed), ("symmetric", ~headed)):
            right = [caption(scene) for scene, use in zip(self.scenes, chosen, strict=True) if use]
            wrong = [text.replace(d, OPPOSITE[d], 1) for text in right for d in DIRECTIONS if f"moving {d}" in text]
            with self.run.autocast():
                losses = probe_losses(
                    self.run.average.module, self.clips[chosen.to(self.run.device)],
                    (self.texts(right), self.texts(wrong)), self.run.alphas, self.run.recipe.prediction,
                )  # fmt: skip
            lines.append(f"{name}: loss {losses[0]:.4f}, opposite caption {losses[1] - losses[0]:+.4f}")
        return "; ".join(lines)

    def samples(self, count: int) -> str:
        """Colour, thing and direction as measured on ``count`` samples of held-out captions."""
        hits = {"colour": [], "thing": [], "axis": [], "headed direction": [], "symmetric direction": []}
        empty = self.texts([""])[0]
        for i, scene in enumerate(self.scenes[:count]):
            with self.run.autocast():
                latents = sample(
                    self.run.average.module, self.texts([caption(scene)])[0], empty, tuple(self.clips.shape[1:]),
                    self.run.alphas, self.run.recipe.prediction, seed=i,
                )  # fmt: skip
            seen = measure_clip(self.vae.decode(latents.cpu()).numpy())
            hits["colour"].append(seen.color == scene.color)
            hits["thing"].append(seen.thing == scene.thing)
            hits["axis"].append(seen.axis == ("horizontal" if DIRECTIONS[scene.direction][0] else "vertical"))
            kind = "headed direction" if scene.thing in HEADED else "symmetric direction"
            hits[kind].append(seen.direction == scene.direction)
        return ", ".join(f"{name} {sum(h)}/{len(h)}" for name, h in hits.items() if h)


def train(args, recipe: Recipe) -> None:
    """Train or resume until ``args.steps``; leaves ``state.pt`` and ``log.txt`` in ``args.out``."""
    run = Run(args, recipe)
    data, texts = LatentSet.load(args.latents), Texts(args.text_encoder, run.device)
    text = texts((*data.captions, "")).cpu()
    watch = Watch(run, args.vae, texts) if recipe.video else None
    run.state_file.parent.mkdir(parents=True, exist_ok=True)
    logging.getLogger().addHandler(logging.FileHandler(run.state_file.with_name("log.txt")))
    began, first, losses = time.monotonic(), run.step, []
    with tqdm(total=args.steps, initial=run.step, unit="step", mininterval=5) as progress:
        while run.step < args.steps:
            losses.append(run.train_step(data, text))
            progress.update()
            if run.step % 50 == 0 or run.step == args.steps:
                seconds = (time.monotonic() - began) / (run.step - first)
                log.info("step %d loss %.4f, %.3f s/step", run.step, sum(losses) / len(losses), seconds)
                losses.clear()
            if run.step % args.save_every == 0 or run.step == args.steps:
                run.save()
                if watch:
                    log.info("step %d %s", run.step, watch.probe())
            if watch and args.sample_every and run.step % args.sample_every == 0:
                log.info("step %d samples: %s", run.step, watch.samples(args.samples))


def export(state_file: str, path: str) -> None:
    """Write the averaged weights as fp16 safetensors with ComfyUI's names and the metadata that loaders read."""
    state = torch.load(state_file, weights_only=True)
    weights = {key: value.half().contiguous() for key, value in state["average"].items()}
    settings = state["settings"]
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, path, {
        "lavie.stage": "base", "lavie.config": settings["config"], "lavie.prediction": settings["prediction"],
        "lavie.step": str(state["step"]), "lavie.seed": str(settings["seed"]),
    })  # fmt: skip
    log.info("%s: %.1f MB, step %d", path, Path(path).stat().st_size / 1e6, state["step"])


def main(argv: list[str] | None = None) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    stages = {"images": (700, 200, None), "joint": (2800, 0, "images"), "refine": (3200, 2400, "joint")}
    for name, (steps, decay, before) in stages.items():
        command = commands.add_parser(name, help=f"train; defaults: {RECIPES[name]}")
        command.add_argument("--out", default=f"runs/nano_{name}")
        command.add_argument("--init", default=before and f"runs/nano_{before}/state.pt", help="state to start from")
        command.add_argument("--latents", default="runs/nano_latents")
        command.add_argument("--vae", default="weights/vae/lavie_nano_vae.safetensors")
        command.add_argument("--text-encoder", default="weights/text_encoders/lavie_nano_text_encoder.safetensors")
        command.add_argument("--steps", type=int, default=steps)
        command.add_argument("--decay", type=int, default=decay)
        command.add_argument("--save-every", type=int, default=200)
        command.add_argument("--sample-every", type=int, default=1000, help="0: never")
        command.add_argument("--samples", type=int, default=24)
        command.add_argument("--threads", type=int, default=2)
        command.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=True)
    command = commands.add_parser("export", help="write the averaged weights for ComfyUI")
    command.add_argument("--state", default="runs/nano_refine/state.pt")
    command.add_argument("--out", default=f"weights/diffusion_models/{FILE_NAME}")
    args = parser.parse_args(argv)
    if args.command == "export":
        export(args.state, args.out)
    else:
        torch.set_num_threads(args.threads)
        train(args, RECIPES[args.command])


if __name__ == "__main__":
    main()
