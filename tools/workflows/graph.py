"""Workflows as the browser saves them (UI format), laid out and checked while they are put together.

Contract: a `WorkflowGraph` takes nodes in the order in which data flows: `add` puts one below the other into a column;
`column`, `group` and `note` go on to the right. `finish` gives the JSON-ready dictionary. A name, value or link that
the server's `/object_info` does not allow raises WorkflowError at the line that writes it.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import tomllib

from ...comfyui_api.graphs import WorkflowError
from ...place import OLDEST_COMFYUI, ROOT
from .view import GAP, place_note, whole_view

ROW, WIDGET_ROW, TEXT_ROW = 20, 24, 90  # pixels of a slot, of a widget, of a box for several lines of text
COLUMN_GAP = 40  # pixels between columns
TITLE, MARGIN = 80, 20  # pixels of a group above its first nodes and around them
WIDGET_TYPES = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COMFY_DYNAMICCOMBO_V3")
AUTOGROW = "COMFY_AUTOGROW_V3"  # an input that has a slot more than are connected
OPTIONAL_SHAPE = 7  # how the browser draws the slot of an optional input
GROUP_COLOR = "#3f789e"
GREEN, RED, BROWN = ({"color": color, "bgcolor": back} for color, back in
                     (("#232", "#353"), ("#322", "#533"), ("#432", "#653")))  # fmt: skip


class Output(NamedTuple):
    """One output slot of a node in the graph."""

    node: int
    slot: int
    type: str


class Input(NamedTuple):
    """What `/object_info` says about one input."""

    name: str
    type: str
    options: dict
    required: bool

    @property
    def is_widget(self) -> bool:
        return self.type in WIDGET_TYPES and not self.options.get("forceInput")

    @property
    def choices(self) -> list | None:
        """What a combo offers; None for every other type."""
        choices = self.options.get("options")
        return [c["key"] if isinstance(c, dict) else c for c in choices] if isinstance(choices, list) else None

    def default(self):
        """The browser's value where nobody chose one."""
        if "default" in self.options or not self.choices:
            return self.options.get("default", "" if self.type == "STRING" else None)
        return self.choices[0]

    def extra_widgets(self) -> list:
        """Values of the widgets that the browser puts behind this one: control of a seed, choice of a file."""
        control = ["fixed"] if self.options.get("control_after_generate") else []
        return control + (["image"] if self.is_upload else [])

    @property
    def is_upload(self) -> bool:
        """Whether the browser lets one choose a file of one's own, which need not be there yet."""
        return bool(self.options.get("video_upload") or self.options.get("image_upload"))


class Node:
    """A node in the graph; ``node["MODEL"]`` is its output of that name."""

    def __init__(self, entry: dict):
        self.entry = entry

    def __getitem__(self, name: str) -> Output:
        for slot, output in enumerate(self.entry["outputs"]):
            if output["name"] == name:
                return Output(self.entry["id"], slot, output["type"])
        raise WorkflowError(f"{self.entry['type']} has no output {name}")


