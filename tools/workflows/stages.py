"""A workflow with each stage folded into one node: the whole cascade in one view.

Contract: `fold_stages` takes the flat workflow and what belongs to which stage; prompt, note, the video that it starts
from and the nodes that save videos stay outside. What an artist changes is on each stage's face: prompt, sizes, seed,
steps, guidance, files.
"""

from __future__ import annotations

from typing import NamedTuple

from .graph import GROUP_COLOR, MARGIN, TITLE
from .subgraph import Exposed, Folded, fold, widget_value
from .view import GAP, place_note, whole_view
from .ways import FRAMES_WITH, FRAMES_WITHOUT, encode_title

FACE = (  # label: the widgets that it sets, by type or title of their nodes; those of them that a stage has
    ("prompt", {encode_title("Positive"): "text"}),
    ("width", {"EmptyLaVieLatent": "width"}),
    ("height", {"EmptyLaVieLatent": "height"}),
    ("frames", {"EmptyLaVieLatent": "frames"}),
    ("noise_level", {"LaVieSuperResolutionConditioning": "noise_level"}),
    ("constant_noise", {"LaVieSuperResolutionConditioning": "constant_noise"}),
    ("seed", {"RandomNoise": "noise_seed", "KSampler": "seed", "LaVieSuperResolutionConditioning": "seed"}),
    ("steps", {"LaVieScheduler": "steps", "KSampler": "steps"}),
    ("guidance", {"CFGGuider": "cfg", "KSampler": "cfg"}),
    ("denoise", {"LaVieScheduler": "denoise", "KSampler": "denoise"}),
    ("color_radius", {"LaVieDecodeToVideo": "radius"}),
    ("total_frames", {"LaVieExtendVideo": "total_frames"}),
    ("frames_without_lora", {FRAMES_WITHOUT: "batch_size"}),
    ("frames_with_lora", {FRAMES_WITH: "batch_size"}),
    ("lora", {"CreateHookLora": "lora_name"}),
    ("lora_strength", {"CreateHookLora": "strength_model"}),
    ("model", {f"LaVie{stage}ModelLoader": "model_name" for stage in ("Base", "Interpolation", "SuperResolution")}),
    ("text_encoder", {"LaVieTextEncoderLoader": "text_encoder_name"}),
    ("vae", {"LaVieVAELoader": "vae_name"}),
)
TITLED = ("LoadImage", "PrimitiveStringMultiline")  # nodes whose titles name the inputs that they feed
OUTSIDE = (*TITLED, "SaveVideo", "MarkdownNote")


class StagePart(NamedTuple):
    """A stage of a flat workflow: its title, what it does, and the ids of its nodes."""

    title: str
    description: str
    members: set[int]


def fold_stages(workflow: dict, parts: list[StagePart], origin: dict) -> dict:
    """The workflow with each stage as one node, its video saved below it; note and prompt stand to the left.

    Args:
        origin: {"cnr_id", "ver"} of the pack that the subgraphs belong to.
    """
    by_id = {node["id"]: node for node in workflow["nodes"]}
    inside = {node for part in parts for node in part.members if by_id[node]["type"] not in OUTSIDE}
    root = _Root(workflow, [node for node in workflow["nodes"] if node["id"] not in inside])
    note = next(node for node in root.outside if node["type"] == "MarkdownNote")
    labels = {(n["id"], 0): n["title"].lower().replace(" ", "_") for n in root.outside if n["type"] in TITLED}
    root.put_start(workflow["groups"][0])
    definitions = []
    for part in parts:
        members = part.members & inside
        folded = fold(workflow, part.title, part.description, members, _face(by_id, members), origin,
                      labels=labels)  # fmt: skip
        definitions.append(folded.definition)
        root.put_stage(part.title, folded, [by_id[n] for n in sorted(part.members) if by_id[n]["type"] == "SaveVideo"])
    return root.finish(definitions, note)


