"""Nodes of a workflow folded into one: a subgraph, whose face shows what an artist changes.

Contract: `fold` takes some nodes of a workflow in UI format and gives the subgraph's definition and the instance that
stands for it. Links that cross the border become inputs and outputs of both; what is typed into the instance reaches
the widgets inside through links from the definition's inputs, as the browser has it.
"""

from __future__ import annotations

import copy
import uuid
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from ...comfyui_api.graphs import SEED_INPUTS

INPUTS, OUTPUTS = -10, -20  # ids of the two boxes inside a subgraph that its inputs and outputs are linked to
BOX_WIDTH, BOX_GAP, SLOT = 160, 120, 20  # pixels
WIDTH, HEAD, ROW = 400, 60, 26  # pixels of an instance, of its frame, of a widget


class Exposed(NamedTuple):
    """An input on the face of a subgraph, and the widgets inside that it sets: (node id, name of the widget)."""

    label: str
    widgets: list[tuple[int, str]]


class Folded(NamedTuple):
    """A subgraph, the node that stands for it, and {(node id, slot) outside or inside: slot of the instance}.

    ``sources``: instance input by the outside output that feeds it. ``results``: instance output by the inside output.
    """

    definition: dict
    instance: dict
    sources: dict[tuple[int, int], int]
    results: dict[tuple[int, int], int]


def fold(
    workflow: dict, name: str, description: str, members: set[int], exposed: Sequence[Exposed], origin: dict,
    results: Sequence[tuple[int, int]] = (), labels: Mapping[tuple[int, int], str] = MappingProxyType({}),
) -> Folded:  # fmt: skip
    """Fold nodes of a workflow into a subgraph.

    Args:
        members: ids of the nodes inside.
        exposed: widgets that the face shows; a widget that is linked inside cannot be among them.
        origin: {"cnr_id", "ver"} of the pack that the subgraph belongs to.
        results: (node id, slot) of outputs that the face has although nothing outside takes them.
        labels: names of inputs by the outside output, (node id, slot), that feeds them; else the inner slot's name.
    """
    nodes = {node["id"]: copy.deepcopy(node) for node in workflow["nodes"] if node["id"] in members}
    inner = [_link(*link) for link in workflow["links"] if link[1] in members and link[3] in members]
    incoming = [link for link in workflow["links"] if link[1] not in members and link[3] in members]
    outgoing = [link for link in workflow["links"] if link[1] in members and link[3] not in members]
    kept = {link["id"] for link in inner}
    for node in nodes.values():
        for output in node["outputs"]:
            output["links"] = [link for link in output["links"] if link in kept]
    next_link = 1 + max((link[0] for link in workflow["links"]), default=0)
    border = _Border(name, workflow["id"], nodes, inner, next_link)
    sources: dict[tuple[int, int], int] = {}
    for _, source, slot, target, index, kind in incoming:
        number = sources.setdefault((source, slot), len(sources))
        border.let_in(number, labels.get((source, slot), nodes[target]["inputs"][index]["name"]), kind, target, index)
    for label, widgets in exposed:
        number = len(border.inputs)
        for node_id, widget in widgets:
            index, slot = next((i, s) for i, s in enumerate(nodes[node_id]["inputs"]) if s["name"] == widget)
            border.let_in(number, label, slot["type"], node_id, index)
    outputs: dict[tuple[int, int], int] = {}
    for place in dict.fromkeys([*((link[1], link[2]) for link in outgoing), *results]):
        outputs[place] = len(outputs)
        border.let_out(place)
    groups = [group for group in workflow["groups"] if any(_inside(node, group) for node in nodes.values())]
    definition = border.definition(description, groups)
    return Folded(definition, _instance(definition, border.values, origin), sources, outputs)


