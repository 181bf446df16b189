"""Write the files of workflows/ and subgraphs/ from their designs, and thumbnails from videos of the nano models.

Contract: a real server tells which nodes there are, and makes the videos. Files that need no change are written again
with the same content, thumbnails as far as the CPU computes the same:

    python -P -m comfyui_lavie.tools.workflows.make
    python -P -m comfyui_lavie.tools.workflows.make --thumbnails "04 Text" Cascade    # all without names
    python -P -m comfyui_lavie.tools.workflows.make --animation     # docs/demo.webp, the cascade's three stages
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ...comfyui_api.graphs import WorkflowError
from ...comfyui_api.server import ComfyUIServer, ServerError
from ...datasets.video import write_animation
from ...place import NANO_WORKFLOWS, ROOT, WORKFLOWS, SetupError, find_comfyui
from .designs import BLUEPRINT, build_blueprint, build_workflows
from .graph import origins, workflow_text
from .templates import TEMPLATES
from .thumbnails import cascade_side_by_side, write_thumbnails

ANIMATION, ANIMATION_FPS = ROOT / "docs" / "demo.webp", 24


def make_files(object_info: dict) -> dict[Path, str]:
    """{file: content} of everything in workflows/ and subgraphs/ that is no thumbnail."""
    workflows = build_workflows(object_info, origins())
    folders = {name: WORKFLOWS if name in TEMPLATES else NANO_WORKFLOWS for name in workflows}
    files = {folders[name] / f"{name}.json": workflow_text(workflow) for name, workflow in workflows.items()}
    subgraph = ROOT / "subgraphs" / f"{BLUEPRINT}.json"
    return {**files, subgraph: workflow_text(build_blueprint(object_info, origins()))}


def main() -> int:
    """Write the workflow files, or with --thumbnails the pictures; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--thumbnails", nargs="*", metavar="NAME",
                        help="pictures instead, of the templates in whose names this is found, or of all")  # fmt: skip
    parser.add_argument("--animation", action="store_true", help="the README's moving picture instead")
    args = parser.parse_args()
    try:
        with ComfyUIServer(find_comfyui(), ROOT / "runs" / "workflows_server") as server:
            written = []
            if args.animation:
                write_animation(cascade_side_by_side(server), ANIMATION, ANIMATION_FPS)
                written.append(ANIMATION)
            if args.thumbnails is not None:
                wanted = args.thumbnails or [""]
                written += [WORKFLOWS / f"{name}.jpg" for name in TEMPLATES if any(part in name for part in wanted)]
                write_thumbnails(server, [file for file in written if file != ANIMATION])
            if not written:
                for file, text in make_files(server.object_info()).items():
                    file.write_text(text, encoding="utf-8", newline="\n")
                    written.append(file)
    except (SetupError, ServerError, WorkflowError) as error:
        print(f"workflows: {error}", file=sys.stderr)
        return 1
    print("\n".join(map(str, written)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
