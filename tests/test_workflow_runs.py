"""Every workflow file run by a real server, and what is made of the videos.

Nano files run as they are, with fewer steps. Files for the published models run at reduced size on small UNets of
hashed weights under the published file names; the published text encoders and VAEs, too large for this, are stood in
for by the nano ones, under their names too.
"""

from __future__ import annotations

import io
import json
import shutil
import urllib.request
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from comfyui_lavie.lavie_models import LaVieUNet, UNetConfig
from comfyui_lavie.lavie_models.checkpoint import export_published
from comfyui_lavie.tests import hashed
from comfyui_lavie.tools.make_workflows import CELL, CELL_GAP, make_example, thumbnail
from comfyui_lavie.tools.video import decode_video
from comfyui_lavie.tools.workflow import WorkflowError, set_inputs, to_api
from comfyui_lavie.tools.workflow_recipes import BLUEPRINT
from comfyui_lavie.tools.workflow_variants import DOWNLOADS, EXAMPLE_VIDEO, NANO, PUBLISHED, USES
from comfyui_lavie.training.measure_shapes import measure_clip
from PIL import Image

WEIGHTS = Path(__file__).resolve().parents[1] / "weights"
RATES = {"cascade": 24, "text_to_video_interpolation": 24, "interpolate_video": 32}  # frames per second; others 8


@pytest.fixture(scope="module")
def example(comfyui):
    """The video that some workflows start from, in the server's input folder."""
    make_example(comfyui.server)


@pytest.fixture(scope="module")
def stand_ins(comfyui):
    """Small files under the names of the published ones, in the server's model folders while the module runs."""
    sizes = {"block_channels": (64, 64), "layers_per_block": 1, "context_dim": 64}
    configs = {
        "base": UNetConfig.base(**sizes, num_heads=2, attention_levels=(True, True)),
        "interpolation": UNetConfig.interpolation(**sizes, num_heads=8, attention_levels=(True, True)),
        "super_resolution": UNetConfig.super_resolution(**sizes, num_heads=2, attention_levels=(False, True)),
    }
    models = comfyui.server.base_directory / "models"
    made = [models / folder / name for name, (folder, *_) in DOWNLOADS.items()]
    for file in made:
        file.parent.mkdir(exist_ok=True)
    for name, stage in PUBLISHED.stages.items():
        shapes = LaVieUNet(configs[name], device="meta").state_dict()
        weights = {key: hashed.weight(key, value.shape) for key, value in shapes.items()}
        published = export_published(weights, configs[name])
        torch.save({"ema": published} if name == "base" else published, models / "diffusion_models" / stage.model)
        nano = NANO.stages[name]
        shutil.copy(WEIGHTS / "text_encoders" / nano.text_encoder, models / "text_encoders" / stage.text_encoder)
        shutil.copy(WEIGHTS / "vae" / nano.vae, models / "vae" / stage.vae)
    yield
    for file in made:
        file.unlink()


# --- videos -----------------------------------------------------------------------------------------------------------


def assert_made(comfyui, file: str, frames: int, edge: int, **inputs) -> None:
    """The result of a workflow that starts from so many frames has the frames, size and rate that its use stands for.

    Clips that are made start at edge x edge pixels, the example has 64 x 64; both have 8 frames per second.
    """
    use = file.removesuffix(".json").removeprefix("lavie_").removeprefix("nano_")
    stages, from_video, longer_by = USES[use]
    size = {} if from_video and stages == ("super_resolution",) else {"width": edge, "height": edge}
    length = {"duration": frames / 8} if from_video else {"frames": frames}
    count = 4 * (frames - 1) + 1 if "interpolation" in stages else frames
    if longer_by == "extension":
        count = frames + 5
        length |= {"total_frames": count, "clip_frames": 4, "overlap": 1}
    content = comfyui.video_file(comfyui.workflow(file, **size, **length, **inputs))
    edge = (edge if size else 64) * (4 if "super_resolution" in stages else 1)
    assert decode_video(content).shape == (count, edge, edge, 3)
    with av.open(io.BytesIO(content)) as container:
        assert container.streams.video[0].average_rate == RATES.get(use, 8)


def test_nano_cascade(comfyui):
    """At its full size: 61 frames of 256 x 256 pixels, 24 per second."""
    assert_made(comfyui, "lavie_nano_cascade.json", 16, 64, steps=1)


@pytest.mark.parametrize("use", [use for use in USES if use not in ("cascade", "text_to_video")])
def test_nano_workflow(comfyui, example, use):
    assert_made(comfyui, f"lavie_nano_{use}.json", 4 if "super_resolution" in USES[use].stages else 16, 64, steps=2)


@pytest.mark.parametrize("use", USES)
def test_published_workflow(comfyui, example, stand_ins, use):
    assert_made(comfyui, f"lavie_{use}.json", 4, 32, steps=2)


def test_video_to_video_keeps_the_motion(comfyui, example):
    """The red fish of the example becomes blue and still moves right."""
    seen = measure_clip(comfyui.video(comfyui.workflow("lavie_nano_video_to_video.json")))
    assert (seen.color, seen.direction) == ("blue", "right")


