"""The workflow files: what the recipes make, sound in the browser; prompts found in them; the builder's refusals."""

from __future__ import annotations

import json
import re
from itertools import combinations
from pathlib import Path

import pytest
from comfyui_lavie.comfyui_api.graphs import WorkflowError, last_saved, set_inputs, to_api
from comfyui_lavie.place import NANO_WORKFLOWS, WORKFLOWS
from comfyui_lavie.tools.workflows.graph import WorkflowGraph, origins
from comfyui_lavie.tools.workflows.make import make_files
from comfyui_lavie.tools.workflows.templates import CASCADE, NANO, START, TEMPLATES, USES, measured_name
from comfyui_lavie.tools.workflows.view import opening_zoom
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = ROOT / "weights"
FILES = sorted([*WORKFLOWS.glob("*.json"), *NANO_WORKFLOWS.glob("*.json")])
BY_NAME = {**TEMPLATES, **{measured_name(use): (NANO, use) for use in USES}}  # (model_set, use) of a file
LINK = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")  # of a link inside a subgraph
TITLE_HEIGHT = 30  # pixels of a node's title, above its position


# --- files ------------------------------------------------------------------------------------------------------------


def test_files_are_what_the_recipes_make(comfyui):
    made = make_files(comfyui.object_info)
    assert {*FILES, *(ROOT / "subgraphs").glob("*.json")} == made.keys()
    for file, text in made.items():
        assert file.read_text(encoding="utf-8") == text, "run comfyui_lavie.tools.workflows.make"


def definitions_of(graph: dict) -> list[dict]:
    return graph.get("definitions", {}).get("subgraphs", [])


def all_nodes(graph: dict) -> list[dict]:
    """The nodes that can be seen at first and those inside subgraphs, without the instances of these."""
    inside = definitions_of(graph)
    stands_for = {definition["id"] for definition in inside}
    nodes = [*graph["nodes"], *(node for definition in inside for node in definition["nodes"])]
    return [node for node in nodes if node["type"] not in stands_for]


def assert_links_agree(nodes: list[dict], links: list[list]) -> None:
    """Each link is known at both ends, by its type too, and no end knows another."""
    by_id = {node["id"]: node for node in nodes}
    for link, source, output, target, slot, kind in links:
        assert link in by_id[source]["outputs"][output]["links"] and by_id[source]["outputs"][output]["type"] == kind
        assert by_id[target]["inputs"][slot]["link"] == link
        assert kind in by_id[target]["inputs"][slot]["type"].split(",")
    assert sum(slot["link"] is not None for node in nodes for slot in node["inputs"]) == len(links)
    assert sum(len(output["links"]) for node in nodes for output in node["outputs"]) == len(links)


def assert_border_agrees(definition: dict, instance: dict) -> None:
    """Inside, links agree when the border's two boxes are nodes too; outside, the instance has the border's slots."""
    sources = [{"type": slot["type"], "links": slot["linkIds"]} for slot in definition["inputs"]]
    targets = [{"type": slot["type"], "link": slot["linkIds"][0]} for slot in definition["outputs"]]
    given, taken = {"id": -10, "inputs": [], "outputs": sources}, {"id": -20, "outputs": [], "inputs": targets}
    links = [[link[name] for name in LINK] for link in definition["links"]]
    assert_links_agree([*definition["nodes"], given, taken], links)
    for side in ("inputs", "outputs"):
        assert [(s["name"], s["type"]) for s in instance[side]] == [(s["name"], s["type"]) for s in definition[side]]
    assert len(instance["widgets_values"]) == sum("widget" in slot for slot in instance["inputs"])
    assert len({slot["name"] for slot in instance["inputs"]}) == len(instance["inputs"])


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_file_is_sound(comfyui, file):
    """Links and slots agree, as the browser needs; every input of every node is given; loaders say where files are."""
    graph = json.loads(file.read_text(encoding="utf-8"))
    assert_links_agree(graph["nodes"], graph["links"])
    for definition in definitions_of(graph):
        assert_border_agrees(definition, next(n for n in graph["nodes"] if n["type"] == definition["id"]))
    shipped = {path.name for path in WEIGHTS.rglob("*.safetensors")}
    for node in all_nodes(graph):
        if "LaVie" in node["type"]:
            assert node["properties"]["cnr_id"] == "lavie"
            assert f'version = "{node["properties"]["ver"]}"' in (ROOT / "pyproject.toml").read_text()
        if "Loader" in node["type"]:
            name = node["widgets_values"][0]
            (model,) = node["properties"].get("models", [None])
            assert (model is None) == (name in shipped)
            if model is not None:
                assert model["name"] == name and model["url"].startswith("https://huggingface.co/")
                assert model["directory"] in ("diffusion_models", "text_encoders", "vae", "loras")
    for node in to_api(graph, comfyui.object_info).values():
        required = comfyui.object_info[node["class_type"]]["input"]["required"]
        given = {name.split(".")[0] for name in node["inputs"]}
        assert given >= set(required), node["class_type"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_layout_is_clear(file):
    """Nodes do not touch each other; each but the note lies in one group; links go to the right or down."""
    graph = json.loads(file.read_text(encoding="utf-8"))
    assert_layout_is_clear(graph)
    for definition in definitions_of(graph):
        inner = [link for link in definition["links"] if link["origin_id"] > 0 < link["target_id"]]
        assert_layout_is_clear({**definition, "links": [[link[name] for name in LINK] for link in inner]})


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_titles_are_drawn_when_a_template_opens(file):
    """ComfyUI's page leaves text out below a zoom of 8 / 14: a title's 14 pixels would have fewer than 8."""
    assert opening_zoom(json.loads(file.read_text(encoding="utf-8"))["nodes"]) > 8 / 14 + 0.005


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_all_of_it_is_seen_at_once_and_readable(file):
    """In a window of 1440 x 900 every node but the note lies beside the bars when the file is opened as a file."""
    graph = json.loads(file.read_text(encoding="utf-8"))
    view, stages = graph["extra"]["ds"], len(definitions_of(graph))
    for node in graph["nodes"]:
        left, top = ((at + shift) * view["scale"] for at, shift in zip(node["pos"], view["offset"], strict=True))
        assert left >= 60 and (top >= 75 or left < 1070), "not under the bar at the left or the Run button"
        if node["type"] != "MarkdownNote":
            right, bottom = (at + size * view["scale"] for at, size in zip((left, top), node["size"], strict=True))
            assert right <= 1440 and bottom <= 900
            assert not (right > 1185 and bottom > 640) or node["type"] == "SaveVideo", "not under the minimap"
    assert 14 * view["scale"] >= (9 if stages else 7.5), "pixels of a node's title"


def test_templates_are_in_order():
    """Sorted A to Z, which alone orders them alike on every computer, they begin with what a newcomer needs."""
    names = [file.stem for file in WORKFLOWS.glob("*.json")]
    assert sorted(names) == list(TEMPLATES) and list(TEMPLATES)[:2] == [START, CASCADE]
    assert len({(model_set.prefix, use) for model_set, use in TEMPLATES.values()}) == len(TEMPLATES) <= 16
    assert all(re.fullmatch(r"LaVie \d\d [\w -]{9,40}", name) for name in names), "safe as file names and addresses"


@pytest.mark.parametrize("name", [name for name, template in TEMPLATES.items() if template.use == "cascade"])
def test_several_stages_are_one_node_each(name):
    """The cascade's view: prompt, note, three stages and what they save; a face has what an artist changes."""
    model_set, graph = TEMPLATES[name].model_set, json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))
    stages = {d["name"]: next(n for n in graph["nodes"] if n["type"] == d["id"]) for d in definitions_of(graph)}
    assert list(stages) == ["Text to video", "Interpolation", "Super-resolution"]
    others = [node["type"] for node in graph["nodes"] if node not in stages.values()]
    assert sorted(others) == ["MarkdownNote", "PrimitiveStringMultiline", *["SaveVideo"] * 3]
    changed = {"prompt", "seed", "steps", "guidance", "model"}
    shared = model_set.stages["base"].text_encoder == model_set.stages["super_resolution"].text_encoder
    for name, more in (
        ("Text to video", {"width", "height", "frames", "text_encoder", "vae"}), ("Interpolation", set()),
        ("Super-resolution",
         {"noise_level", "constant_noise", "color_radius", "vae"} | (set() if shared else {"text_encoder"})),
    ):  # fmt: skip
        face = {slot["name"] for slot in stages[name]["inputs"] if "widget" in slot}
        assert face == changed | more


