"""Every published template on the published weights, where a folder of them is given; a sheet of each one's frames."""

from __future__ import annotations

import json
import time
from pathlib import Path

from ...comfyui_api.graphs import WorkflowError, last_saved, load_workflow
from ...comfyui_api.server import ComfyUIServer
from ...datasets.video import contact_sheet, decode_video
from ...place import WORKFLOWS
from ...tables import markdown_table
from .server import serving
from .setting import Setting

TITLE = "Published templates"
READS = ("models",)
FIRST = "LaVie 03 Text to video"  # makes the video that others start from
SMALL = "small models"  # in the names of templates that need no published weights


def measure(setting: Setting) -> dict:
    """{template: {"seconds", "sheet": file beside the page}, {"missing": files} or {"failed": why}}.

    Nothing without a folder.
    """
    if setting.models is None:
        return {}
    missing = {path.stem: _missing(path, setting.models) for path in _templates()}
    found = {name: {"missing": files} for name, files in missing.items() if files}
    if len(found) < len(missing):
        with serving(setting) as server:
            found |= {name: _run(setting, server, name) for name, files in missing.items() if not files}
    return found


def _templates() -> list[Path]:
    """Those of published weights, `FIRST` first."""
    files = [path for path in sorted(WORKFLOWS.glob("*.json")) if SMALL not in path.stem]
    return sorted(files, key=lambda path: path.stem != FIRST)


def _missing(template: Path, models: Path) -> list[str]:
    """Files that a template downloads and that are not in the folder."""
    text = template.read_text(encoding="utf-8")
    wanted = [entry for node in _nodes(json.loads(text)) for entry in node.get("properties", {}).get("models", ())]
    files = {f"{entry['directory']}/{entry['name']}" for entry in wanted}
    return sorted(file for file in files if not (models / file).is_file())


def _nodes(workflow: dict) -> list[dict]:
    """Of a workflow and of its subgraphs."""
    graphs = [workflow, *workflow.get("definitions", {}).get("subgraphs", ())]
    return [node for graph in graphs for node in graph["nodes"]]


def _run(setting: Setting, server: ComfyUIServer, name: str) -> dict:
    api = load_workflow(WORKFLOWS / f"{name}.json", server.object_info())
    start = time.perf_counter()
    try:
        video = server.fetch(last_saved(api, server.run(api), ".mp4"))
    except WorkflowError as error:  # others may do
        return {"failed": str(error)}
    seconds = time.perf_counter() - start
    if name == FIRST:
        server.add_input("example.mp4", video)
    sheet = f"{setting.name}_{name}.png".replace(" ", "_")
    contact_sheet(decode_video(video)).save(setting.out / sheet)
    return {"seconds": seconds, "sheet": sheet}


def report(result: dict) -> str:
    """One row per template."""
    if not result:
        return "Not run: no folder of published weights was given (`--models FOLDER`)."
    return markdown_table(("template", "seconds", "result"), map(_row, result, result.values()), "lrl")


def _row(name: str, row: dict) -> tuple[str, str, str]:
    if "sheet" in row:
        return name, f"{row['seconds']:.0f}", f"[frames]({row['sheet']})"
    if "failed" in row:
        return name, "-", f"failed: {row['failed']}"
    return name, "-", f"not run, missing: {', '.join(row['missing'])}"
