"""The workflow files: what the recipes make, sound in the browser, and every one of them run by a real server.

Nano files run as they are, with fewer steps. Files for the published models run at reduced size on small UNets of
hashed weights under the published file names; the published text encoders and VAEs, too large for this, are stood in
for by the nano ones, under their names too.
"""

from __future__ import annotations

import io
import json
import shutil
import urllib.request
from itertools import combinations
from pathlib import Path

import av
import pytest
import torch
from comfyui_lavie.lavie_models import LaVieUNet, UNetConfig
from comfyui_lavie.lavie_models.checkpoint import export_published
from comfyui_lavie.tests import hashed
from comfyui_lavie.tools.make_workflows import make_example, make_files, origins, thumbnail
from comfyui_lavie.tools.video import decode_video
from comfyui_lavie.tools.workflow import WorkflowError, last_saved, load_workflow, set_inputs, to_api
from comfyui_lavie.tools.workflow_graph import WorkflowGraph
from comfyui_lavie.tools.workflow_recipes import BLUEPRINT
from comfyui_lavie.tools.workflow_variants import DOWNLOADS, EXAMPLE_VIDEO, NANO, PUBLISHED, USES, VARIANTS
from comfyui_lavie.training.measure_shapes import measure_clip
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
WEIGHTS = ROOT / "weights"
FILES = sorted((ROOT / "workflows").glob("*.json"))
TITLE_HEIGHT = 30  # pixels of a node's title, above its position
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
    made = [models / folder / name for name, (folder, _) in DOWNLOADS.items()]
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


# --- files ------------------------------------------------------------------------------------------------------------


def test_files_are_what_the_recipes_make(comfyui):
    made = make_files(comfyui.object_info)
    assert {*FILES, *(ROOT / "subgraphs").glob("*.json")} == made.keys()
    for file, text in made.items():
        assert file.read_text(encoding="utf-8") == text, "run comfyui_lavie.tools.make_workflows"


