"""A workflow as a subgraph blueprint: one node in the browser's library that holds the whole graph.

Contract: the blueprint's only node is an instance of its only definition, as the browser saves blueprints. What is
typed into the instance reaches the widgets inside through links from the definition's inputs.
"""

from __future__ import annotations

import copy
import uuid
from typing import NamedTuple

INPUTS, OUTPUTS = -10, -20  # ids of the two boxes inside a subgraph that its inputs and outputs are linked to
BOX_WIDTH, BOX_GAP, SLOT = 160, 120, 20  # pixels


class Exposed(NamedTuple):
    """An input of the instance, and the widgets inside that it sets: (node id, name of the widget)."""

    label: str
    widgets: list[tuple[int, str]]


def blueprint(
    workflow: dict, name: str, description: str, origin: dict, result: int, exposed: list[Exposed]
) -> dict:
    """The nodes that lead to output 0 of node ``result``, as a blueprint whose only output that is.

    Args:
        origin: {"cnr_id", "ver"} of the pack that the blueprint belongs to.
    """
    kept = _leading_to(workflow, result)
    nodes = [copy.deepcopy(node) for node in workflow["nodes"] if node["id"] in kept]
    by_id = {node["id"]: node for node in nodes}
    links = [_link(*link) for link in workflow["links"] if link[3] in kept]
    alive = {link["id"] for link in links}
    for node in nodes:
        for output in node["outputs"]:
            output["links"] = [link for link in output["links"] if link in alive]
    inputs, values = [], []
    left = min(node["pos"][0] for node in nodes) - BOX_GAP
    right = max(node["pos"][0] + node["size"][0] for node in nodes) + BOX_GAP
    next_link = max(alive) + 1
    for number, (label, widgets) in enumerate(exposed):
        slot = {"id": _uuid(name, label), "name": label, "linkIds": [], "pos": [left - SLOT, SLOT * (number + 1)]}
        for node_id, widget in widgets:
            node = by_id[node_id]
            index, target = next((i, t) for i, t in enumerate(node["inputs"]) if t["name"] == widget)
            slot["type"], target["link"] = target["type"], next_link
            slot["linkIds"].append(next_link)
            links.append(_link(next_link, INPUTS, number, node_id, index, target["type"]))
            next_link += 1
        inputs.append(slot)
        values.append(_value(by_id[widgets[0][0]], widgets[0][1]))
    output = by_id[result]["outputs"][0]
    output["links"] = [next_link]
    links.append(_link(next_link, result, 0, OUTPUTS, 0, output["type"]))
    outgoing = {"id": _uuid(name, "result"), "name": output["name"], "type": output["type"], "linkIds": [next_link],
                "pos": [right + SLOT, SLOT]}  # fmt: skip
    definition = {
        "id": _uuid(name, "definition"), "version": 1, "revision": 0, "config": {}, "name": name,
        "description": description,
        "state": {"lastGroupId": len(workflow["groups"]), "lastNodeId": max(by_id), "lastLinkId": next_link,
                  "lastRerouteId": 0},
        "inputNode": {"id": INPUTS, "bounding": [left - BOX_WIDTH, 0, BOX_WIDTH, SLOT * (len(inputs) + 2)]},
        "outputNode": {"id": OUTPUTS, "bounding": [right, 0, BOX_WIDTH, SLOT * 3]},
        "inputs": inputs, "outputs": [outgoing], "widgets": [], "nodes": nodes, "groups": workflow["groups"],
        "links": links, "extra": {},
    }  # fmt: skip
    slots = [{"name": slot["name"], "type": slot["type"], "widget": {"name": slot["name"]}, "link": None}
             for slot in inputs]  # fmt: skip
    instance = {
        "id": 1, "type": definition["id"], "title": name, "pos": [0, 0], "size": [400, 60 + 24 * len(slots) + 90],
        "flags": {}, "order": 0, "mode": 0, "inputs": slots,
        "outputs": [{"name": outgoing["name"], "type": outgoing["type"], "links": []}],
        "properties": origin, "widgets_values": values,
    }  # fmt: skip
    return {
        "id": _uuid(name, "blueprint"), "revision": 0, "last_node_id": 1, "last_link_id": 0, "nodes": [instance],
        "links": [], "groups": [], "definitions": {"subgraphs": [definition]}, "config": {}, "extra": {},
        "version": 0.4,
    }  # fmt: skip


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


def _value(node: dict, widget: str):
    """What the widget of that name shows. No widget that is exposed stands behind one that has another behind it."""
    names = [slot["name"] for slot in node["inputs"] if "widget" in slot]
    return node["widgets_values"][names.index(widget)]


def _uuid(*parts: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, "/".join(parts)))
