"""Moving previews, between server and browser: who is heard, who gets what, and beside another pack's previews."""

from __future__ import annotations

import asyncio
import json
import uuid
from pathlib import Path

import aiohttp
import numpy as np
import pytest
from comfyui_lavie.comfyui_api.graphs import load_workflow, set_inputs
from comfyui_lavie.comfyui_api.server import ComfyUIServer
from comfyui_lavie.lavie_models.comfyui import preview_server
from comfyui_lavie.place import find_comfyui, workflow_file
from comfyui_lavie.tests.web.test_preview import pictures

ROOT = Path(__file__).resolve().parents[2]
BASE = ROOT / "weights" / "diffusion_models" / "lavie_nano_base.safetensors"
VAE = ROOT / "weights" / "vae" / "lavie_nano_vae.safetensors"
NANO = "lavie_nano_text_to_video.json"


def test_viewers():
    viewers = preview_server.Viewers()
    key = {name: viewers.key(name) for name in "ab"}
    assert viewers.register("a", 256, key["a"], {"a", "b"}) and viewers.register("b", 64, key["b"], {"a", "b"})
    assert not viewers.register("a", 32, key["b"], {"a", "b"}) and not viewers.register("a", 32, None, {"a", "b"})
    assert (viewers.size("a"), viewers.size("b"), viewers.size("c"), viewers.size(None)) == (256, 64, 0, 0)
    assert viewers.register("b", 0, key["b"], {"b"})
    assert (viewers.size("a"), viewers.size("b")) == (0, 0), "b asked for none, a has gone"
    with pytest.raises(ValueError, match="32 .. 1024"):
        viewers.register("a", 5000, key["a"], {"a"})
    with pytest.raises(ValueError, match="no client of that id"):
        viewers.register("a" * 10**7, 64, None, {"a"})


async def wish_for(session, server, client: str, size: int, key: str | None) -> int:
    """The status with which the server answers a client's wish."""
    wish = {"client_id": client, "size": size, "key": key}
    async with session.post(f"{server.url}/lavie/preview", json=wish) as answer:
        return answer.status


async def key_of(session, server, socket, client: str) -> str:
    """The key that the server sends to the client whose websocket this is, when asked without one."""
    assert await wish_for(session, server, client, 0, None) == 202
    while True:
        event = json.loads((await socket.receive(timeout=30)).data)
        if event["type"] == preview_server.KEY_EVENT:
            return event["data"]["key"]


async def messages_of(server, api: dict, size: int | None, kind: str = preview_server.EVENT) -> list[dict]:
    """Messages of a kind, our previews, while ``api`` runs for a client that asked for ``size``."""
    client, found = uuid.uuid4().hex, []
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{server.url}/ws?clientId={client}", max_msg_size=0) as socket,
    ):
        if size is not None:
            assert await wish_for(session, server, client, size, await key_of(session, server, socket, client)) == 200
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
    api = comfyui.workflow("LaVie 03 Text to video.json", steps=4, width=64, height=64, seed=32)
    nano = comfyui.workflow(NANO)
    for loader in ("LaVieBaseModelLoader", "LaVieTextEncoderLoader", "LaVieVAELoader"):
        (files,) = (node["inputs"] for node in nano.values() if node["class_type"] == loader)
        next(node for node in api.values() if node["class_type"] == loader)["inputs"] = files
    messages = asyncio.run(messages_of(comfyui.server, api, 256))
    assert messages and messages[0]["node"] == sampler_of(api)


@pytest.mark.parametrize("size", [None, 0])
def test_no_messages_unless_asked(comfyui, size):
    assert asyncio.run(messages_of(comfyui.server, comfyui.workflow(NANO, steps=3, seed=33), size)) == []


WISHES = [
    b"{}", b"[1]", b"", b"{", b"\xff", b'{"client_id": "x", "size": "large"}', b'{"client_id": 7, "size": 64}',
    b'{"client_id": "x", "size": Infinity}', b'{"client_id": "x", "size": 1e999}', b'{"client_id": "x", "size": NaN}',
    b'{"client_id": "x", "size": true}', b"[" * 100_000, b'{"client_id": "nobody", "size": 64}',
    b'{"client_id": "' + b"x" * 10_000_000 + b'", "size": 64}',
]  # fmt: skip


def test_route_refuses_other_wishes(comfyui):
    """Each with a reason, and none with an error of the server's; bodies far too large are not read to their end."""

    async def ask(body: bytes, kind: str):
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{comfyui.server.url}/lavie/preview", data=body, headers={"Content-Type": kind}) as answer,
        ):
            return answer.status, await answer.text()

    for wish in WISHES:
        for kind in ("application/json", "text/plain; charset=no-such-charset"):
            status, text = asyncio.run(ask(wish, kind))
            assert status == 400 and "expected" in text, wish[:80]


def test_only_the_client_itself_changes_its_wish(comfyui):
    """Who knows its id, but not the key that its websocket got, changes nothing."""

    async def ask():
        client, server = uuid.uuid4().hex, comfyui.server
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(f"{server.url}/ws?clientId={client}", max_msg_size=0) as socket,
        ):
            key = await key_of(session, server, socket, client)
            return [await wish_for(session, server, client, 64, one) for one in (None, "guess", key, key[:-1])]

    assert asyncio.run(ask()) == [202, 202, 200, 202]


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
        api = load_workflow(workflow_file(NANO), server.object_info())
        for number, kind in enumerate((preview_server.EVENT, "other_preview")):
            messages = asyncio.run(messages_of(server, set_inputs(api, seed=number, steps=6), 256, kind))
            assert messages and messages[0]["frames"] == 16, kind