def test_sound_is_kept(comfyui):
    """Through the node that decodes while it writes, too."""
    content, rate = io.BytesIO(), 48000
    with av.open(content, "w", format="mp4") as container:
        picture, sound = container.add_stream("libx264", rate=8), container.add_stream("aac", rate=rate)
        picture.width = picture.height = 16
        picture.pix_fmt = "yuv420p"
        for _ in range(4):
            container.mux(picture.encode(av.VideoFrame(16, 16, "rgb24")))
        tone = np.sin(np.arange(rate // 2) * 0.05, dtype=np.float32)
        frame = av.AudioFrame.from_ndarray(np.stack([tone, tone]), format="fltp", layout="stereo")
        frame.sample_rate = rate
        container.mux(sound.encode(frame))
        for stream in (picture, sound):
            container.mux(stream.encode())
    comfyui.server.add_input("sound.mp4", content.getvalue())
    made = comfyui.video_file(comfyui.workflow("lavie_nano_upscale_video.json", file="sound.mp4", steps=1))
    with av.open(io.BytesIO(made)) as container:
        loudest = max(np.abs(frame.to_ndarray()).max() for frame in container.decode(audio=0))
    assert decode_video(made).shape == (4, 64, 64, 3) and loudest > 0.5


def test_missing_video_is_named(comfyui):
    with pytest.raises(WorkflowError, match="LoadVideo.*nowhere.mp4"):
        comfyui.run(comfyui.workflow("lavie_nano_video_to_video.json", file="nowhere.mp4"))


# --- the subgraph blueprint -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def blueprint(comfyui) -> dict:
    """The blueprint as the server gives it to the browser."""

    def get(path):
        with urllib.request.urlopen(f"{comfyui.server.url}/global_subgraphs{path}") as response:
            return json.load(response)

    ((key, entry),) = ((key, e) for key, e in get("").items() if e["info"]["node_pack"] == "custom_nodes.lavie")
    assert entry["name"] == BLUEPRINT
    return json.loads(get(f"/{key}")["data"])


def test_blueprint_is_sound(blueprint):
    """Links and slots inside agree; the instance has the definition's inputs and outputs."""
    (instance,), (definition,) = blueprint["nodes"], blueprint["definitions"]["subgraphs"]
    nodes = {node["id"]: node for node in definition["nodes"]}
    assert instance["type"] == definition["id"] and instance["title"] == definition["name"] == BLUEPRINT
    assert [s["name"] for s in instance["inputs"]] == [s["name"] for s in definition["inputs"]]
    assert len(instance["widgets_values"]) == len(instance["inputs"])
    assert [s["type"] for s in instance["outputs"]] == ["VIDEO"]
    for link in definition["links"]:
        if link["origin_id"] == -10:
            assert link["id"] in definition["inputs"][link["origin_slot"]]["linkIds"]
        else:
            assert link["id"] in nodes[link["origin_id"]]["outputs"][link["origin_slot"]]["links"]
        if link["target_id"] == -20:
            assert link["id"] in definition["outputs"][0]["linkIds"]
        else:
            assert nodes[link["target_id"]]["inputs"][link["target_slot"]]["link"] == link["id"]
    ends = [output["links"] for node in nodes.values() for output in node["outputs"]]
    assert sum(map(len, ends)) + sum(len(s["linkIds"]) for s in definition["inputs"]) == len(definition["links"])


def test_blueprint_in_a_workflow(comfyui, stand_ins, blueprint):
    """What is typed into the instance arrives inside; its video can be saved."""
    (instance,) = blueprint["nodes"]
    values = dict(zip([s["name"] for s in instance["inputs"]], instance["widgets_values"], strict=True))
    values |= {"prompt": "PROMPT", "width": 32, "height": 32, "frames": 2, "seed": 77}
    save = {"id": 2, "type": "SaveVideo", "widgets_values": ["video/blueprint", "mp4", "auto"],
            "inputs": [{"name": "video", "type": "VIDEO", "link": 1}], "outputs": []}  # fmt: skip
    outputs = [{"name": "VIDEO", "type": "VIDEO", "links": [1]}]
    nodes = [{**instance, "widgets_values": list(values.values()), "outputs": outputs}, save]
    workflow = {**blueprint, "nodes": nodes, "links": [[1, 1, 0, 2, 0, "VIDEO"]]}
    api = set_inputs(to_api(workflow, comfyui.object_info), steps=1)
    given = [(name, value) for node in api.values() for name, value in node["inputs"].items()]
    assert ("value", "PROMPT") in given and {v for name, v in given if name in ("seed", "noise_seed")} == {77}
    assert comfyui.video(api).shape == (5, 128, 128, 3)


# --- thumbnails -------------------------------------------------------------------------------------------------------


def test_thumbnail_shows_first_and_last_frame(comfyui, example):
    frames = decode_video(comfyui.server.base_directory / "input" / EXAMPLE_VIDEO)
    picture, last = thumbnail(frames, "caption"), CELL + CELL_GAP
    for corner, frame in ((0, frames[0]), (last, frames[-1])):
        part = picture.crop((corner, corner, corner + CELL, corner + CELL))
        assert part.resize(frame.shape[1::-1], Image.Resampling.NEAREST).tobytes() == frame.tobytes()
