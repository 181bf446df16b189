"""The model files that a workflow loads: whether the server has them, and what they are.

Contract: a file is known by its SHA-256, computed where the caller runs. It is taken for the server's own only if path,
size and time of change are those that the server lists, as on one machine or a shared disk.
"""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path

from ..files import sha256_of
from .client import Client, NotServed
from .graphs import WorkflowError

SUFFIXES = (".safetensors", ".sft", ".ckpt", ".pt", ".pt2", ".pth", ".bin", ".pkl", ".gguf", ".onnx")
UNKNOWN = "unknown: "
SAME_TIME_S = 2.0  # some file systems round


def check_models(api: dict, object_info: dict) -> None:
    """Raise WorkflowError that names every model file which the nodes of an API workflow cannot choose."""
    missing = []
    for node_id, class_type, name, file in _model_inputs(api):
        choices = _choices(object_info, class_type, name)
        if choices is not None and file not in choices:
            near = get_close_matches(file, choices, 3, 0.3) or choices[:3]
            offered = f"it offers {', '.join(near)}" if near else "it has no such file at all"
            missing.append(f"{class_type} (node {node_id}) wants {name} = {file}; {offered}")
    if missing:
        raise WorkflowError(
            "the server lacks models of this workflow:\n"
            + "\n".join(f"  {line}" for line in missing)
            + "\nPut the files into the server's models folder, or name others in the workflow or by --set."
        )


def model_digests(client: Client, api: dict) -> dict[str, str]:
    """{file name as the graph has it: SHA-256, or "unknown: " and why} of the model files an API workflow loads.

    A name that stands for different files in several folders appears once for each, as "folder/name".
    """
    names = sorted({file for _, _, _, file in _model_inputs(api)})
    if not names:
        return {}
    try:
        listed = [(folder, entry) for folder in client.get("/experiment/models")
                  for entry in client.get(f"/experiment/models/{folder['name']}")]  # fmt: skip
    except NotServed:
        return dict.fromkeys(names, f"{UNKNOWN}the server does not list its model files")
    found: dict[str, str] = {}
    for name in names:
        digests: dict[str, str] = {}
        for folder, entry in listed:
            if entry["name"] == name:
                digests[f"{folder['name']}/{name}"] = _digest(Path(folder["folders"][entry["pathIndex"]], name), entry)
        if not digests:
            found[name] = f"{UNKNOWN}the server does not list it"
        elif len(set(digests.values())) == 1:
            found[name] = next(iter(digests.values()))
        else:
            found |= digests
    return found


def _digest(path: Path, entry: dict) -> str:
    try:
        facts = path.stat()
        if facts.st_size == entry["size"] and abs(facts.st_mtime - entry["modified"]) < SAME_TIME_S:
            return sha256_of(path)
    except OSError:
        pass
    return f"{UNKNOWN}the file is on another machine"


def _model_inputs(api: dict) -> Iterator[tuple[str, str, str, str]]:
    """(node id, class, input name, file) of every input that names a model file."""
    for node_id, node in api.items():
        for name, value in node["inputs"].items():
            if isinstance(value, str) and value.lower().endswith(SUFFIXES):
                yield node_id, node["class_type"], name, value


def _choices(object_info: dict, class_type: str, name: str) -> list[str] | None:
    """What an input offers, None if it takes any text."""
    groups = object_info[class_type]["input"]
    kind, *options = groups.get("required", {}).get(name) or groups.get("optional", {}).get(name) or [None]
    if isinstance(kind, list):
        return kind
    return options[0].get("options") if kind == "COMBO" and options else None
