"""Workflow files: read in either of ComfyUI's formats, their inputs set, their outputs listed.

Contract: an *API workflow* is what the server executes, {node id: {"class_type": ..., "inputs": {name: value or
[node id, output index]}}}; a *UI workflow* is what the browser saves. Conversion needs the server's `/object_info`.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
from pathlib import Path

from comfy_cli.workflow_to_api import WorkflowConversionError, convert_ui_to_api, is_api_format

SEED_INPUTS = ("seed", "noise_seed")
SEED_SOURCES = (*SEED_INPUTS, "value", "int", "number")  # of a node whose output is a seed
CONDITIONING_INPUTS = ("positive", "conditioning", "cond")
TEXT_INPUTS = ("text", "prompt", "value", "string", "string_a", "string_b")


class WorkflowError(Exception):
    """A workflow that cannot be read, that the server refused, or that failed while it ran."""


def load_workflow(path: Path | str, object_info: dict) -> dict:
    """Read a workflow file of either format and return it as an API workflow. Raises WorkflowError."""
    try:
        workflow = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WorkflowError(f"{path} cannot be read as JSON: {error}") from None
    return to_api(workflow, object_info)


def to_api(workflow: dict, object_info: dict) -> dict:
    """The API form of a workflow of either format. Raises WorkflowError, also for nodes the server does not know."""
    try:
        api = convert_ui_to_api(workflow, object_info)
    except WorkflowConversionError as error:
        raise WorkflowError(f"this is not a ComfyUI workflow: {error}") from None
    if not api or not is_api_format(api):
        raise WorkflowError("this workflow has no nodes; save it again from ComfyUI")
    if unknown := sorted({node["class_type"] for node in api.values()} - object_info.keys()):
        raise WorkflowError(f"this ComfyUI has no nodes {', '.join(unknown)}; install the node packs they come from")
    return api


def set_inputs(api: dict, prompt: str | None = None, seed: int | None = None, **inputs) -> dict:
    """Change an API workflow in place and return it; what is None stays as it is.

    `prompt`: the text whose conditioning the samplers or guiders take as `positive`. `seed`: every seed. Any other
    keyword, such as `steps=25`: every input of that name that is a value and not a link. Raises WorkflowError if
    the workflow has no such input.
    """
    if prompt is not None:
        for node, name in _positive_texts(api):
            api[node]["inputs"][name] = prompt
    if seed is not None:
        for node, name in _seeds(api):
            api[node]["inputs"][name] = seed
    for name, value in inputs.items():
        _set_values(api, (name,), value)
    return api


def digest_of(api: dict) -> str:
    """SHA-256 of an API workflow, prompt and seed left out; key order does not matter. Raises WorkflowError.

    Two clips of equal digest, prompt, seed and weights are the same.
    """
    graph = set_inputs(copy.deepcopy(api), prompt="", seed=0)
    return hashlib.sha256(json.dumps(graph, sort_keys=True).encode()).hexdigest()


def settings_of(api: dict, names: tuple[str, ...]) -> dict:
    """{name: value} of those inputs that are values; a list, in the order of the nodes, where they differ."""
    found: dict[str, list] = {}
    for node in api.values():
        for name in names:
            if name in node["inputs"] and not is_link(node["inputs"][name]):
                found.setdefault(name, []).append(node["inputs"][name])
    return {name: values[0] if all(v == values[0] for v in values) else values for name, values in found.items()}


def parse_setting(text: str) -> tuple[str, object]:
    """INPUT=VALUE of a command line, for `set_inputs`; the value as JSON if it is, else as text. For argparse."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError(f"expected INPUT=VALUE, such as steps=25, got {text}")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def saved_files(outputs: dict, suffix: str = "") -> list[dict]:
    """The files among a run's outputs, {"filename", "subfolder", "type"} each, whose names end with `suffix`."""
    entries = [e for node in outputs.values() for kind in node.values() if isinstance(kind, list) for e in kind]
    return [e for e in entries if isinstance(e, dict) and e.get("filename", "").endswith(suffix)]


def last_saved(api: dict, outputs: dict, suffix: str) -> dict:
    """The file that a run's final node saved: of all that saved one, the node that most others lead to.

    Raises WorkflowError if no node saved a file of that kind.
    """
    found = {node: files for node, entries in outputs.items() if (files := saved_files({node: entries}, suffix))}
    if not found:
        raise WorkflowError(f"the workflow ran but saved no {suffix}; end it with nodes Create Video and Save Video")
    return found[max(found, key=lambda node: len(ancestors(api, node)))][0]


def ancestors(api: dict, node_id: str) -> set[str]:
    """All nodes that lead to a node, itself among them."""
    found, waiting = set(), [node_id]
    while waiting:
        node = waiting.pop()
        if node not in found and node in api:
            found.add(node)
            waiting += [value[0] for value in api[node]["inputs"].values() if is_link(value)]
    return found


def _set_values(api: dict, names: tuple[str, ...], value) -> None:
    found = False
    for node in api.values():
        for name in names:
            if name in node["inputs"] and not is_link(node["inputs"][name]):
                node["inputs"][name] = value
                found = True
    if not found:
        raise WorkflowError(f"this workflow has no input {' or '.join(names)} to set")


def _seeds(api: dict) -> set[tuple[str, str]]:
    """(node id, input name) of every seed, also of one that another node hands over. Raises WorkflowError if none."""
    found = set()
    for node_id, node in api.items():
        for name in SEED_INPUTS:
            value = node["inputs"].get(name)
            if not is_link(value):
                found |= {(node_id, name)} if value is not None else set()
            elif source := api.get(value[0]):
                held = [s for s in SEED_SOURCES if isinstance(source["inputs"].get(s), int)]
                found |= {(value[0], held[0])} if held else set()
    if not found:
        raise WorkflowError(
            f"this workflow has no seed to set: expected a node with an input {' or '.join(SEED_INPUTS)}, "
            "such as KSampler or RandomNoise"
        )
    return found


def _positive_texts(api: dict) -> set[tuple[str, str]]:
    """(node id, input name) of every text that reaches a `positive` input (failing that, a guider's conditioning)."""
    for wanted in CONDITIONING_INPUTS:
        links = [n["inputs"][wanted] for n in api.values() if is_link(n["inputs"].get(wanted))]
        if found := {text for link in links for text in _texts_behind(api, link[0], set())}:
            return found
    raise WorkflowError(
        "this workflow has no prompt to set: no text reaches an input `positive` of a sampler or `conditioning` of a "
        "guider; write the prompt into the file itself"
    )


def _texts_behind(api: dict, node_id: str, seen: set[str]) -> set[tuple[str, str]]:
    """The texts that node `node_id` gets its conditioning from, whatever nodes lie between.

    Of texts that a node puts together, the first that is typed elsewhere counts, or else the first: the rest is added
    to every prompt.
    """
    if node_id in seen or node_id not in api:
        return set()
    seen.add(node_id)
    inputs = api[node_id]["inputs"]
    texts = [name for name in TEXT_INPUTS if isinstance(inputs.get(name), str) or is_link(inputs.get(name))]
    for name in texts:
        if is_link(inputs[name]) and (found := _texts_behind(api, inputs[name][0], seen)):
            return found
    for name in texts:
        if not is_link(inputs[name]):
            return {(node_id, name)}
    for wanted in CONDITIONING_INPUTS:
        links = [value for name, value in inputs.items() if name.startswith(wanted) and is_link(value)]
        if links:
            return {text for link in links for text in _texts_behind(api, link[0], seen)}
    return set()


def is_link(value) -> bool:
    """Whether an input's value is another node's output."""
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int)
