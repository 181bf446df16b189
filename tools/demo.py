"""Make one video through a real ComfyUI server: an .mp4 and a sheet of its frames beside it.

Contract: runs inside `.venv`, fetches nothing from the network. What `python dev.py demo` runs:

    python -P -m comfyui_lavie.tools.demo --prompt "a red fish moving right" --seed 1 --out fish.mp4
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from tqdm import tqdm

from ..comfyui_api.graphs import WorkflowError, last_saved, load_workflow, set_inputs
from ..comfyui_api.server import ComfyUIServer, ServerError
from ..datasets.video import contact_sheet, decode_video
from ..dev import DEMO_WORKFLOW
from ..place import ROOT, SetupError, find_comfyui

RUNS = ROOT / "runs"


class ProgressBars:
    """One bar for each node that reports steps."""

    def __init__(self, api: dict):
        self._api, self._node, self._bar = api, None, None

    def __call__(self, node: str, done: int, total: int) -> None:
        if node != self._node:
            self.close()
            name = self._api.get(node, {}).get("class_type", node)
            self._node, self._bar = node, tqdm(total=total, desc=name, unit="step")
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def make_video(server: ComfyUIServer, workflow: Path, prompt: str | None, seed: int | None) -> bytes:
    """Run the workflow file and return the content of the .mp4 that it ends with. Raises WorkflowError."""
    api = set_inputs(load_workflow(workflow, server.object_info()), prompt=prompt, seed=seed)
    bars = ProgressBars(api)
    try:
        outputs = server.run(api, bars)
    finally:
        bars.close()
    return server.fetch(last_saved(api, outputs, ".mp4"))


def default_out(prompt: str | None, seed: int | None) -> Path:
    """A file under runs/demo named after what was asked for."""
    words = re.sub(r"[^a-z0-9]+", "_", (prompt or "demo").lower()).strip("_")[:60] or "demo"
    return RUNS / "demo" / (words + (f"_{seed}" if seed is not None else "") + ".mp4")


def main() -> int:
    """Parse the command line, make the video, say where it is; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--prompt")
    parser.add_argument("--workflow", type=Path, default=DEMO_WORKFLOW)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    out = args.out or default_out(args.prompt, args.seed)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        print("starting ComfyUI ...", flush=True)
        with ComfyUIServer(find_comfyui(), RUNS / "demo_server") as server:
            video = make_video(server, args.workflow, args.prompt, args.seed)
        out.write_bytes(video)
        sheet = out.with_suffix(".png")
        contact_sheet(decode_video(video)).save(sheet)
    except (SetupError, ServerError, WorkflowError, OSError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(f"video  {out}\nframes {sheet}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