class _Border:
    """The inputs and outputs of a subgraph in the making, and the links from and to them."""

    def __init__(self, name: str, workflow_id: str, nodes: dict[int, dict], links: list[dict], next_link: int):
        self.name, self.key, self.nodes, self.links = name, f"{workflow_id}/{name}", nodes, links
        self.next_link = next_link
        self.inputs: list[dict] = []
        self.outputs: list[dict] = []
        self.values: dict[str, object] = {}  # of the widgets on the face, by the input's name
        self.left = min(node["pos"][0] for node in nodes.values()) - BOX_GAP
        self.right = max(node["pos"][0] + node["size"][0] for node in nodes.values()) + BOX_GAP

    def let_in(self, number: int, label: str, kind: str, target: int, index: int) -> None:
        """Link input ``number``, new or there already, to a slot inside."""
        if number == len(self.inputs):
            taken = {slot["name"] for slot in self.inputs}
            label = label if label not in taken else f"{label}_{number}"
            self.inputs.append({"id": _uuid(self.key, label), "name": label, "type": kind, "linkIds": [],
                                "pos": [self.left - SLOT, SLOT * (number + 1)]})  # fmt: skip
            if "widget" in (slot := self.nodes[target]["inputs"][index]):
                self.values[label] = widget_value(self.nodes[target], slot["name"])
        self.inputs[number]["linkIds"].append(self.next_link)
        self.nodes[target]["inputs"][index]["link"] = self.next_link
        self.links.append(_link(self.next_link, INPUTS, number, target, index, kind))
        self.next_link += 1

    def let_out(self, place: tuple[int, int]) -> None:
        """Link an output inside to a new output of the subgraph."""
        output = self.nodes[place[0]]["outputs"][place[1]]
        number = len(self.outputs)
        output["links"].append(self.next_link)
        self.links.append(_link(self.next_link, *place, OUTPUTS, number, output["type"]))
        self.outputs.append({"id": _uuid(self.key, f"result {number}"), "name": output["name"], "type": output["type"],
                             "linkIds": [self.next_link], "pos": [self.right + SLOT, SLOT * (number + 1)]})  # fmt: skip
        self.next_link += 1

    def definition(self, description: str, groups: list[dict]) -> dict:
        """What a workflow file holds of the subgraph."""
        return {
            "id": _uuid(self.key, "definition"), "version": 1, "revision": 0, "config": {}, "name": self.name,
            "description": description,
            "state": {"lastGroupId": max((group["id"] for group in groups), default=0), "lastNodeId": max(self.nodes),
                      "lastLinkId": self.next_link - 1, "lastRerouteId": 0},
            "inputNode": {"id": INPUTS, "bounding": [self.left - BOX_WIDTH, 0, BOX_WIDTH, _box(self.inputs)]},
            "outputNode": {"id": OUTPUTS, "bounding": [self.right, 0, BOX_WIDTH, _box(self.outputs)]},
            "inputs": self.inputs, "outputs": self.outputs, "widgets": [], "nodes": list(self.nodes.values()),
            "groups": groups, "links": self.links, "extra": {},
        }  # fmt: skip


def blueprint(workflow: dict, name: str, description: str, origin: dict, result: int, exposed: list[Exposed]) -> dict:
    """The nodes that lead to output 0 of node ``result``, as a blueprint of the browser's library: one instance."""
    members = _leading_to(workflow, result)
    alone = {**workflow, "links": [link for link in workflow["links"] if link[3] in members]}  # nothing else is fed
    folded = fold(alone, name, description, members, exposed, origin, [(result, 0)])
    instance = {"id": 1, **folded.instance, "order": 0, "pos": [0, 0]}
    return {
        "id": _uuid(name, "blueprint"), "revision": 0, "last_node_id": 1, "last_link_id": 0, "nodes": [instance],
        "links": [], "groups": [], "definitions": {"subgraphs": [folded.definition]}, "config": {}, "extra": {},
        "version": 0.4,
    }  # fmt: skip


def _instance(definition: dict, values: dict[str, object], origin: dict) -> dict:
    """The node that stands for a subgraph; inputs with ``values`` are widgets too."""
    slots = [
        {"name": slot["name"], "type": slot["type"], "link": None}
        | ({"widget": {"name": slot["name"]}} if slot["name"] in values else {})
        for slot in definition["inputs"]
    ]
    sockets = max(len(slots) - len(values), len(definition["outputs"]))
    return {
        "type": definition["id"], "title": definition["name"], "flags": {}, "mode": 0, "inputs": slots,
        "size": [WIDTH, HEAD + SLOT * sockets + ROW * len(values)],
        "outputs": [{"name": slot["name"], "type": slot["type"], "links": []} for slot in definition["outputs"]],
        "properties": origin, "widgets_values": list(values.values()),
    }  # fmt: skip


def _inside(node: dict, group: dict) -> bool:
    x, y, width, height = group["bounding"]
    return x <= node["pos"][0] < x + width and y <= node["pos"][1] < y + height


def _box(slots: list[dict]) -> int:
    return SLOT * (len(slots) + 2)


def _leading_to(workflow: dict, node_id: int) -> set[int]:
    found, waiting = set(), [node_id]
    while waiting:
        if (node := waiting.pop()) not in found:
            found.add(node)
            waiting += [link[1] for link in workflow["links"] if link[3] == node]
    return found


def _link(link: int, source: int, output: int, target: int, slot: int, kind: str) -> dict:
    return {"id": link, "origin_id": source, "origin_slot": output, "target_id": target, "target_slot": slot,
            "type": kind}  # fmt: skip


def widget_value(node: dict, widget: str):
    """What the widget of that name shows; behind a seed stands the browser's own choice of what becomes of it."""
    values = iter(node["widgets_values"])
    for slot in node["inputs"]:
        if "widget" in slot:
            value = next(values)
            if slot["name"] == widget:
                return value
            if slot["name"] in SEED_INPUTS:
                next(values)
    raise KeyError(f"{node['type']} has no widget {widget}")


def _uuid(*parts: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, "/".join(parts)))
