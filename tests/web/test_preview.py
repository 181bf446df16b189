"""Moving previews, the server's side: what is sent, to whom, in true colours, and what it costs.

Contract: the real nano model under ComfyUI's own sampler nodes and, for messages, the real server with a websocket.
"""

from __future__ import annotations

import base64
import io
import json
import time
from pathlib import Path

import comfy.model_patcher
import comfy.patcher_extension
import comfy.sample
import numpy as np
import pytest
import torch
from comfyui_lavie.lavie_models.checkpoint import load_checkpoint
from comfyui_lavie.lavie_models.comfyui import preview, preview_server
from comfyui_lavie.lavie_models.comfyui.model import load_model
from comfyui_lavie.lavie_models.metadata import LATENT_COLORS
from comfyui_lavie.nano.__main__ import main
from comfyui_lavie.nano.shapes import render, sample_scene
from comfyui_lavie.training.pack_encoders import load_vae
from PIL import Image
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parents[2]
BASE = ROOT / "weights" / "diffusion_models" / "lavie_nano_base.safetensors"
VAE = ROOT / "weights" / "vae" / "lavie_nano_vae.safetensors"
NANO = "lavie_nano_text_to_video.json"


@pytest.fixture(scope="module")
def patcher():
    return load_model(str(BASE), "base")


def pictures(message: dict) -> np.ndarray:
    """The frames of a message: uint8 (F, h, w, 3)."""
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(message["image"]))))
    columns, count = message["columns"], message["frames"]
    rows = -(-count // columns)
    height, width = sheet.shape[0] // rows, sheet.shape[1] // columns
    cells = sheet.reshape(rows, height, columns, width, 3).swapaxes(1, 2)
    return cells.reshape(-1, height, width, 3)[:count]


# --- pictures ---------------------------------------------------------------------------------------------------------


def test_colors_of_nano_latents_are_true(patcher):
    """Clips of the nano world, through its VAE: the preview's mean colour of a latent pixel is near the frame's."""
    frames = np.concatenate([render(sample_scene(1000 + i, "heldout"), 4) for i in range(16)])
    latents = load_vae(VAE).encode(frames)
    shown = preview.frame_colors(latents, patcher.model.latent_format, 64).numpy()
    true = frames.reshape(-1, 8, 8, 8, 8, 3).mean((2, 4))
    nano = np.abs(shown - true).mean()
    stable_diffusion = preview.frame_colors(latents, type(patcher.model.latent_format)(), 64).numpy()
    assert nano < 20 < np.abs(stable_diffusion - true).mean()


def test_colors_are_written_beside_the_weights(tmp_path):
    """The command gives a file the colours that the shipped one has, and leaves the weights alone."""
    bare = tmp_path / "bare.safetensors"
    weights, metadata = load_checkpoint(BASE)
    stated = json.loads(metadata.pop(LATENT_COLORS))
    save_file(weights, bare, metadata)
    assert main(["colors", str(VAE), str(bare)]) == 0
    written, about = load_checkpoint(bare)
    assert all(torch.equal(written[key], weights[key]) for key in weights)
    fitted = json.loads(about.pop(LATENT_COLORS))
    assert about == metadata
    for key in ("factors", "bias"):
        torch.testing.assert_close(torch.tensor(fitted[key]), torch.tensor(stated[key]), atol=2e-3, rtol=0)


@pytest.mark.parametrize(
    ("latent", "size", "cell"),
    [((40, 64), 256, (40, 64)), ((8, 8), 256, (8, 8)), ((320, 512), 256, (160, 256)), ((9, 6), 64, (8, 8))],
)
def test_size_of_pictures(patcher, latent, size, cell):
    shown = preview.frame_colors(torch.randn(3, 4, *latent), patcher.model.latent_format, size)
    assert shown.shape == (3, *cell, 3) and shown.dtype == torch.uint8


def test_sheet_keeps_frames_apart():
    """Seven plain frames of different colours come back as they were, none bleeding into its neighbours."""
    colors = [[250, 5, 5], [5, 250, 5], [5, 5, 250], [250, 250, 5], [5, 5, 5], [250, 250, 250], [9, 99, 199]]
    frames = torch.tensor(colors).to(torch.uint8)[:, None, None].expand(7, 16, 24, 3)
    sheet, columns = preview.contact_sheet(frames)
    message = {"image": base64.b64encode(sheet).decode(), "columns": columns, "frames": 7}
    assert np.abs(pictures(message).astype(int) - frames.numpy()).max() <= 6


# --- cost -------------------------------------------------------------------------------------------------------------


def assert_share_kept(previews, sent: list, elapsed: float) -> None:
    """Their share of the time, and the one preview that used it up."""
    assert sent, "the first is always shown"
    assert previews.spent <= preview.SHARE * elapsed + 2 * previews.spent / len(sent)


def test_previews_keep_to_their_share(patcher):
    """Steps of 40 ms with a clip whose previews cost far more than 2 % of that: only so many are made."""
    sent = []
    previews = preview.Previews(patcher.model.latent_format, 1024, sent.append)
    latents = torch.randn(61, 4, 160, 256)
    began = time.perf_counter()
    for _ in range(25):
        time.sleep(0.04)
        previews.offer(latents)
    previews.close()
    assert_share_kept(previews, sent, time.perf_counter() - began)
    assert len(sent) < 3


def test_cost_while_the_nano_model_samples(patcher):
    """The fastest steps there are: 16 frames of 64 x 64 by the nano network."""
    sent = []
    width = patcher.model.model_config.unet_config["context_dim"]
    text = [[torch.randn(1, 8, width, generator=torch.Generator().manual_seed(0)), {}]]
    noise = torch.randn(16, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    previews = preview.Previews(patcher.model.latent_format, 256, sent.append)
    began = time.perf_counter()
    comfy.sample.sample(
        patcher, noise, 20, 4.0, "euler", "normal", text, text, torch.zeros_like(noise), disable_pbar=True,
        callback=lambda step, x0, x, total: previews.offer(x0),
    )  # fmt: skip
    previews.close()
    assert_share_kept(previews, sent, time.perf_counter() - began)


def test_cost_of_a_preview_at_published_size(patcher):
    """16 frames of 512 x 320: under 2 % of a step of two seconds, which is fast for the published network."""
    sent = []
    for _ in range(3):
        previews = preview.Previews(patcher.model.latent_format, 256, sent.append)
        previews.offer(torch.randn(16, 4, 40, 64))
        previews.close()
    assert len(sent) == 3 and previews.spent < preview.SHARE * 2.0


def test_at_most_so_many_frames_are_sent(patcher):
    sent = []
    previews = preview.Previews(patcher.model.latent_format, 64, sent.append)
    previews.offer(torch.randn(300, 4, 8, 8))
    previews.close()
    (message,) = sent
    assert (message["frames"], message["stride"]) == (100, 3) and pictures(message).shape == (100, 8, 8, 3)


# --- who gets them ----------------------------------------------------------------------------------------------------


def test_other_models_carry_no_previews(patcher):
    """A LaVie model and its clones do; a model that ComfyUI loads beside it does not."""
    kind = comfy.patcher_extension.WrappersMP.OUTER_SAMPLE
    other = comfy.model_patcher.ModelPatcher(torch.nn.Linear(1, 1), torch.device("cpu"), torch.device("cpu"))
    for model in (patcher, patcher.clone()):
        assert model.get_wrappers(kind, preview_server.EVENT) == [preview_server.while_sampling]
    assert other.get_all_wrappers(kind) == []
