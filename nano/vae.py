"""Train the nano VAE: `python -P -m comfyui_lavie.nano vae`.

Contract: trains lavie_models.autoencoder.NanoAutoencoder and writes one fp16 safetensors file with its configuration in
the metadata. Every batch and every noise sample is a pure function of (seed, step), and the state is written whole
every --save-every steps, so a stopped run goes on bit for bit where it was.

A quarter of each batch are dense scenes, the rest real frames: frames alone leave the hues of rare pixels unlearned.
The loss compares luma and chroma with chroma counted twice, for a small thing on a gray background is mostly a matter
of hue. Latents get a little noise before they are decoded, as a sampler leaves some behind. At the end the per-channel
mean and spread of real frames are folded into the convolutions on both sides of the latents: encode(x) * 0.18215 has
mean 0 and standard deviation 1 in every channel.

Measured on the shipped encoder with the decoder that this command gave it (defaults with --threads 1, 13.5 minutes on
one core shared with other work): 29.16 dB on frames of held-out clips, 9.94 dB on their eyes, windows and wheels, 22.71
dB on dense scenes. Hue, silhouette and heading survive (`nano/measure.py` names colour, thing and direction of 72 of 72
held-out clips, also with noise of 0.2 on unit latents); eyes and wheels mostly blur away, for which reason the shipped
file has another decoder, made by the command `decoder`. In trials a peak learning rate of 2e-3 diverged, and networks
of Stable Diffusion's layout, with GroupNorm, learned much less in the same time.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from ..lavie_models.autoencoder import AutoencoderConfig, NanoAutoencoder, ResidualBlock
from ..lavie_models.metadata import CONFIG, SEED, STAGE, STEP
from ..lavie_models.pixels import to_model
from ..lavie_models.weights_file import write_weights
from ..training.checkpoints import Checkpoints
from ..training.pack_encoders import load_vae
from . import shapes

FILE_NAMES = {8: "lavie_nano_vae.safetensors", 4: "lavie_nano_upscaler_vae.safetensors"}
LUMA = (0.299, 0.587, 0.114)
# Arguments that decide what is computed: a run may only be resumed with the same ones.
SETTINGS = {
    "steps", "seed", "size", "batch", "lr", "ema", "latent_weight", "latent_noise", "width", "blocks", "factor",
}  # fmt: skip

log = logging.getLogger(__name__)

# Data: floats in -1 .. 1, (N, 3, H, W)


def frames_batch(seed: int, count: int, size: int, split: str = "train") -> torch.Tensor:
    """Single frames of `count` clips numbered from `seed` on."""
    scenes = (shapes.sample_scene(seed + i, split) for i in range(count))
    return to_model(np.stack([shapes.render_image(scene, size) for scene in scenes]))


def dense_batch(seed: int, count: int, size: int) -> torch.Tensor:
    """Dense scenes numbered from `seed` on."""
    return to_model(np.stack([shapes.render_dense(seed + i, size) for i in range(count)]))


def training_batch(seed: int, step: int, batch: int, size: int) -> torch.Tensor:
    first, dense = seed * 1_000_000_000 + step * batch, (batch + 3) // 4
    return torch.cat([dense_batch(first, dense, size), frames_batch(first, batch - dense, size)])


# Training


def build(config: AutoencoderConfig) -> NanoAutoencoder:
    """Ready to train: residual blocks start as the identity, and so does the scale of the latents."""
    model = NanoAutoencoder(config).to(memory_format=torch.channels_last)
    for block in model.modules():
        if isinstance(block, ResidualBlock):
            nn.init.zeros_(block.conv2.weight)
            nn.init.zeros_(block.conv2.bias)
    nn.init.dirac_(model.from_latent.weight)
    nn.init.zeros_(model.from_latent.bias)
    return model


def color_error(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """(N, 3, H, W): difference of luma and, counted twice, of the two colour differences; (N, 3, H, W) both."""
    red, green, blue = (output - target).unbind(1)
    luma = LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue
    return torch.stack([luma, 1.426 * (red - luma), 1.128 * (blue - luma)], 1)  # twice the usual 0.713 and 0.564


def reconstruction_loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """L1 + L2 of the colour error."""
    error = color_error(output, target)
    return error.abs().mean() + error.square().mean()


def learning_rate(step: int, steps: int, peak: float, warmup: int = 50) -> float:
    return peak * min((step + 1) / warmup, 0.5 * (1 + math.cos(math.pi * step / steps)))


def training_device() -> torch.device:
    """The GPU, where there is one. Batches and noise are drawn on the CPU, so that both learn from the same."""
    return torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")


def training_loss(model, images, args: argparse.Namespace, step: int) -> torch.Tensor:
    """Reconstruction through a noisy latent, and a term that bounds the latents' size."""
    rng = torch.Generator().manual_seed(args.seed * 1_000_003 + step)
    latents = model.encode(images)
    noise = args.latent_noise * latents.detach().std() * torch.randn(latents.shape, generator=rng).to(latents)
    return reconstruction_loss(model.decode(latents + noise), images) + args.latent_weight * latents.square().mean()


