"""Train the nano VAE: `python -m comfyui_lavie.training.vae`.

Contract: trains lavie_models.autoencoder.NanoAutoencoder and writes one fp16 safetensors file with its configuration in
the metadata. Every batch and every noise sample is a pure function of (seed, step), and the state is written whole
every --save-every steps, so a stopped run goes on bit for bit where it was.

A quarter of each batch are dense scenes, the rest real frames: frames alone leave the hues of rare pixels unlearned.
The loss compares luma and chroma with chroma counted twice, for a small thing on a gray background is mostly a matter
of hue. Latents get a little noise before they are decoded, as a sampler leaves some behind. At the end the per-channel
mean and spread of real frames are folded into the convolutions on both sides of the latents: encode(x) * 0.18215 has
mean 0 and standard deviation 1 in every channel.

Measured on the shipped file (defaults with --threads 1, 13.5 minutes on one core shared with other work): 29.16 dB on
frames of held-out clips, 22.71 dB on dense scenes. Hue, silhouette and heading survive (training.measure_shapes names
colour, thing and direction of 72 of 72 held-out clips, also with noise of 0.2 on unit latents); eyes and wheels mostly
blur away. In trials a peak learning rate of 2e-3 diverged, and networks of Stable Diffusion's layout, with GroupNorm,
learned much less in the same time.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from tqdm import tqdm

from ..lavie_models.autoencoder import AutoencoderConfig, NanoAutoencoder, ResidualBlock
from . import shapes
from .state import Checkpoints

FILE_NAMES = {8: "lavie_nano_vae.safetensors", 4: "lavie_nano_upscaler_vae.safetensors"}
LUMA = (0.299, 0.587, 0.114)
# Arguments that decide what is computed: a run may only be resumed with the same ones.
SETTINGS = {
    "steps", "seed", "size", "batch", "lr", "ema", "latent_weight", "latent_noise", "width", "blocks", "factor", "bf16",
}  # fmt: skip

log = logging.getLogger(__name__)


# Data: floats in -1 .. 1, (N, 3, H, W)


def to_model(frames: np.ndarray | torch.Tensor) -> torch.Tensor:
    """uint8 (N, H, W, 3) -> float (N, 3, H, W) in -1 .. 1, channels last in memory."""
    return torch.as_tensor(frames).permute(0, 3, 1, 2).float() / 127.5 - 1


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


def reconstruction_loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """L1 + L2 of luma and, counted twice, of the two colour differences; (N, 3, H, W) both."""
    red, green, blue = (output.float() - target).unbind(1)
    luma = LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue
    error = torch.stack([luma, 1.426 * (red - luma), 1.128 * (blue - luma)])  # twice the usual 0.713 and 0.564
    return error.abs().mean() + error.square().mean()


def learning_rate(step: int, steps: int, peak: float, warmup: int = 50) -> float:
    return peak * min((step + 1) / warmup, 0.5 * (1 + math.cos(math.pi * step / steps)))


def training_loss(model, images, args: argparse.Namespace, step: int) -> torch.Tensor:
    """Reconstruction through a noisy latent, and a term that bounds the latents' size."""
    rng = torch.Generator().manual_seed(args.seed * 1_000_003 + step)
    latents = model.encode(images).float()
    noise = args.latent_noise * latents.detach().std() * torch.randn(latents.shape, generator=rng)
    return reconstruction_loss(model.decode(latents + noise), images) + args.latent_weight * latents.square().mean()


def train(args: argparse.Namespace) -> NanoAutoencoder:
    """Run or resume; returns the model with averaged weights."""
    torch.manual_seed(args.seed)
    config = AutoencoderConfig(width=args.width, blocks=args.blocks, factor=args.factor)
    model = build(config)
    average = {k: v.detach().clone() for k, v in model.state_dict().items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, betas=(0.9, 0.99))
    settings = {key: value for key, value in vars(args).items() if key in SETTINGS}
    checkpoints, start = Checkpoints(args.out), 0
    if state := checkpoints.load(settings):
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        average, start = state["average"], state["step"]
        log.info("resumed at step %d", start)
    autocast = torch.autocast("cpu", torch.bfloat16) if args.bf16 else nullcontext()
    stop = args.steps if args.stop_at is None else min(args.stop_at, args.steps)
    progress = tqdm(range(start, stop), initial=start, total=args.steps, unit="step", disable=args.quiet, mininterval=2)
    for step in progress:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, args.steps, args.lr)
        images = training_batch(args.seed, step, args.batch, args.size)
        with autocast:
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
def psnr(model: NanoAutoencoder, images: torch.Tensor) -> float:
    """Decibels over all pixels, after clamping to the range an image has."""
    output = model.decode(model.encode(images)).clamp(-1, 1)
    return (10 * torch.log10(4 / (output - images).square().mean())).item()


def report(model: NanoAutoencoder, size: int, count: int = 64) -> str:
    frames, dense = frames_batch(0, count, size, "heldout"), dense_batch(10**17, count, size)
    return f"PSNR {psnr(model, frames):.2f} dB on held-out clips' frames, {psnr(model, dense):.2f} dB on dense scenes"


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
    weights = {key: value.half().contiguous() for key, value in model.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    config = json.dumps(model.config.to_dict())
    save_file(weights, path, {"lavie.stage": "vae", "lavie.config": config, **metadata})


class NanoVAE:
    """Pixels to diffusion's latents and back; ``factor``: pixels per latent along each side."""

    def __init__(self, model: NanoAutoencoder):
        self.model, self.factor = model, model.config.factor

    def to(self, device) -> NanoVAE:
        self.model.to(device)
        return self

    @torch.no_grad()
    def encode(self, frames: np.ndarray | torch.Tensor) -> torch.Tensor:
        """uint8 (N, H, W, 3) -> (N, 4, H/factor, W/factor), already times the scale."""
        return self.model.encode(to_model(frames).to(self.model.from_latent.weight)) * self.model.config.scale

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """(N, 4, h, w) times the scale -> uint8 (N, factor h, factor w, 3) on the CPU."""
        latents = latents.to(self.model.from_latent.weight) / self.model.config.scale
        images = self.model.decode(latents).float().cpu()
        return (images.clamp(-1, 1) * 127.5 + 127.5).round().byte().permute(0, 2, 3, 1)


def load_vae(path: str | Path, dtype: torch.dtype = torch.float32) -> NanoVAE:
    """Read an exported file; raises ValueError for any other."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
    if metadata.get("lavie.stage") != "vae":
        raise ValueError(f"{path} is not a nano VAE (no lavie.stage=vae in its metadata); make one with training.vae")
    config = AutoencoderConfig.from_dict(json.loads(metadata["lavie.config"]))
    model = with_weights(config, {key: value.float() for key, value in load_file(path).items()})
    return NanoVAE(model.to(dtype=dtype, memory_format=torch.channels_last))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Train the nano VAE; run again to resume.")
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
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=True, help="bf16 autocast")
    parser.add_argument("--quiet", action="store_true")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(args.threads)
    model = train(args)
    fold_latent_scale(model, frames_batch(0, 512, args.size))
    path = Path(args.out) / FILE_NAMES[args.factor]
    export(model, path, **{"lavie.seed": str(args.seed), "lavie.step": str(args.steps)})
    log.info("%s: %s", path, report(load_vae(path).model, args.size))


if __name__ == "__main__":
    main()