def test_every_use_has_a_file_of_each_variant():
    assert {file.stem for file in FILES} == {f"{variant.prefix}_{use}" for variant in VARIANTS for use in USES}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_file_is_sound(comfyui, file):
    """Links and slots agree, as the browser needs; every input of every node is given; loaders say where files are."""
    graph = json.loads(file.read_text(encoding="utf-8"))
    nodes = {node["id"]: node for node in graph["nodes"]}
    for link, source, output, target, slot, kind in graph["links"]:
        assert link in nodes[source]["outputs"][output]["links"] and nodes[source]["outputs"][output]["type"] == kind
        assert nodes[target]["inputs"][slot]["link"] == link
        assert kind in nodes[target]["inputs"][slot]["type"].split(",")
    assert sum(slot["link"] is not None for node in nodes.values() for slot in node["inputs"]) == len(graph["links"])
    shipped = {path.name for path in WEIGHTS.rglob("*.safetensors")}
    for node in nodes.values():
        if "LaVie" in node["type"]:
            assert node["properties"]["cnr_id"] == "lavie"
            assert f'version = "{node["properties"]["ver"]}"' in (ROOT / "pyproject.toml").read_text()
        if node["type"].startswith("LaVie") and node["type"].endswith("Loader"):
            name = node["widgets_values"][0]
            (model,) = node["properties"].get("models", [None])
            assert (model is None) == (name in shipped)
            if model is not None:
                assert model["name"] == name and model["url"].startswith("https://huggingface.co/")
                assert model["directory"] in ("diffusion_models", "text_encoders", "vae")
    for node in to_api(graph, comfyui.object_info).values():
        required = comfyui.object_info[node["class_type"]]["input"]["required"]
        given = {name.split(".")[0] for name in node["inputs"]}
        assert given >= set(required), node["class_type"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_layout_is_clear(file):
    """Nodes do not touch each other; each but the note lies in one group; links go to the right or down."""
    graph = json.loads(file.read_text(encoding="utf-8"))
    boxes = {n["id"]: (n["pos"][0], n["pos"][1] - TITLE_HEIGHT, n["pos"][0] + n["size"][0], n["pos"][1] + n["size"][1])
             for n in graph["nodes"]}  # fmt: skip
    groups = [(x, y, x + width, y + height) for x, y, width, height in (g["bounding"] for g in graph["groups"])]
    for a, b in [*combinations(boxes.values(), 2), *combinations(groups, 2)]:
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
    for node in graph["nodes"]:
        x, y, right, bottom = boxes[node["id"]]
        around = [g for g in groups if g[0] <= x and g[1] <= y and right <= g[2] and bottom <= g[3]]
        assert len(around) == (node["type"] != "MarkdownNote"), node["type"]
    for _, source, _, target, _, _ in graph["links"]:
        a, b = boxes[source], boxes[target]
        assert a[2] < b[0] or (a[0] == b[0] and a[3] < b[1])


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_note_names_every_file(file):
    graph = json.loads(file.read_text(encoding="utf-8"))
    (note,) = (node["widgets_values"][0] for node in graph["nodes"] if node["type"] == "MarkdownNote")
    for node in graph["nodes"]:
        for model in node["properties"].get("models", ()):
            assert f"`{model['directory']}/{model['name']}`" in note and f"({model['url']})" in note
        if node["type"] == "LoadVideo":
            assert f"`{node['widgets_values'][0]}`" in note


def test_published_settings(comfyui):
    """Guidance, steps, spacing, sampler and prompts of the cascade as the authors' code has them."""
    api = comfyui.workflow("lavie_cascade.json", prompt="PROMPT")
    of = {kind: [n["inputs"] for n in api.values() if n["class_type"] == kind] for kind in
          ("CFGGuider", "LaVieScheduler", "KSamplerSelect", "StringConcatenate", "CLIPTextEncode")}  # fmt: skip
    assert [entry["cfg"] for entry in of["CFGGuider"]] == [7.5, 4.0, 5.0]
    assert [entry["spacing"] for entry in of["LaVieScheduler"]] == ["ddim", "interpolation", "ddim"]
    assert [entry["steps"] for entry in of["LaVieScheduler"]] == [50] * 3
    assert [entry["sampler_name"] for entry in of["KSamplerSelect"]] == ["ddim"] * 3
    assert [entry["string_b"] for entry in of["StringConcatenate"]] == [", 4k."]
    negative = [entry["text"] for entry in of["CLIPTextEncode"] if isinstance(entry["text"], str)]
    assert negative == ["", "None", "blur, worst quality"]


# --- prompt, seed and result ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_prompt_and_seed_are_found(comfyui, file):
    """One text is replaced, from which every stage's positive prompt comes; every seed is set."""
    api = comfyui.workflow(file.name, prompt="PROMPT", seed=77)
    (prompt,) = (node for node, entry in api.items() if "PROMPT" in entry["inputs"].values())
    conditioned = [n["inputs"] for n in api.values() if "positive" in n["inputs"] and n["inputs"]["positive"][1] == 0]
    encoders = {node for inputs in conditioned for node in [inputs["positive"][0]]
                if api[node]["class_type"] == "CLIPTextEncode"}  # fmt: skip
    stages = USES[file.stem.removeprefix(NANO.prefix + "_").removeprefix(PUBLISHED.prefix + "_")].stages
    assert len(encoders) == len(stages)
    for encoder in encoders:
        text, on_the_way = encoder, []
        while text != prompt:
            on_the_way.append(text)
            inputs = api[text]["inputs"]
            text = next(inputs[name] for name in ("text", "string_a") if name in inputs)[0]
        assert len(on_the_way) <= 2
    seeds = [v for n in api.values() for name, v in n["inputs"].items() if name in ("seed", "noise_seed")]
    assert len(seeds) >= len(stages) and set(seeds) == {77}
    with pytest.raises(WorkflowError, match="no input no_such_name"):
        set_inputs(api, no_such_name=1)


def test_prompt_in_texts_that_are_put_together():
    """The text that another node gives comes before one typed beside it; of two typed ones, the first is the prompt."""

    def api(first, second):
        return {
            "1": {"class_type": "PrimitiveString", "inputs": {"value": "typed"}},
            "2": {"class_type": "StringConcatenate", "inputs": {"string_a": first, "string_b": second}},
            "3": {"class_type": "CLIPTextEncode", "inputs": {"text": ["2", 0], "clip": ["9", 0]}},
            "4": {"class_type": "KSampler", "inputs": {"positive": ["3", 0]}},
        }

    for first, second, node, name in (
        (["1", 0], ", 4k.", "1", "value"), ("photo of ", ["1", 0], "1", "value"), ("a fish", ", 4k.", "2", "string_a"),
    ):  # fmt: skip
        changed = set_inputs(api(first, second), prompt="PROMPT")
        assert changed[node]["inputs"][name] == "PROMPT"
        assert sum("PROMPT" in entry["inputs"].values() for entry in changed.values()) == 1


def test_the_last_video_is_the_result():
    """The node that most others lead to, wherever it stands in the file."""
    api = {
        "1": {"class_type": "CreateVideo", "inputs": {}},
        "2": {"class_type": "Filter", "inputs": {"video": ["1", 0]}},
        "3": {"class_type": "SaveVideo", "inputs": {"video": ["2", 0]}},
        "4": {"class_type": "SaveVideo", "inputs": {"video": ["1", 0]}},
    }
    saved = {node: {"images": [{"filename": f"{node}.mp4"}], "animated": [True]} for node in ("4", "3")}
    assert last_saved(api, saved, ".mp4")["filename"] == "3.mp4"
    with pytest.raises(WorkflowError, match=r"saved no \.webm"):
        last_saved(api, saved, ".webm")


# --- the builder ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("class_type", "values", "message"),
    [
        ("NodeOfAnotherPack", {}, "no node NodeOfAnotherPack"),
        ("EmptyLaVieLatent", {"length": 3}, "no inputs length"),
        ("VAEDecode", {}, "VAEDecode.samples must be connected"),
        ("KSamplerSelect", {"sampler_name": "ddimm"}, "offers euler, .* not ddimm"),
    ],
)
def test_builder_refuses(comfyui, class_type, values, message):
    graph = WorkflowGraph("test", comfyui.object_info, origins(), {})
    with pytest.raises(WorkflowError, match=message):
        graph.add(class_type, **values)


