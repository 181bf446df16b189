"""Every template run by a real server, and what is made of the videos.

A template for the published models runs with the small models' files chosen in its loaders, as its note says: one
graph serves both.
"""

from __future__ import annotations

import io
import json
import urllib.request

import av
import pytest
from comfyui_lavie.comfyui_api.graphs import WorkflowError, set_inputs, to_api
from comfyui_lavie.datasets.video import decode_video
from comfyui_lavie.lavie_models.weights_file import open_weights
from comfyui_lavie.nano.measure import measure_clip
from comfyui_lavie.nano.shapes import BACKGROUNDS, NEW_COLORS, TRIPLES
from comfyui_lavie.tests.compat.kit import WEIGHTS, lcm_lora
from comfyui_lavie.tools.workflows.designs import BLUEPRINT
from comfyui_lavie.tools.workflows.templates import EXAMPLE_VIDEO, LCM_LORA, NANO, PUBLISHED, TEMPLATES
from comfyui_lavie.tools.workflows.thumbnails import CELL, CELL_GAP, SHOWN, STRIP, make_examples, spread, thumbnail
from PIL import Image
from safetensors.torch import save_file


@pytest.fixture(scope="module")
def examples(comfyui):
    """The video and the picture that some workflows start from, in the server's input folder."""
    make_examples(comfyui.server)


@pytest.fixture(scope="module", autouse=True)
def few_steps_lora(comfyui):
    """A LoRA with the layers of the published one and the nano base's sizes."""
    config = open_weights(WEIGHTS / "diffusion_models" / NANO.stages["base"].model).unet.config
    folder = comfyui.server.base_directory / "models" / "loras"
    folder.mkdir(parents=True, exist_ok=True)
    save_file(lcm_lora(config), folder / LCM_LORA)


SMALL = {  # the small models' files in place of the published ones: {name in a loader: name of a file of weights/}
    getattr(PUBLISHED.stages[stage], part): getattr(NANO.stages[stage], part)
    for stage in PUBLISHED.stages for part in ("model", "text_encoder", "vae")
}  # fmt: skip


def with_small_models(api: dict) -> dict:
    """The graph with other files chosen in its loaders, and nothing else changed."""
    for node in api.values():
        node["inputs"] = {name: SMALL.get(value, value) if isinstance(value, str) else value
                          for name, value in node["inputs"].items()}  # fmt: skip
    return api


# --- videos -----------------------------------------------------------------------------------------------------------


EDGE = {"width": 32, "height": 32}
LONGER = {"total_frames": 7, "clip_frames": 4, "overlap": 1}
MAKES = {  # use: settings of a small run; frames, edge and rate of its video
    "text_to_video": ({**EDGE, "frames": 4}, 4, 32, 8),
    "text_to_video_super_resolution": ({**EDGE, "frames": 4}, 4, 128, 8),
    "cascade": ({**EDGE, "frames": 4}, 13, 128, 24),
    "video_to_video": ({**EDGE, "duration": 0.5}, 4, 32, 8),
    "interpolate_video": ({**EDGE, "duration": 0.5}, 13, 32, 32),
    "upscale_video": ({"duration": 0.5}, 4, 256, 8),
    "long_video": ({**EDGE, "frames": 17}, 17, 32, 8),
    "long_video_extended": ({**EDGE, "frames": 4, **LONGER}, 7, 32, 8),
    "extend_video": ({**EDGE, "duration": 0.5, **LONGER}, 7, 32, 8),
    "looping_video": ({**EDGE, "frames": 17}, 17, 32, 8),
    "prompt_travel": (EDGE, 16, 32, 8),
    "first_last_frame": (EDGE, 16, 32, 8),
    "lora_on_frames": ({}, 16, 64, 8),
    "text_to_video_few_steps": ({**EDGE, "frames": 4}, 4, 32, 8),
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_template(comfyui, examples, name):
    """Every template, with the small models chosen in it, makes the frames, the size and the rate that it is for."""
    settings, frames, edge, rate = MAKES[TEMPLATES[name].use]
    api = with_small_models(comfyui.workflow(f"{name}.json", steps=2, **settings))
    content = comfyui.video_file(api)
    assert decode_video(content).shape == (frames, edge, edge, 3)
    with av.open(io.BytesIO(content)) as container:
        assert container.streams.video[0].average_rate == rate


def test_video_to_video_keeps_the_motion(comfyui, examples):
    """The red fish of the example becomes blue and still moves right."""
    seen = measure_clip(comfyui.video(comfyui.workflow("lavie_nano_video_to_video.json")))
    assert (seen.color, seen.direction) == ("blue", "right")


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


def test_blueprint_in_a_workflow(comfyui, blueprint):
    """What is typed into the instance arrives inside; its video can be saved."""
    (instance,) = blueprint["nodes"]
    values = dict(zip([s["name"] for s in instance["inputs"]], instance["widgets_values"], strict=True))
    values |= {"prompt": "PROMPT", "width": 32, "height": 32, "frames": 2, "seed": 77}
    save = {"id": 2, "type": "SaveVideo", "widgets_values": ["video/blueprint", "mp4", "auto"],
            "inputs": [{"name": "video", "type": "VIDEO", "link": 1}], "outputs": []}  # fmt: skip
    outputs = [{"name": "VIDEO", "type": "VIDEO", "links": [1]}]
    nodes = [{**instance, "widgets_values": list(values.values()), "outputs": outputs}, save]
    workflow = {**blueprint, "nodes": nodes, "links": [[1, 1, 0, 2, 0, "VIDEO"]]}
    api = set_inputs(with_small_models(to_api(workflow, comfyui.object_info)), steps=1)
    given = [(name, value) for node in api.values() for name, value in node["inputs"].items()]
    assert ("value", "PROMPT") in given and {v for name, v in given if name in ("seed", "noise_seed")} == {77}
    assert comfyui.video(api).shape == (5, 128, 128, 3)


# --- thumbnails -------------------------------------------------------------------------------------------------------


def test_thumbnail_shows_first_and_last_frame(comfyui, examples):
    frames = decode_video(comfyui.server.base_directory / "input" / EXAMPLE_VIDEO)
    first, second, third, last = spread(frames, 4)
    picture, margin, step = thumbnail([[first, second], [third, last]], "caption"), STRIP // 2, CELL + CELL_GAP
    assert picture.width == picture.height
    for at, frame in ((0, frames[0]), (step, frames[-1])):
        part = picture.crop((margin + at, at, margin + at + CELL, at + CELL))
        assert part.resize(frame.shape[1::-1], Image.Resampling.NEAREST).tobytes() == frame.tobytes()


def test_thumbnails_differ_from_template_to_template():
    """Each template has a prompt of its own, of words that the small models know."""
    known = {word for scene in TRIPLES for word in scene} | set(BACKGROUNDS) | set(NEW_COLORS)
    prompts = [shown.prompt for shown in SHOWN]
    assert len(prompts) == len(TEMPLATES) == len(set(prompts))
    for text in filter(None, (text for shown in SHOWN for text in shown)):
        assert known.issuperset(set(text.split()) - {"a", "moving", "on", "background"}), text
