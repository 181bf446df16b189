"""Write the files of workflows/ and subgraphs/ from their recipes, and thumbnails from videos of the nano models.

Contract: a real server tells which nodes there are, and makes the videos. Files that need no change are written again
with the same content, thumbnails as far as the CPU computes the same:

    python -P -m comfyui_lavie.tools.make_workflows
    python -P -m comfyui_lavie.tools.make_workflows --thumbnails text_to_video cascade
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import tomllib
from PIL import Image, ImageDraw, ImageFont

from ..dev import OLDEST_COMFYUI, WORKFLOWS, SetupError, find_comfyui
from .comfyui_server import PACK, ComfyUIServer, ServerError
from .video import decode_video
from .workflow import WorkflowError, last_saved, load_workflow
from .workflow_graph import workflow_text
from .workflow_recipes import BLUEPRINT, build_blueprint, build_workflows
from .workflow_variants import EXAMPLE_VIDEO, NANO, USES, VARIANTS

COLUMNS = 2  # frames side by side in a thumbnail, and one above the other
CELL, CELL_GAP, STRIP = 192, 4, 28  # pixels of a frame, between frames, of the caption below


def origins() -> dict[str, dict]:
    """What a workflow says about where its nodes come from, by ComfyUI's name of the module."""
    version = tomllib.loads((PACK / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    return {
        "core": {"cnr_id": "comfy-core", "ver": ".".join(map(str, OLDEST_COMFYUI))},
        "custom_nodes.lavie": {"cnr_id": "lavie", "ver": version},
    }


def make_files(object_info: dict) -> dict[Path, str]:
    """{file: content} of everything in workflows/ and subgraphs/ that is no thumbnail."""
    workflows = build_workflows(object_info, origins())
    files = {WORKFLOWS / f"{name}.json": workflow_text(workflow) for name, workflow in workflows.items()}
    subgraph = PACK / "subgraphs" / f"{BLUEPRINT}.json"
    return {**files, subgraph: workflow_text(build_blueprint(object_info, origins()))}


def make_example(server: ComfyUIServer) -> None:
    """Give the server the video that workflows which start from one ask for: the nano model's own."""
    server.add_input(EXAMPLE_VIDEO, make_video(server, "text_to_video"))


def make_video(server: ComfyUIServer, use: str) -> bytes:
    """The result of a nano workflow as it lies in workflows/."""
    api = load_workflow(WORKFLOWS / f"{NANO.prefix}_{use}.json", server.object_info())
    return server.fetch(last_saved(api, server.run(api), ".mp4"))


def thumbnail(frames: np.ndarray, caption: str) -> Image.Image:
    """Four frames (F, H, W, 3), evenly spaced in time, above a line of text."""
    size = COLUMNS * (CELL + CELL_GAP) - CELL_GAP
    picture = Image.new("RGB", (size, size + STRIP), "dimgray")
    chosen = frames[np.linspace(0, len(frames) - 1, COLUMNS**2).round().astype(int)]
    for i, frame in enumerate(chosen):
        row, column = divmod(i, COLUMNS)
        cell = Image.fromarray(frame).resize((CELL, CELL), Image.Resampling.NEAREST)
        picture.paste(cell, (column * (CELL + CELL_GAP), row * (CELL + CELL_GAP)))
    ImageDraw.Draw(picture).text((8, size + STRIP // 2), caption, "white", ImageFont.load_default(14), anchor="lm")
    return picture


def write_thumbnails(server: ComfyUIServer, uses: list[str]) -> list[Path]:
    """Both variants show the nano model's video, and say so. Raises WorkflowError if a workflow fails."""
    if any(USES[use].from_video for use in uses):
        make_example(server)
    written = []
    for use in uses:
        frames = decode_video(make_video(server, use))
        for variant in VARIANTS:
            file = WORKFLOWS / f"{variant.prefix}_{use}.jpg"
            whose = "the nano model that comes with LaVie" if variant is NANO else "shown: the nano model's video"
            thumbnail(frames, f"{len(frames)} frames; {whose}").save(file, quality=90)
            written.append(file)
    return written


def main() -> int:
    """Write the workflow files, or with --thumbnails the pictures; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--thumbnails", nargs="*", choices=USES, metavar="USE",
                        help=f"pictures instead of workflows, of these uses or all: {', '.join(USES)}")  # fmt: skip
    uses = parser.parse_args().thumbnails
    try:
        with ComfyUIServer(find_comfyui(), PACK / "runs" / "workflows_server") as server:
            if uses is not None:
                written = write_thumbnails(server, uses or list(USES))
            else:
                written = []
                for file, text in make_files(server.object_info()).items():
                    file.write_text(text, encoding="utf-8", newline="\n")
                    written.append(file)
    except (SetupError, ServerError, WorkflowError) as error:
        print(f"make_workflows: {error}", file=sys.stderr)
        return 1
    print("\n".join(map(str, written)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
