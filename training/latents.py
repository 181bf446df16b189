"""Encode the synthetic clips and images once: `python -m comfyui_lavie.training.latents`.

Contract: scene number i is `sample_scene(i)`; its latents lie in the i-th row of the cache whatever the batch or
machine. Chunks are written whole and only those that are missing are made, so a stopped run goes on where it was.
The cache carries a fingerprint of the autoencoder and of the chunk size; with another autoencoder it is refused.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from .shapes import caption, render, render_image, sample_scene
from .vae import NanoVAE, load_vae

CHUNK = 256  # scenes per file
FRAMES = 16
IMAGE_SEEDS = 1 << 40  # images are drawn of other scenes than clips


@dataclass(frozen=True)
class LatentSet:
    """Training data in memory: fp16 latents (times the VAE's scale) and their captions.

    Attributes:
        clips: (N, F, 4, h, w). images: (M, 4, h, w).
        captions: the distinct texts. clip_captions (N,) and image_captions (M,): indices into them.
    """

    clips: torch.Tensor
    images: torch.Tensor
    captions: tuple[str, ...]
    clip_captions: torch.Tensor
    image_captions: torch.Tensor

    @classmethod
    def load(cls, folder: str | Path) -> LatentSet:
        """Read a finished cache. Raises FileNotFoundError saying what is missing and what makes it."""
        folder = Path(folder)
        try:
            counts = json.loads((folder / "cache.json").read_text())
            parts = {
                kind: [np.load(_chunk_file(folder, kind, start)) for start in range(0, counts[kind], CHUNK)]
                for kind in ("clips", "images")
            }
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"the latent cache {folder} is not complete ({error.filename} is missing); make it with "
                "python -m comfyui_lavie.training.latents"
            ) from error
        texts = [caption(sample_scene(i), "video") for i in range(counts["clips"])]
        texts += [caption(sample_scene(IMAGE_SEEDS + i), "image") for i in range(counts["images"])]
        distinct = tuple(sorted(set(texts)))
        number = {text: i for i, text in enumerate(distinct)}
        index = torch.tensor([number[text] for text in texts])
        clip_index, image_index = index.split((counts["clips"], counts["images"]))
        clips, images = (torch.from_numpy(np.concatenate(parts[kind])) for kind in ("clips", "images"))
        return cls(clips, images, distinct, clip_index, image_index)


def _chunk_file(folder: Path, kind: str, start: int) -> Path:
    return folder / f"{kind}-{start:07d}.npy"


def _encode_chunk(vae: NanoVAE, kind: str, start: int, size: int) -> np.ndarray:
    if kind == "clips":
        frames = np.stack([render(sample_scene(start + i), FRAMES, size) for i in range(CHUNK)])
    else:
        frames = np.stack([render_image(sample_scene(IMAGE_SEEDS + start + i), size) for i in range(CHUNK)])
    flat = torch.from_numpy(frames).flatten(0, -4)
    with torch.autocast("cpu", torch.bfloat16):  # twice as fast; moves latents by a thousandth of their spread
        latents = torch.cat([vae.encode(part) for part in flat.split(64)]).half()
    return latents.view(*frames.shape[:-3], *latents.shape[1:]).numpy()


def prepare(vae_file, folder: str | Path, clips: int, images: int, size: int, progress: bool = True) -> None:
    """Fill the cache up to whole chunks of the asked counts; raises ValueError where it belongs to another VAE."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"vae": hashlib.sha256(Path(vae_file).read_bytes()).hexdigest(), "chunk": CHUNK, "size": size}
    fingerprint = folder / "fingerprint.json"
    if fingerprint.exists() and json.loads(fingerprint.read_text()) != settings:
        raise ValueError(f"{folder} was made with another autoencoder or size; delete it or choose another --out")
    fingerprint.write_text(json.dumps(settings))
    vae = load_vae(vae_file)
    counts = {kind: -(-count // CHUNK) * CHUNK for kind, count in (("clips", clips), ("images", images))}
    todo = [(k, s) for k, n in counts.items() for s in range(0, n, CHUNK) if not _chunk_file(folder, k, s).exists()]
    for kind, start in tqdm(todo, desc="encode", unit="chunk", disable=not progress):
        path = _chunk_file(folder, kind, start)
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            np.save(file, _encode_chunk(vae, kind, start, size))
        os.replace(partial, path)
    (folder / "cache.json").write_text(json.dumps(counts))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Encode synthetic clips and images into latents; run again to go on.")
    parser.add_argument("--vae", default="weights/vae/lavie_nano_vae.safetensors")
    parser.add_argument("--out", default="runs/nano_latents")
    parser.add_argument("--clips", type=int, default=10240, help=f"rounded up to whole chunks of {CHUNK}")
    parser.add_argument("--images", type=int, default=24576, help=f"rounded up to whole chunks of {CHUNK}")
    parser.add_argument("--size", type=int, default=64, help="pixels")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    prepare(args.vae, args.out, args.clips, args.images, args.size)


if __name__ == "__main__":
    main()
