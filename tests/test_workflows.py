"""The workflow files: what the recipes make, sound in the browser; prompts found in them; the builder's refusals."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import pytest
from comfyui_lavie.tools.make_workflows import make_files, origins
from comfyui_lavie.tools.workflow import WorkflowError, last_saved, set_inputs, to_api
from comfyui_lavie.tools.workflow_graph import WorkflowGraph
from comfyui_lavie.tools.workflow_variants import NANO, PUBLISHED, USES
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
WEIGHTS = ROOT / "weights"
FILES = sorted((ROOT / "workflows").glob("*.json"))
TITLE_HEIGHT = 30  # pixels of a node's title, above its position


# --- files ------------------------------------------------------------------------------------------------------------


def test_files_are_what_the_recipes_make(comfyui):
    made = make_files(comfyui.object_info)
    assert {*FILES, *(ROOT / "subgraphs").glob("*.json")} == made.keys()
    for file, text in made.items():
        assert file.read_text(encoding="utf-8") == text, "run comfyui_lavie.tools.make_workflows"


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


def test_each_workflow_has_a_thumbnail():
    pictures = sorted((ROOT / "workflows").glob("*.jpg"))
    assert {p.stem for p in pictures} == {file.stem for file in FILES}
    for picture in pictures:
        assert min(Image.open(picture).size) >= 256 and picture.stat().st_size < 100_000
