"""Workflow files: read in either of ComfyUI's formats, their inputs set, their outputs listed.

Contract: an *API workflow* is what the server executes, {node id: {"class_type": ..., "inputs": {name: value or
[node id, output index]}}}; a *UI workflow* is what the browser saves. Conversion needs the server's `/object_info`.
"""

from __future__ import annotations

import json
from pathlib import Path

from comfy_cli.workflow_to_api import WorkflowConversionError, convert_ui_to_api, is_api_format

SEED_INPUTS = ("seed", "noise_seed")
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
        _set_values(api, SEED_INPUTS, seed)
    for name, value in inputs.items():
        _set_values(api, (name,), value)
    return api


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
    return found[max(found, key=lambda node: len(_ancestors(api, node)))][0]


def _ancestors(api: dict, node_id: str) -> set[str]:
    """All nodes that lead to a node, itself among them."""
    found, waiting = set(), [node_id]
    while waiting:
        node = waiting.pop()
        if node not in found and node in api:
            found.add(node)
            waiting += [value[0] for value in api[node]["inputs"].values() if _is_link(value)]
    return found


def _set_values(api: dict, names: tuple[str, ...], value) -> None:
    found = False
    for node in api.values():
        for name in names:
            if name in node["inputs"] and not _is_link(node["inputs"][name]):
                node["inputs"][name] = value
                found = True
    if not found:
        raise WorkflowError(f"this workflow has no input {' or '.join(names)} to set")


def _positive_texts(api: dict) -> set[tuple[str, str]]:
    """(node id, input name) of every text that reaches a `positive` input (failing that, a guider's conditioning)."""
    for wanted in CONDITIONING_INPUTS:
        links = [n["inputs"][wanted] for n in api.values() if _is_link(n["inputs"].get(wanted))]
        if found := {text for link in links for text in _texts_behind(api, link[0], set())}:
            return found
    raise WorkflowError("no text in this workflow reaches a `positive` input; write the prompt into the file itself")


def _texts_behind(api: dict, node_id: str, seen: set[str]) -> set[tuple[str, str]]:
    """The texts that node `node_id` gets its conditioning from, whatever nodes lie between.

    Of texts that a node puts together, the first that is typed elsewhere counts, or else the first: the rest is added
    to every prompt.
    """
    if node_id in seen or node_id not in api:
        return set()
    seen.add(node_id)
    inputs = api[node_id]["inputs"]
    texts = [name for name in TEXT_INPUTS if isinstance(inputs.get(name), str) or _is_link(inputs.get(name))]
    for name in texts:
        if _is_link(inputs[name]) and (found := _texts_behind(api, inputs[name][0], seen)):
            return found
    for name in texts:
        if not _is_link(inputs[name]):
            return {(node_id, name)}
    for wanted in CONDITIONING_INPUTS:
        links = [value for name, value in inputs.items() if name.startswith(wanted) and _is_link(value)]
        if links:
            return {text for link in links for text in _texts_behind(api, link[0], seen)}
    return set()


def _is_link(value) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int)
