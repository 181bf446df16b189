"""Moving previews, the server's side: what is sent, to whom, in true colours, and what it costs.

Contract: the real nano model under ComfyUI's own sampler nodes and, for messages, the real server with a websocket.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import time
import uuid
from pathlib import Path

import aiohttp
import comfy.model_patcher
import comfy.patcher_extension
import comfy.sample
import numpy as np
import pytest
import torch
from comfyui_lavie.dev import find_comfyui
from comfyui_lavie.lavie_models.checkpoint import load_checkpoint
from comfyui_lavie.lavie_models.comfyui import preview
from comfyui_lavie.lavie_models.comfyui.model import load_model
from comfyui_lavie.lavie_models.identify import LATENT_COLORS
from comfyui_lavie.tools.comfyui_server import ComfyUIServer, load_workflow, set_inputs
from comfyui_lavie.training import latent_colors
from comfyui_lavie.training.shapes import render, sample_scene
from comfyui_lavie.training.vae import load_vae
from PIL import Image
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parents[1]
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
    latent_colors.main([str(VAE), str(bare)])
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
        assert model.get_wrappers(kind, preview.EVENT) == [preview.while_sampling]
    assert other.get_all_wrappers(kind) == []


def test_viewers():
    viewers = preview.Viewers()
    viewers.register("a", 256, {"a"})
    viewers.register("b", 64, {"a", "b"})
    assert (viewers.size("a"), viewers.size("b"), viewers.size("c"), viewers.size(None)) == (256, 64, 0, 0)
    viewers.register("b", 0, {"b"})
    assert (viewers.size("a"), viewers.size("b")) == (0, 0), "b asked for none, a has gone"
    with pytest.raises(ValueError, match="32 .. 1024"):
        viewers.register("a", 5000, {"a"})


async def messages_of(server, api: dict, size: int | None, kind: str = preview.EVENT) -> list[dict]:
    """Messages of a kind, our previews, while ``api`` runs for a client that asked for ``size``."""
    client, found = uuid.uuid4().hex, []
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{server.url}/ws?clientId={client}", max_msg_size=0) as socket,
    ):
        if size is not None:
            wish = {"client_id": client, "size": size}
            async with session.post(f"{server.url}/lavie/preview", json=wish) as answer:
                assert answer.status == 200
        async with session.post(f"{server.url}/prompt", json={"prompt": api, "client_id": client}) as answer:
            prompt = (await answer.json())["prompt_id"]
        async for message in socket:
            if message.type != aiohttp.WSMsgType.TEXT:
                continue
            event = json.loads(message.data)
            if event["type"] == kind:
                found.append(event["data"])
            if event["type"] == "execution_error":
                pytest.fail(event["data"]["exception_message"])
            if event["type"] == "executing" and event["data"]["node"] is None and event["data"]["prompt_id"] == prompt:
                return found


def sampler_of(api: dict) -> str:
    (node,) = (id for id, node in api.items() if node["class_type"] in ("KSampler", "SamplerCustomAdvanced"))
    return node


def test_messages_while_sampling(comfyui):
    """A clip that moves, for the node that samples it, in the client that asked."""
    api = comfyui.workflow(NANO, steps=12, seed=31)
    messages = asyncio.run(messages_of(comfyui.server, api, 256))
    assert messages
    for message in messages:
        assert message["node"] == sampler_of(api) and message["stage"] == "base"
        assert (message["frames"], message["width"], message["height"]) == (16, 8, 8)
    frames = pictures(messages[-1]).astype(int)
    assert np.abs(np.diff(frames, axis=0)).max() > 30, "its frames differ"


def test_custom_sampling_has_previews(comfyui):
    api = comfyui.workflow("lavie_text_to_video.json", steps=4, width=64, height=64, seed=32)
    nano = comfyui.workflow(NANO)
    for loader in ("LaVieBaseModelLoader", "LaVieTextEncoderLoader", "LaVieVAELoader"):
        (files,) = (node["inputs"] for node in nano.values() if node["class_type"] == loader)
        next(node for node in api.values() if node["class_type"] == loader)["inputs"] = files
    messages = asyncio.run(messages_of(comfyui.server, api, 256))
    assert messages and messages[0]["node"] == sampler_of(api)


@pytest.mark.parametrize("size", [None, 0])
def test_no_messages_unless_asked(comfyui, size):
    assert asyncio.run(messages_of(comfyui.server, comfyui.workflow(NANO, steps=3, seed=33), size)) == []


@pytest.mark.parametrize("wish", [{}, {"client_id": "x", "size": 7000}, {"client_id": "x", "size": "large"}, [1]])
def test_route_refuses_other_wishes(comfyui, wish):
    async def ask():
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{comfyui.server.url}/lavie/preview", json=wish) as answer,
        ):
            return answer.status, await answer.text()

    status, text = asyncio.run(ask())
    assert status == 400 and "expected" in text


# Another pack's previews: like VideoHelperSuite's it wraps core's choice of a previewer and sends pictures itself.
OTHER_PACK = """
import latent_preview
from server import PromptServer

NODE_CLASS_MAPPINGS = {}
choose = latent_preview.get_previewer


class Own(latent_preview.LatentPreviewer):
    def decode_latent_to_preview_image(self, preview_format, x0):
        server = PromptServer.instance
        server.send_sync("other_preview", {"frames": len(x0)}, server.client_id)


latent_preview.get_previewer = lambda *args, **options: choose(*args, **options) and Own()
"""


def test_beside_another_packs_previews(tmp_path):
    """Both show the clip: we take nothing over from core, and nothing away from others."""
    pack = tmp_path / "custom_nodes" / "other"
    pack.mkdir(parents=True)
    (pack / "__init__.py").write_text(OTHER_PACK)
    with ComfyUIServer(find_comfyui(), tmp_path, extra_args=("--preview-method", "latent2rgb")) as server:
        api = load_workflow(ROOT / "workflows" / NANO, server.object_info())
        for number, kind in enumerate((preview.EVENT, "other_preview")):
            messages = asyncio.run(messages_of(server, set_inputs(api, seed=number, steps=6), 256, kind))
            assert messages and messages[0]["frames"] == 16, kind