def train(args: argparse.Namespace) -> NanoAutoencoder:
    """Run or resume; returns the model with averaged weights, on the CPU."""
    torch.manual_seed(args.seed)
    config = AutoencoderConfig(width=args.width, blocks=args.blocks, factor=args.factor)
    device = training_device()
    model = build(config).to(device)
    average = {k: v.detach().clone() for k, v in model.state_dict().items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, betas=(0.9, 0.99))
    settings = {key: value for key, value in vars(args).items() if key in SETTINGS}
    checkpoints, start = Checkpoints(args.out), 0
    if state := checkpoints.load(settings):
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        average = {key: value.to(device) for key, value in state["average"].items()}
        start = state["step"]
        log.info("resumed at step %d", start)
    stop = args.steps if args.stop_at is None else min(args.stop_at, args.steps)
    progress = tqdm(range(start, stop), initial=start, total=args.steps, unit="step", disable=args.quiet, mininterval=2)
    for step in progress:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, args.steps, args.lr)
        images = training_batch(args.seed, step, args.batch, args.size).to(device)
        loss = training_loss(model, images, args, step)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        decay = min(args.ema, (step + 1) / (step + 10))
        for key, value in model.state_dict().items():
            average[key].lerp_(value, 1 - decay)
        if step % 20 == 0:
            progress.set_postfix(loss=f"{loss.item():.4f}")
        done = step + 1
        if done % args.save_every == 0 or done == stop:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "average": average}
            checkpoints.save(done, settings, **state)
            if not args.quiet:
                tqdm.write(f"step {done}: " + report(with_weights(config, average), args.size))
    return with_weights(config, average)


def with_weights(config: AutoencoderConfig, weights: dict[str, torch.Tensor]) -> NanoAutoencoder:
    model = NanoAutoencoder(config)
    model.load_state_dict(weights)
    return model.eval().requires_grad_(False)


@torch.no_grad()
def psnr(model: NanoAutoencoder, images: torch.Tensor, among: torch.Tensor | None = None) -> float:
    """Decibels over all pixels, or those `among` them, bool (N, H, W); after clamping to the range an image has."""
    error = (model.decode(model.encode(images)).clamp(-1, 1) - images).square().mean(1)
    return (10 * torch.log10(4 / (error if among is None else error[among]).mean())).item()


def quality(model: NanoAutoencoder, size: int, count: int = 64) -> dict[str, float]:
    """Decibels on `count` frames of held-out clips, on their eyes, windows and wheels, on as many dense scenes."""
    frames, dense = frames_batch(0, count, size, "heldout"), dense_batch(10**17, count, size)
    scenes = (shapes.sample_scene(i, "heldout") for i in range(count))
    details = torch.from_numpy(np.stack([shapes.details(scene, size) for scene in scenes]))
    return {
        "held-out clips' frames": psnr(model, frames),
        "their eyes, windows and wheels": psnr(model, frames, details),
        "dense scenes": psnr(model, dense),
    }


def report(model: NanoAutoencoder, size: int) -> str:
    return "PSNR " + ", ".join(f"{value:.2f} dB on {name}" for name, value in quality(model, size).items())


# The file


@torch.no_grad()
def fold_latent_scale(model: NanoAutoencoder, images: torch.Tensor) -> None:
    """Make encode * scale of these images zero-mean, unit-variance per channel; what is decoded stays the same."""
    latents = torch.cat([model.encode(part) for part in images.split(64)])
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    gain = 1 / (std * model.config.scale)
    last, first = model.encoder[-1], model.from_latent
    last.weight *= gain[:, None, None, None]
    last.bias.copy_((last.bias - mean) * gain)
    first.bias += first.weight[:, :, 0, 0] @ mean
    first.weight /= gain[None, :, None, None]


def export(model: NanoAutoencoder, path: Path, **metadata: str) -> None:
    """Write fp16 weights; `metadata` are free extra fields."""
    weights = {key: value.half() for key, value in model.state_dict().items()}
    write_weights(path, weights, {STAGE: "vae", CONFIG: json.dumps(model.config.to_dict()), **metadata})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser the arguments and the help of this command."""
    parser.description = "Train the nano VAE; run again to resume."
    parser.add_argument("--out", default="runs/nano_vae", help="folder of the resumable state and the exported file")
    parser.add_argument("--steps", type=int, default=6000, help="length of the whole cosine schedule")
    parser.add_argument("--stop-at", type=int, help="end this run early, at this step, to be resumed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=64, help="pixels, a multiple of 8")
    parser.add_argument("--batch", type=int, default=12)
    parser.add_argument(
        "--factor", type=int, choices=FILE_NAMES, default=AutoencoderConfig.factor,
        help="pixels to a latent pixel: 8 for base and interpolation, 4 for super-resolution",
    )  # fmt: skip
    parser.add_argument("--width", type=int, default=AutoencoderConfig.width)
    parser.add_argument("--blocks", type=int, default=AutoencoderConfig.blocks)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--ema", type=float, default=0.995)
    parser.add_argument("--latent-weight", type=float, default=1e-5, help="of the latents' mean square, in the loss")
    parser.add_argument("--latent-noise", type=float, default=0.03, help="in units of the latents' spread")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--save-every", type=int, default=500)
    parser.add_argument("--quiet", action="store_true")


def run(args: argparse.Namespace) -> int:
    """Train or go on; write the file. Returns the exit status."""
    torch.set_num_threads(args.threads)
    model = train(args)
    fold_latent_scale(model, frames_batch(0, 512, args.size))
    path = Path(args.out) / FILE_NAMES[args.factor]
    export(model, path, **{SEED: str(args.seed), STEP: str(args.steps)})
    log.info("%s: %s", path, report(load_vae(path).model, args.size))
    return 0
