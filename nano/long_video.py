"""How the ways to a long video compare, on the nano model: seams, drift, and what still follows the prompt.

Contract: videos of a first clip and extensions, through the shipped workflows in a real ComfyUI server, measured by
pixels alone (`long_video_measure.py`):

    python -P -m comfyui_lavie.nano long_video --videos 24 --steps 6 --out docs/long_video.md
"""

from __future__ import annotations

import argparse
import copy
import shutil
import sys
import tempfile
import time
from pathlib import Path

from ..comfyui_api.clips import Generate
from ..datasets.prepare import positive
from ..place import NANO_WORKFLOWS, ROOT, SetupError, find_comfyui
from ..training.files import file_digest
from .evaluate import BASE
from .kept import graph_clips, measurement_clips
from .long_video_measure import APART, WAYS, Way, apart, videos_of
from .long_video_page import page, plot, row

FIRST_FRAME = ROOT / "weights" / "diffusion_models" / "lavie_nano_first_frame.safetensors"


def extended_by(api: dict, model_name: str) -> dict:
    """An API workflow whose extensions are made by another base model than its first clip."""
    api = copy.deepcopy(api)
    (extend,) = (node for node in api.values() if node["class_type"] == "LaVieExtendVideo")
    (loader,) = (node for node in api.values() if node["class_type"] == "LaVieBaseModelLoader")
    guider = copy.deepcopy(api[extend["inputs"]["guider"][0]])
    api["extending_model"] = {**loader, "inputs": {**loader["inputs"], "model_name": model_name}}
    guider["inputs"]["model"] = ["extending_model", 0]
    api["extending_guider"] = guider
    extend["inputs"]["guider"] = ["extending_guider", 0]
    return api


def generator(server, way: Way, steps: int, first_frame: Path | None, folder: Path) -> Generate:
    """A function from (prompt, seed) to a whole video of a way, kept in `folder`. Raises WorkflowError."""
    from ..comfyui_api.graphs import load_workflow, set_inputs

    api = load_workflow(NANO_WORKFLOWS / way.workflow, server.object_info())
    if way.first_frame:
        models = server.base_directory / "models" / "diffusion_models"
        models.mkdir(parents=True, exist_ok=True)
        api = extended_by(api, shutil.copy(first_frame, models / f"measured_{first_frame.name}").name)
    generate = graph_clips(server, Path(way.workflow).stem, set_inputs(api, steps=steps, **way.settings), folder)
    return apart(generate) if way is APART else generate


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser the arguments and the help of this command."""
    parser.description = __doc__.split("\n\n")[0]
    parser.add_argument("--videos", type=positive, default=24, help="videos of each way (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=6, help="sampling steps (default: %(default)s)")
    parser.add_argument("--first-frame", type=Path, default=FIRST_FRAME if FIRST_FRAME.exists() else None,
                        help="first-frame-conditioned nano base to measure, too (default: the pack's)")  # fmt: skip
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "long_video.md", help="page to write")


def run(args: argparse.Namespace) -> int:
    """Measure all ways and write the page; returns the exit status."""
    from ..comfyui_api.graphs import WorkflowError
    from ..comfyui_api.server import ComfyUIServer, ServerError

    start, measured = time.monotonic(), []
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            ComfyUIServer(find_comfyui(), folder) as server,
            measurement_clips(ROOT / "runs" / "long_video") as clips,
        ):
            for way in (*WAYS, APART):
                if not way.first_frame or args.first_frame:
                    generate = generator(server, way, args.steps, args.first_frame, clips)
                    measured.append((way, videos_of(way, generate, args.videos)))
                    print(" | ".join(row(*measured[-1])), flush=True)
        args.out.write_text(page(measured, args.steps, time.monotonic() - start, file_digest(BASE)), encoding="utf-8")
        plot(measured, args.out.with_suffix(".svg"))
    except (SetupError, ServerError, WorkflowError, ValueError, OSError) as error:
        print(f"long_video: {error}", file=sys.stderr)
        return 1
    return 0