class WorkflowGraph:
    """A workflow that grows from left to right.

    Args:
        name: of the file; the workflow's id follows from it.
        object_info: the running server's.
        origins: {python_module: {"cnr_id", "ver"}} of node packs; core's is that of every other module.
        models: {file name: {"name", "url", "directory"}} of files that can be downloaded.
    """

    def __init__(self, name: str, object_info: dict, origins: dict[str, dict], models: dict[str, dict]):
        self._info, self._origins, self._models = object_info, origins, models
        self._nodes, self._links, self._groups = [], [], []
        self._id = str(uuid.uuid5(uuid.NAMESPACE_URL, name))
        self._x, self._y, self._width, self._bottom = 0, 0, 0, 0
        self._note: dict | None = None

    @contextmanager
    def group(self, title: str) -> Iterator[None]:
        """A box around the columns that are made inside; the first begins at once."""
        self.column()
        left, self._bottom = self._x, 0
        yield
        self._close_column()
        bounding = [left - MARGIN, -MARGIN, self._x - COLUMN_GAP - left + 2 * MARGIN, self._bottom + 2 * MARGIN]
        self._groups.append({"id": len(self._groups) + 1, "title": title, "bounding": bounding, "color": GROUP_COLOR,
                             "font_size": 24, "flags": {}})  # fmt: skip

    def column(self) -> None:
        """Begin a column to the right of everything."""
        self._close_column()
        self._y = TITLE - MARGIN

    def _close_column(self) -> None:
        if self._width:
            self._x += self._width + COLUMN_GAP
        self._width = 0

    def note(self, title: str, text: str) -> None:
        """Markdown; `finish` gives it its place and size."""
        self._note = self._place({"type": "MarkdownNote", "inputs": [], "outputs": [], "properties": {},
                                  "widgets_values": [text], "title": title, **BROWN}, [0, 0])  # fmt: skip
        self._width, self._bottom, self._y = 0, 0, TITLE - MARGIN

    def add(self, class_type: str, node_width: int = 300, node_height: int | None = None, title: str | None = None,
            colors: dict | None = None, **values) -> Node:  # fmt: skip
        """A node below the last one.

        Args:
            values: every input that is not to keep its default: an `Output`, or a widget's value. Inputs whose names
                have a dot in them, such as ``values.a``, belong to the growing input before the dot.
        """
        if class_type not in self._info:
            raise WorkflowError(f"this ComfyUI has no node {class_type}")
        info, inputs = self._info[class_type], self._inputs(class_type, values)
        if unknown := values.keys() - {entry.name for entry in inputs}:
            raise WorkflowError(f"{class_type} has no inputs {', '.join(sorted(unknown))}")
        node_id = len(self._nodes) + 1
        slots, widgets = [], []
        for entry in sorted(inputs, key=lambda entry: entry.is_widget):  # sockets first, as the browser has them
            value = values.get(entry.name)
            slot = {"name": entry.name, "type": entry.type, "link": self._link(value, node_id, len(slots), entry)}
            if not entry.required:
                slot["shape"] = OPTIONAL_SHAPE
            if entry.is_widget:
                slot["widget"] = {"name": entry.name}
                widgets += [self._value(class_type, entry, value), *entry.extra_widgets()]
            elif entry.required and value is None:
                raise WorkflowError(f"{class_type}.{entry.name} must be connected")
            slots.append(slot)
        origin = self._origins.get(info["python_module"], self._origins["core"])
        properties = {"Node name for S&R": class_type, **origin}
        if models := [self._models[value] for value in widgets if isinstance(value, str) and value in self._models]:
            properties["models"] = models
        outputs = [{"name": name, "type": kind, "links": []}
                   for name, kind in zip(info["output_name"], info["output"], strict=True)]  # fmt: skip
        entry = {"type": class_type, "inputs": slots, "outputs": outputs, "properties": properties,
                 "widgets_values": widgets, **({"title": title} if title else {}), **(colors or {})}  # fmt: skip
        return Node(self._place(entry, [node_width, node_height or _height(inputs, values, len(outputs))]))

    def _place(self, entry: dict, size: list[int]) -> dict:
        node_id = len(self._nodes) + 1
        self._nodes.append({"id": node_id, "pos": [self._x, self._y], "size": size, "flags": {}, "order": node_id - 1,
                            "mode": 0, **entry})  # fmt: skip
        self._width = max(self._width, size[0])
        self._bottom = max(self._bottom, self._y + size[1])
        self._y += size[1] + GAP
        return self._nodes[-1]

    def _inputs(self, class_type: str, values: dict) -> list[Input]:
        """All inputs of a node, required ones first; growing inputs as the slots that `values` fill and one more."""
        found, described = [], self._info[class_type]["input"]
        for part in ("required", "optional"):
            for name, (kind, *options) in described.get(part, {}).items():
                options = {**(options[0] if options else {}), **({"options": kind} if isinstance(kind, list) else {})}
                kind = "COMBO" if isinstance(kind, list) else kind
                if kind != AUTOGROW:
                    found.append(Input(name, kind, options, part == "required"))
                    continue
                template, used = options["template"], [key for key in values if key.startswith(name + ".")]
                ((kind, _),) = template["input"]["required"].values()
                for count, suffix in enumerate(template["names"][: len(used) + 1]):
                    found.append(Input(f"{name}.{suffix}", kind, {}, count < template["min"]))
        return found

    def _link(self, value, node_id: int, slot: int, entry: Input) -> int | None:
        if not isinstance(value, Output):
            return None
        if value.type not in entry.type.split(","):
            raise WorkflowError(f"input {entry.name} takes {entry.type}, not {value.type}")
        link = len(self._links) + 1
        self._links.append([link, value.node, value.slot, node_id, slot, value.type])
        self._nodes[value.node - 1]["outputs"][value.slot]["links"].append(link)
        return link

    @staticmethod
    def _value(class_type: str, entry: Input, value):
        """What the widget shows; a linked one keeps its default."""
        if value is None or isinstance(value, Output):
            return entry.default()
        is_file = "Loader" in class_type or entry.is_upload  # need not be there
        if entry.choices is not None and value not in entry.choices and not is_file:
            raise WorkflowError(f"{class_type}.{entry.name} offers {', '.join(map(str, entry.choices))}, not {value}")
        return value

    def finish(self) -> dict:
        """The workflow as the browser saves it."""
        if self._note:
            place_note(self._note, [node for node in self._nodes if node is not self._note], self._groups)
        return {
            "id": self._id, "revision": 0, "last_node_id": len(self._nodes), "last_link_id": len(self._links),
            "nodes": self._nodes, "links": self._links, "groups": self._groups, "config": {},
            "extra": {"ds": whole_view(self._groups)}, "version": 0.4,
        }  # fmt: skip


def _height(inputs: list[Input], values: dict, outputs: int) -> int:
    """Pixels that a node needs for its slots and widgets; text that another node gives has no box."""
    widgets = [entry for entry in inputs if entry.is_widget]
    rows = sum(1 + len(entry.extra_widgets()) for entry in widgets)
    boxes = sum(bool(e.options.get("multiline")) and not isinstance(values.get(e.name), Output) for e in widgets)
    slots = max(len(inputs) - len(widgets), outputs)
    return ROW * slots + WIDGET_ROW * (rows - boxes) + TEXT_ROW * boxes + (14 if widgets else 6)


def origins() -> dict[str, dict]:
    """What a workflow says about where its nodes come from, by ComfyUI's name of the module."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    return {
        "core": {"cnr_id": "comfy-core", "ver": ".".join(map(str, OLDEST_COMFYUI))},
        "custom_nodes.lavie": {"cnr_id": "lavie", "ver": version},
    }


def workflow_text(workflow: dict) -> str:
    """JSON with a line for each node, link and group."""
    lines = []
    for key, value in workflow.items():
        text = json.dumps(value, ensure_ascii=False)
        if isinstance(value, list) and value:
            text = "[\n" + ",\n".join(f"  {json.dumps(item, ensure_ascii=False)}" for item in value) + "\n ]"
        lines.append(f" {json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(lines) + "\n}\n"
