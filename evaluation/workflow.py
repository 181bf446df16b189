"""The workflow that is judged, and all that decides what it makes: its graph, weights, settings and versions.

Contract: everything is asked of the servers that will run it. They must agree, or the clips of one folder would differ
by where they were made.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..comfyui_api.client import Client
from ..comfyui_api.clips import frame_rate, frames_only
from ..comfyui_api.graphs import digest_of, load_workflow, set_inputs, settings_of
from ..comfyui_api.models import check_models, model_digests
from ..comfyui_api.pool import Pool
from ..comfyui_api.server import ComfyUIServer
from ..place import ROOT
from .errors import EvaluationError

SAMPLING = ("steps", "cfg", "sampler_name", "scheduler", "denoise", "noise_level", "frames", "width", "height")


@dataclass(frozen=True)
class Workflow:
    """`api` makes frames as PNG; the other attributes are a `ClipRecord`'s."""

    name: str
    api: dict
    digest: str
    weights: dict[str, str]
    versions: dict[str, str]
    sampling: dict[str, Any]
    fps: float


def open_workflow(pool: Pool, path: Path, settings: Mapping[str, Any]) -> Workflow:
    """Read a workflow file of either format for the servers of a pool, `settings` as in `set_inputs`.

    Raises WorkflowError and EvaluationError as `prepare_workflow` does.
    """
    api = load_workflow(path, pool.workers[0].ask(Client.object_info))
    return prepare_workflow(pool, path.name, set_inputs(api, **settings))


def prepare_workflow(pool: Pool, name: str, api: dict) -> Workflow:
    """An API workflow with a video, for the servers of a pool.

    Raises WorkflowError if it has no video, no prompt, no seed, or wants models that a server lacks; EvaluationError if
    the servers differ.
    """
    graph = frames_only(api)
    digest = digest_of(graph)  # refuses a workflow without prompt or seed before models are read
    facts = pool.ask_all(facts_of, graph)
    for worker, (weights, versions, _) in zip(pool.workers, facts, strict=True):
        if (weights, versions) != facts[0][:2]:
            raise EvaluationError(
                f"expected servers that make the same clips, got different versions or weights: {pool.workers[0].name} "
                f"has {facts[0][1]}, {facts[0][0]}; {worker.name} has {versions}, {weights}"
            )
    weights, versions, _ = facts[0]
    versions["device"] = ", ".join(sorted({device for *_, device in facts}))
    return Workflow(name, graph, digest, weights, versions, settings_of(graph, SAMPLING), frame_rate(api))


def facts_of(client: Client, api: dict) -> tuple[dict[str, str], dict[str, str], str]:
    """(digests of the weights, versions, device) of a server that has all models. Raises WorkflowError."""
    check_models(api, client.object_info())
    stats = client.get("/system_stats")
    ours = isinstance(client, ComfyUIServer)
    versions = {
        "comfyui": stats["system"]["comfyui_version"],
        "torch": stats["system"]["pytorch_version"],
        "pack": pack_version() if ours else "unknown: the server was running already",
    }
    return model_digests(client, api), versions, stats["devices"][0]["name"]


def pack_version() -> str:
    """This repository's, as pyproject.toml has it."""
    return re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)[1]
