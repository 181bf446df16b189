"""Clips that a workflow makes, without loss: its video's frames, fetched from a server as PNG."""

from __future__ import annotations

import copy
import io
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from .client import Client
from .graphs import WorkflowError, ancestors, is_link, saved_files, set_inputs

VIDEO_NODES = ("CreateVideo", "LaVieDecodeToVideo", "VHS_VideoCombine")
DEFAULT_FPS = 8.0  # LaVie's; where the graph does not say
_FRAMES_NODE, _DECODE_NODE, _COLOR_NODE = "lavie_frames", "lavie_decode", "lavie_color"

Generate = Callable[[str, int], np.ndarray]  # (prompt, seed) -> uint8 (F, H, W, 3)


@dataclass(frozen=True)
class MadeClip:
    """What a run made: uint8 frames (F, H, W, 3), and the seconds it took with the fetching of its pictures."""

    frames: np.ndarray
    seconds: float


def make_clip(server: Client, api: dict, prompt: str, seed: int, limit_s: float | None = None) -> MadeClip:
    """Run an API workflow that writes its frames as PNG. Raises WorkflowError, or ServerError as `Client.run` does."""
    start = time.monotonic()
    queued = set_inputs(copy.deepcopy(api), prompt=prompt, seed=seed)
    frames = fetch_frames(server, server.run(queued, limit_s=limit_s))
    return MadeClip(frames, time.monotonic() - start)


def fetch_frames(server: Client, outputs: dict) -> np.ndarray:
    """The pictures that a run wrote as PNG, in order: uint8 (F, H, W, 3). Raises WorkflowError if there are none."""
    files = saved_files(outputs, ".png")
    if not files:
        raise WorkflowError("the workflow ran but gave no pictures; expected at least one frame")
    return np.stack([np.asarray(Image.open(io.BytesIO(server.fetch(file))).convert("RGB")) for file in files])


def frames_only(api: dict) -> dict:
    """The part of an API workflow that makes the frames of its video, ending in Preview Image, which writes PNG.

    Of several videos the last counts, that most nodes lead to. Raises WorkflowError if there is none.
    """
    inputs = api[_video_node(api)]["inputs"]
    if "images" in inputs:
        return preview_of(api, inputs["images"])
    decode = {"class_type": "VAEDecode", "inputs": {"samples": inputs["samples"], "vae": inputs["vae"]}}
    added = {_DECODE_NODE: decode}
    if "reference" in inputs:
        color = {name: inputs[name] for name in ("reference", "radius") if name in inputs}
        color["images"] = [_DECODE_NODE, 0]
        added[_COLOR_NODE] = {"class_type": "LaVieColorCorrection", "inputs": color}
    return preview_of({**api, **added}, [list(added)[-1], 0])


def frame_rate(api: dict) -> float:
    """Frames per second at which the video of an API workflow plays."""
    inputs = api[_video_node(api)]["inputs"]
    rate = inputs.get("fps", inputs.get("frame_rate", DEFAULT_FPS))
    if is_link(rate):
        rate = api.get(rate[0], {"inputs": {}})["inputs"].get("value")
    return float(rate) if isinstance(rate, (int, float)) and rate > 0 else DEFAULT_FPS


def preview_of(api: dict, images: list) -> dict:
    """The part of an API workflow that leads to the link `images`, and Preview Image at its end."""
    behind = ancestors(api, images[0])
    kept = {node_id: node for node_id, node in api.items() if node_id in behind}
    return {**kept, _FRAMES_NODE: {"class_type": "PreviewImage", "inputs": {"images": images}}}


def _video_node(api: dict) -> str:
    videos = [node_id for node_id, node in api.items() if node["class_type"] in VIDEO_NODES]
    if not videos:
        raise WorkflowError(
            "Expected a workflow with at least one Create Video node or LaVie Decode to Video, whose frames are taken, "
            "got none. End it with Create Video and Save Video, or choose another one with --workflow."
        )
    return max(videos, key=lambda node_id: len(ancestors(api, node_id)))