def assert_layout_is_clear(graph: dict) -> None:
    boxes = {n["id"]: (n["pos"][0], n["pos"][1] - TITLE_HEIGHT, n["pos"][0] + n["size"][0], n["pos"][1] + n["size"][1])
             for n in graph["nodes"]}  # fmt: skip
    groups = [(x, y, x + width, y + height) for x, y, width, height in (g["bounding"] for g in graph["groups"])]
    for a, b in [*combinations(boxes.values(), 2), *combinations(groups, 2)]:
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
    for node in graph["nodes"]:
        x, y, right, bottom = boxes[node["id"]]
        around = [g for g in groups if g[0] <= x and g[1] <= y and right <= g[2] and bottom <= g[3]]
        assert len(around) == 1 or node["type"] == "MarkdownNote", node["type"]
    for _, source, _, target, _, _ in graph["links"]:
        a, b = boxes[source], boxes[target]
        assert a[2] < b[0] or (a[0] == b[0] and a[3] < b[1])


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_note_names_every_file(file):
    graph = json.loads(file.read_text(encoding="utf-8"))
    (note,) = (node["widgets_values"][0] for node in graph["nodes"] if node["type"] == "MarkdownNote")
    for node in all_nodes(graph):
        for model in node["properties"].get("models", ()):
            assert f"`{model['directory']}/{model['name']}`" in note and f"({model['url']})" in note
        if node["type"] in ("LoadVideo", "LoadImage"):
            assert f"`{node['widgets_values'][0]}`" in note


def test_published_settings(comfyui):
    """Guidance, steps, spacing, sampler and prompts of the cascade as the authors' code has them."""
    api = comfyui.workflow("LaVie 05 Cascade - 4x frames and 4x size.json", prompt="PROMPT")
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
    stages, _, way = USES[BY_NAME[file.stem][1]]
    if way in ("prompts", "lora"):
        pytest.skip("it has two prompts")
    api = comfyui.workflow(file.name, prompt="PROMPT", seed=77)
    (prompt,) = (node for node, entry in api.items() if "PROMPT" in entry["inputs"].values())
    conditioned = [n["inputs"] for n in api.values() if "positive" in n["inputs"] and n["inputs"]["positive"][1] == 0]
    encoders = {node for inputs in conditioned for node in [inputs["positive"][0]]
                if api[node]["class_type"] == "CLIPTextEncode"}  # fmt: skip
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
    pictures = sorted(WORKFLOWS.glob("*.jpg"))
    assert {p.stem for p in pictures} == TEMPLATES.keys()
    for picture in pictures:
        assert min(Image.open(picture).size) >= 256 and picture.stat().st_size < 100_000


def test_docs_list_the_templates():
    text = (ROOT / "docs" / "templates.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(.+?)` \|", text, re.MULTILINE) == list(TEMPLATES)
