"""Clips that a workflow makes on a running server, made by the evaluation's `generate` and kept in a folder.

Contract: within a measurement a clip is made once, and read back from its file. One that was stopped goes on, one that
begins anew makes its clips anew, whatever has changed since. Its folders are such as `evaluation measure` takes.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ..comfyui_api.clips import Generate
from ..comfyui_api.graphs import load_workflow, set_inputs
from ..comfyui_api.pool import Pool
from ..comfyui_api.server import ComfyUIServer
from ..comfyui_api.workers import LentServer
from ..evaluation.clips import read_clip
from ..evaluation.generate import generate
from ..evaluation.jobs import Job, name_by_content
from ..evaluation.prompts import Prompt
from ..evaluation.workflow import prepare_workflow


@contextmanager
def measurement_clips(folder: Path) -> Iterator[Path]:
    """Where a measurement keeps its clips while it runs, with those that a stopped one left; `folder` is their place
    once it is finished, instead of earlier ones."""
    unfinished = folder.with_name(f"{folder.name}-unfinished")
    unfinished.mkdir(parents=True, exist_ok=True)
    yield unfinished
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)


def workflow_clips(server: ComfyUIServer, path: Path, folder: Path, **inputs) -> Generate:
    """As `graph_clips`, of a workflow file; `inputs`, such as steps=25, as in `set_inputs`. Raises WorkflowError."""
    return graph_clips(server, path.stem, set_inputs(load_workflow(path, server.object_info()), **inputs), folder)


def graph_clips(server: ComfyUIServer, name: str, api: dict, folder: Path) -> Generate:
    """A function from prompt and seed to the frames of an API workflow's video, uint8 (F, H, W, 3).

    Each graph with each set of weights has a folder of its own in `folder`. Raises WorkflowError if the workflow has no
    video, no prompt, no seed, or wants models that the server lacks.
    """
    pool = Pool([LentServer(server)])
    workflow = prepare_workflow(pool, name, api)
    content = hashlib.sha256(json.dumps([workflow.digest, workflow.weights], sort_keys=True).encode()).hexdigest()
    home = folder / f"{name}-{content[:12]}"

    def kept(prompt: str, seed: int) -> np.ndarray:
        job = Job(Prompt(prompt), 0, seed)
        [record] = generate(pool, workflow, "nano", [job], home, name_by_content("mkv"), progress=False)
        return read_clip(home / record.file)

    return kept