def _face(by_id: dict[int, dict], members: set[int]) -> list[Exposed]:
    """The widgets of FACE that a stage has and that nothing is linked to."""
    found = []
    for label, wanted in FACE:
        nodes = [by_id[node] for node in sorted(members)]
        named = [(n, wanted.get(n["type"]) or wanted.get(n.get("title"))) for n in nodes]
        widgets = [(n["id"], widget) for n, widget in named if widget and _is_free(n, widget)]
        if widgets and not (label == "denoise" and widget_value(by_id[widgets[0][0]], "denoise") == 1.0):
            found.append(Exposed(label, widgets))
    return found


def _is_free(node: dict, widget: str) -> bool:
    """Whether nothing is linked to a widget."""
    return next(slot for slot in node["inputs"] if slot["name"] == widget)["link"] is None


class _Root:
    """The outer graph in the making: columns from left to right, and links between what stands in them."""

    def __init__(self, workflow: dict, outside: list[dict]):
        self._flat = workflow
        self._nodes, self._links, self._groups = [], [], []
        self._next_id = 1 + max(node["id"] for node in workflow["nodes"])
        self._made: dict[tuple[int, int], tuple[int, int, dict]] = {}  # flat output: (node, slot, its entry) outside
        self._x, self.outside = 0, outside
        for node in outside:
            for slot, output in enumerate(node["outputs"]):
                output["links"] = []
                self._made[node["id"], slot] = (node["id"], slot, output)

    def put_start(self, group: dict) -> None:
        """What the stages start from, prompt or video, as the flat workflow's first group has it."""
        width = group["bounding"][2] - 2 * MARGIN
        start = [node for node in self.outside if node["type"] not in ("SaveVideo", "MarkdownNote")]
        self._nodes += start
        self._groups.append(group)
        self._x = width + GAP
        ids = {node["id"] for node in start}
        for _, source, output, target, slot, _ in self._flat["links"]:
            if source in ids and target in ids:
                self._connect((source, output), next(n for n in start if n["id"] == target), slot)

    def put_stage(self, title: str, folded: Folded, saving: list[dict]) -> None:
        """A column: the stage, and the nodes that save what it makes."""
        instance = {"id": self._next_id, **folded.instance}
        self._next_id += 1
        for place, slot in folded.results.items():
            self._made[place] = (instance["id"], slot, instance["outputs"][slot])
        for place, slot in folded.sources.items():
            self._connect(place, instance, slot)
        for node in saving:
            (link,) = (link for link in self._flat["links"] if link[3] == node["id"])
            self._connect((link[1], link[2]), node, link[4])
            node["size"][0] = instance["size"][0]
        bottom = self._put([instance, *saving], TITLE - MARGIN)
        self._close(title, bottom, max(node["size"][0] for node in (instance, *saving)))

    def _connect(self, source: tuple[int, int], node: dict, slot: int) -> None:
        origin, output, entry = self._made[source]
        link = len(self._links) + 1
        self._links.append([link, origin, output, node["id"], slot, entry["type"]])
        entry["links"].append(link)
        node["inputs"][slot]["link"] = link

    def _put(self, nodes: list[dict], y: int) -> int:
        for node in nodes:
            node["pos"], node["order"] = [self._x, y], len(self._nodes)
            self._nodes.append(node)
            y += node["size"][1] + GAP
        return y - GAP

    def _close(self, title: str, bottom: int, width: int) -> None:
        bounding = [self._x - MARGIN, -MARGIN, width + 2 * MARGIN, bottom + 2 * MARGIN]
        self._groups.append({"id": len(self._groups) + 1, "title": title, "bounding": bounding, "color": GROUP_COLOR,
                             "font_size": 24, "flags": {}})  # fmt: skip
        self._x += width + GAP

    def finish(self, definitions: list[dict], note: dict) -> dict:
        """The workflow as the browser saves it."""
        place_note(note, self._nodes, self._groups)
        self._nodes.append(note)
        return {
            **self._flat, "last_node_id": self._next_id - 1, "last_link_id": len(self._links), "nodes": self._nodes,
            "links": self._links, "groups": self._groups, "definitions": {"subgraphs": definitions},
            "extra": {"ds": whole_view(self._groups)},
        }  # fmt: skip