def test_builder_refuses_links_of_another_type(comfyui):
    graph = WorkflowGraph("test", comfyui.object_info, origins(), {})
    latent = graph.add("EmptyLaVieLatent")
    with pytest.raises(WorkflowError, match="input video takes VIDEO, not LATENT"):
        graph.add("SaveVideo", video=latent["LATENT"])
    with pytest.raises(WorkflowError, match="EmptyLaVieLatent has no output MODEL"):
        latent["MODEL"]


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


def test_missing_video_is_named(comfyui):
    api = load_workflow(ROOT / "workflows" / "lavie_nano_video_to_video.json", comfyui.object_info)
    with pytest.raises(WorkflowError, match="LoadVideo.*nowhere.mp4"):
        comfyui.run(set_inputs(api, file="nowhere.mp4"))


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
    instance |= {"widgets_values": list(values.values()), "outputs": [{"name": "VIDEO", "type": "VIDEO", "links": [1]}]}
    workflow = {**blueprint, "nodes": [instance, save], "links": [[1, 1, 0, 2, 0, "VIDEO"]]}
    api = set_inputs(to_api(workflow, comfyui.object_info), steps=1)
    given = [(name, value) for node in api.values() for name, value in node["inputs"].items()]
    assert ("value", "PROMPT") in given and {v for name, v in given if name in ("seed", "noise_seed")} == {77}
    assert comfyui.video(api).shape == (5, 128, 128, 3)


# --- thumbnails -------------------------------------------------------------------------------------------------------


def test_thumbnails_belong_to_workflows():
    pictures = sorted((ROOT / "workflows").glob("*.jpg"))
    assert pictures and {p.stem for p in pictures} <= {file.stem for file in FILES}
    for picture in pictures:
        assert min(Image.open(picture).size) >= 256 and picture.stat().st_size < 100_000


def test_thumbnail_shows_first_and_last_frame(comfyui, example):
    frames = decode_video(comfyui.server.base_directory / "input" / EXAMPLE_VIDEO)
    picture = thumbnail(frames, "caption")
    cell = picture.width // 2
    for box, frame in (((0, 0), frames[0]), ((cell, cell), frames[-1])):
        part = picture.crop((*box, box[0] + cell, box[1] + cell)).resize(frame.shape[1::-1], Image.Resampling.NEAREST)
        assert part.tobytes() == frame.tobytes()
