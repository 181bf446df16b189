"""What tests share: a real ComfyUI server booted once per run, and a real ComfyUI importable in this process.

Contract: tests import `comfyui_lavie`, `comfy`, `nodes` (ComfyUI's), `folder_paths`, `comfy_extras` at will, at module
level too; ComfyUI then uses the CPU unless there is an accelerator. Nothing is mocked.
"""

from __future__ import annotations

import gc
import os
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if "PYTEST_XDIST_WORKER" in os.environ:  # beside others: two of several threads each slow each other down tenfold
    os.environ["OMP_NUM_THREADS"] = "1"  # whatever the process that starts the workers has set for itself
else:
    os.environ.setdefault("OMP_NUM_THREADS", str(min(4, os.cpu_count() or 1)))
# Before torch is imported; servers and commands that tests start inherit it.

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from comfyui_lavie.comfyui_api.graphs import (  # noqa: E402
    last_saved,  # noqa: E402
    load_workflow,
    set_inputs,
)
from comfyui_lavie.comfyui_api.server import ComfyUIServer  # noqa: E402
from comfyui_lavie.datasets.video import decode_video  # noqa: E402
from comfyui_lavie.place import SetupError, find_comfyui, workflow_file  # noqa: E402


def pytest_configure(config):
    """Make ComfyUI importable as its own main.py does, and keep this repository's root off sys.path."""
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != ROOT]
    try:
        sys.path.insert(0, str(find_comfyui()))
    except SetupError as error:
        pytest.exit(f"the tests need a ComfyUI: {error}", returncode=1)
    from comfy.cli_args import args  # reads no command line unless main.py asks for it

    args.cpu = not torch.accelerator.is_available()


def pytest_collection_finish():
    """Spare what all modules hold from every later search for garbage: trainings and ComfyUI search often."""
    gc.collect()
    gc.freeze()


class Session:
    """The running server and what most tests do with it."""

    def __init__(self, server: ComfyUIServer):
        self.server = server
        self.object_info = server.object_info()

    def workflow(self, name: str, **inputs) -> dict:
        """A workflow file in API form; `prompt`, `seed` and any other inputs set as `set_inputs` does."""
        return set_inputs(load_workflow(workflow_file(name), self.object_info), **inputs)

    def run(self, workflow: dict, progress=None) -> dict:
        return self.server.run(workflow, progress)

    def video_file(self, workflow: dict) -> bytes:
        """Run a workflow in API form and return the content of the .mp4 that it ends with."""
        return self.server.fetch(last_saved(workflow, self.run(workflow), ".mp4"))

    def video(self, workflow: dict) -> np.ndarray:
        """The frames of that .mp4: uint8 (F, H, W, 3)."""
        return decode_video(self.video_file(workflow))


@pytest.fixture(autouse=True)
def fresh_accelerator():
    """Accelerate keeps one state per process; a training ends with its process, a test does not."""
    yield
    if state := sys.modules.get("accelerate.state"):
        state.AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="session")
def comfyui(tmp_path_factory):
    """A running ComfyUI server with this pack, as a `Session`; booted once per test run."""
    base = tmp_path_factory.mktemp("comfyui")
    (base / "custom_nodes").mkdir()
    shutil.copy(ROOT / "tests" / "values_node.py", base / "custom_nodes")
    with ComfyUIServer(find_comfyui(), base) as server:
        yield Session(server)


@pytest.fixture(scope="session")
def nano_vae():
    """The VAE that comes with the pack, as ComfyUI's object in this process."""
    from comfyui_lavie.lavie_models.comfyui.vae import load_vae

    return load_vae(str(ROOT / "weights" / "vae" / "lavie_nano_vae.safetensors"))
