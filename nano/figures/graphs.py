"""The shipped workflows as functions of frames, run by a real ComfyUI server; pixels come and go without loss.

Contract: a graph is the shipped file's, from its loaders to the frames that it decodes. Only its ends are others: the
video that it loads is of PNG pictures, trimmed nowhere, and its frames are written as PNG instead of H.264.
"""

from __future__ import annotations

import hashlib
import io
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np

from ...comfyui_api.clips import fetch_frames, frames_only, preview_of
from ...comfyui_api.graphs import load_workflow, set_inputs, settings_of
from ...comfyui_api.server import ComfyUIServer
from ...place import ROOT, workflow_file
from ...training.errors import TrainingError

Remake = Callable[..., np.ndarray]  # (frames, prompt, seed) -> frames, uint8 (F, H, W, 3) both


def workflow_path(name: str) -> Path:
    """The file of a workflow, by its name without the suffix."""
    return workflow_file(f"{name}.json")


def workflow_weights(name: str) -> list[Path]:
    """The files of weights/ that a workflow loads. Raises TrainingError if one is not there."""
    names = sorted(set(re.findall(r"[\w.-]+\.safetensors", workflow_path(name).read_text(encoding="utf-8"))))
    found = {path.name: path for path in (ROOT / "weights").rglob("*.safetensors")}
    if missing := [file for file in names if file not in found]:
        raise TrainingError(f"workflow {name} loads {', '.join(missing)}, not found in weights/; export it there")
    return [found[file] for file in names]


def remake(server: ComfyUIServer, workflow: str, **inputs) -> Remake:
    """What a workflow that starts from a video makes of frames; `inputs` as in `set_inputs`. Raises WorkflowError."""
    template = frames_only(load_workflow(workflow_path(workflow), server.object_info()))
    return from_frames(server, set_inputs(template, **inputs))


def without_correction(server: ComfyUIServer, workflow: str, **inputs) -> Remake:
    """`remake` of a workflow that ends with a correction of colours, without that."""
    api = set_inputs(frames_only(load_workflow(workflow_path(workflow), server.object_info())), **inputs)
    [images] = [node["inputs"]["images"] for node in api.values() if node["class_type"] == "LaVieColorCorrection"]
    return from_frames(server, preview_of(api, images))


def through_vae(server: ComfyUIServer, workflow: str) -> Callable[[np.ndarray], np.ndarray]:
    """Frames encoded and decoded by the VAE of a workflow that starts from a video, without its network."""
    api = load_workflow(workflow_path(workflow), server.object_info())
    [frames] = [node["inputs"]["frames"] for node in api.values() if node["class_type"].endswith("Conditioning")]
    [vae] = [[name, 0] for name, node in api.items() if node["class_type"] == "LaVieVAELoader"]
    api["encode"] = {"class_type": "VAEEncode", "inputs": {"pixels": frames, "vae": vae}}
    api["decode"] = {"class_type": "VAEDecode", "inputs": {"samples": ["encode", 0], "vae": vae}}
    return from_frames(server, preview_of(api, ["decode", 0]))


def add_lora_file(server: ComfyUIServer, file: Path) -> None:
    """Put a LoRA where the server's loaders look for it."""
    folder = server.base_directory / "models" / "loras"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(file, folder)


def with_lora(api: dict, file: str) -> dict:
    """An API workflow with ComfyUI's own Load LoRA between its loaders and what they feed; `file` of models/loras."""
    loaders = {node["class_type"]: name for name, node in api.items()}
    model, clip = sources = [[loaders[f"LaVie{kind}Loader"], 0] for kind in ("BaseModel", "TextEncoder")]
    inputs = {"lora_name": file, "strength_model": 1.0, "strength_clip": 1.0, "model": model, "clip": clip}
    changed = {"lora": {"class_type": "LoraLoader", "inputs": inputs}}
    for name, node in api.items():
        fed = {key: ["lora", sources.index(v)] if v in sources else v for key, v in node["inputs"].items()}
        changed[name] = {**node, "inputs": fed}
    return changed


def lossless_video(frames: np.ndarray) -> bytes:
    """uint8 (F, H, W, 3) as a .mov of PNG pictures, 8 a second."""
    file = io.BytesIO()
    with av.open(file, "w", format="mov") as container:
        stream = container.add_stream("png", rate=8)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "rgb24"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()


def sampling_of(server: ComfyUIServer, workflow: str, **inputs) -> dict:
    """How a workflow samples: steps, sampler, scheduler, guidance; of super-resolution its noise."""
    api = set_inputs(load_workflow(workflow_path(workflow), server.object_info()), **inputs)
    return settings_of(api, ("steps", "sampler_name", "scheduler", "cfg", "noise_level", "constant_noise"))


def from_frames(server: ComfyUIServer, api: dict) -> Remake:
    """The function of frames that an API workflow is, which loads one video and writes PNG."""

    def run(frames: np.ndarray, prompt: str | None = None, seed: int | None = None) -> np.ndarray:
        name = f"{hashlib.sha256(frames.tobytes()).hexdigest()[:16]}_{len(frames)}.mov"
        server.add_input(name, lossless_video(frames))
        return fetch_frames(server, server.run(set_inputs(api, prompt, seed, file=name, duration=0.0)))

    return run
