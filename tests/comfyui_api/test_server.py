"""The pack inside a real ComfyUI server: its nodes, its workflows and their videos, bad input, interruption.

Contract: every test drives the one server of the `comfyui` fixture through HTTP; the videos are decoded and looked at.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from comfyui_lavie.comfyui_api.client import WorkflowInterrupted
from comfyui_lavie.comfyui_api.graphs import WorkflowError, load_workflow, saved_files
from comfyui_lavie.comfyui_api.server import ComfyUIServer, ServerError
from comfyui_lavie.datasets.video import contact_sheet, decode_video
from comfyui_lavie.nano.measure import measure_clip
from comfyui_lavie.place import find_comfyui, workflow_file
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
NANO = "lavie_nano_text_to_video.json"
PUBLISHED = "LaVie 03 Text to video.json"
NODES = {
    "LaVieBaseModelLoader",
    "LaVieTextEncoderLoader",
    "LaVieVAELoader",
    "EmptyLaVieLatent",
    "LaVieScheduler",
}


def node_of(api: dict, class_type: str) -> dict:
    """The only node of a type."""
    (node,) = (node for node in api.values() if node["class_type"] == class_type)
    return node


def quick(comfyui, **inputs) -> dict:
    """The nano workflow with three steps, for tests that do not look at the picture."""
    return comfyui.workflow(NANO, **{"steps": 3, **inputs})


# --- nodes ------------------------------------------------------------------------------------------------------------


def pack_nodes(comfyui) -> dict:
    return {k: v for k, v in comfyui.object_info.items() if v["python_module"] == "custom_nodes.lavie"}


def test_nodes_are_listed(comfyui):
    assert set(pack_nodes(comfyui)) >= NODES


def test_nodes_explain_themselves(comfyui):
    for name, node in pack_nodes(comfyui).items():
        assert "LaVie" in name and node["category"].startswith("LaVie")
        assert node["display_name"] != name and node["description"]
        for group in ("required", "optional"):
            for key, (_, options) in node["input"].get(group, {}).items():
                assert options.get("tooltip"), f"{name}.{key} has no tooltip"
        assert all(node["output_tooltips"]), name


def test_small_models_are_listed(comfyui):
    loaders = {
        "LaVieBaseModelLoader": ("model_name", "lavie_nano_base.safetensors"),
        "LaVieTextEncoderLoader": ("text_encoder_name", "lavie_nano_text_encoder.safetensors"),
        "LaVieVAELoader": ("vae_name", "lavie_nano_vae.safetensors"),
    }
    for loader, (name, file) in loaders.items():
        kind, options = comfyui.object_info[loader]["input"]["required"][name]
        assert file in (options["options"] if kind == "COMBO" else kind)


# --- workflow files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["[]", "{}", '{"nodes": [], "links": []}', '{"nodes": 3}'])
def test_file_that_is_no_workflow(comfyui, tmp_path, text):
    file = tmp_path / "workflow.json"
    file.write_text(text)
    with pytest.raises(WorkflowError, match="workflow"):
        load_workflow(file, comfyui.object_info)


def test_unknown_node_is_named(comfyui):
    api = {"1": {"class_type": "NodeOfAnotherPack", "inputs": {}}}
    with pytest.raises(WorkflowError, match="NodeOfAnotherPack"):
        comfyui.run(api)


# --- videos -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "color", "direction"),
    [
        ("a red fish moving right", "red", "right"),
        ("a blue rocket moving up", "blue", "up"),
        ("a green car moving left on a white background", "green", "left"),
    ],
)
def test_video_follows_the_prompt(comfyui, prompt, color, direction):
    frames = comfyui.video(comfyui.workflow(NANO, prompt=prompt))
    assert frames.shape == (16, 64, 64, 3) and frames.dtype == np.uint8
    seen = measure_clip(frames)
    assert (seen.color, seen.direction) == (color, direction)
    assert all(np.abs(a.astype(int) - b).max() > 20 for a, b in pairwise(frames)), "frames move"


def test_video_file(comfyui):
    """Eight frames per second, as many frames as asked for, at the size asked for."""
    (entry,) = saved_files(comfyui.run(quick(comfyui, frames=5, width=72, height=48, seed=11)), ".mp4")
    content = comfyui.server.fetch(entry)
    assert decode_video(content).shape == (5, 48, 72, 3)
    file = comfyui.server.base_directory / "output" / entry["subfolder"] / entry["filename"]
    assert file.read_bytes() == content
    with av.open(str(file)) as container:
        assert container.streams.video[0].average_rate == 8


def test_published_workflow_on_the_nano_model(comfyui):
    """The graph for the published weights (custom sampling, LaVieScheduler) runs; only files and sizes differ."""
    api = comfyui.workflow(PUBLISHED, steps=25, width=64, height=64, prompt="a red fish moving right", seed=3)
    nano = comfyui.workflow(NANO)
    for loader in ("LaVieBaseModelLoader", "LaVieTextEncoderLoader", "LaVieVAELoader"):
        node_of(api, loader)["inputs"] = node_of(nano, loader)["inputs"]
    node_of(api, "CFGGuider")["inputs"]["cfg"] = node_of(nano, "KSampler")["inputs"]["cfg"]
    frames = comfyui.video(api)
    assert frames.shape == (16, 64, 64, 3)
    assert measure_clip(frames).color == "red"


def test_demo_command(tmp_path):
    """`dev.py demo` leaves a video and a sheet of its frames, and says where."""
    out = tmp_path / "made" / "fish.mp4"
    command = [sys.executable, str(ROOT / "dev.py"), "demo", "--prompt", "a yellow car moving left", "--out", str(out)]
    short = ["--workflow", str(workflow_file(NANO)), "--seed", "5"]
    result = subprocess.run([*command, *short], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert str(out) in result.stdout and str(out.with_suffix(".png")) in result.stdout
    assert "KSampler" in result.stderr, "progress is shown"
    frames = decode_video(out)
    assert measure_clip(frames).color == "yellow"
    assert np.array_equal(Image.open(out.with_suffix(".png")), contact_sheet(frames))


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", ["", " ", "a red fish moving right " * 420, "鱼 \u0000 🐟 (((", "a (red:1.3) fish"])
def test_any_prompt_gives_a_video(comfyui, prompt):
    assert comfyui.video(quick(comfyui, prompt=prompt)).shape == (16, 64, 64, 3)


@pytest.mark.parametrize(
    ("inputs", "parts"),
    [
        ({"frames": 0}, ("frames", "1")),
        ({"frames": -3}, ("frames", "1")),
        ({"width": 60}, ("width", "multiple of 8", "64")),
        ({"height": 3}, ("height", "8")),
        ({"model_name": "missing.safetensors"}, ("LaVieBaseModelLoader", "missing.safetensors")),
        ({"text_encoder_name": "missing.safetensors"}, ("LaVieTextEncoderLoader", "missing.safetensors")),
        ({"vae_name": "missing.safetensors"}, ("LaVieVAELoader", "missing.safetensors")),
        ({"model_name": "lavie_nano_vae.safetensors"}, ("LaVieBaseModelLoader", "lavie_nano_vae.safetensors")),
    ],
)
def test_bad_values_are_refused_with_a_reason(comfyui, inputs, parts):
    with pytest.raises(WorkflowError) as error:
        comfyui.run(quick(comfyui, **inputs))
    for part in parts:
        assert part in str(error.value)


def test_file_in_the_wrong_loader(comfyui):
    """A VAE among the diffusion models: the error says what it is and which loader wants it."""
    wrong = comfyui.server.base_directory / "models" / "diffusion_models" / "not_a_unet.safetensors"
    wrong.parent.mkdir(exist_ok=True)
    shutil.copy(ROOT / "weights" / "vae" / "lavie_nano_vae.safetensors", wrong)
    with pytest.raises(WorkflowError, match="LaVieBaseModelLoader.*not_a_unet.*VAE") as error:
        comfyui.run(quick(comfyui, model_name=wrong.name))
    assert "Load LaVie VAE" in str(error.value) or "LaVieVAELoader" in str(error.value)


@pytest.mark.parametrize(
    ("node", "parts"),
    [
        ({"class_type": "EmptySD3LatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 4}}, ("4", "16")),
        (
            {
                "class_type": "EmptyHunyuanLatentVideo",
                "inputs": {"width": 64, "height": 64, "length": 9, "batch_size": 1},
            },
            ("frames",),
        ),
    ],
    ids=["16 channels", "5 dimensions"],
)
def test_latent_of_another_kind(comfyui, node, parts):
    """Either ComfyUI makes the latent fit, as it does for its own models, or the message says what was expected."""
    api = quick(comfyui)
    node_of(api, "KSampler")["inputs"]["latent_image"] = ["other", 0]
    api["other"] = node
    try:
        outputs = comfyui.run(api)
    except WorkflowInterrupted:
        raise
    except WorkflowError as error:
        assert all(part in str(error) for part in parts), str(error)
    else:
        assert saved_files(outputs, ".mp4")


def test_interrupt_in_the_middle_of_sampling(comfyui):
    seen = []

    def interrupt_once(node, done, total):
        if not seen:
            comfyui.server.interrupt()
        seen.append((done, total))

    with pytest.raises(WorkflowInterrupted, match="KSampler"):
        comfyui.run(quick(comfyui, steps=500, seed=21), interrupt_once)
    assert 0 < seen[0][0] <= seen[-1][0] < 500 and seen[0][1] == 500
    assert comfyui.video(quick(comfyui, seed=22)).shape == (16, 64, 64, 3)


# --- the server itself ------------------------------------------------------------------------------------------------


def test_server_that_cannot_start_shows_its_log(tmp_path):
    server = ComfyUIServer(find_comfyui(), tmp_path, extra_args=["--no-such-option"])
    with pytest.raises(ServerError, match="no-such-option"):
        server.start()
    with pytest.raises(ServerError, match="does not answer"):
        server.object_info()
