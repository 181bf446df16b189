"""The command `figures`: measures parts, keeps what came out, writes docs/nano.md."""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

from ...comfyui_api.graphs import WorkflowError, parse_setting
from ...place import ROOT, SetupError, find_comfyui
from ...training.errors import TrainingError
from ..kept import measurement_clips
from .document import PARTS, page, weight_digests
from .parts import Settings

CLIPS = ROOT / "runs" / "figures"

log = logging.getLogger(__name__)

DESCRIPTION = """\
Measure the small models that come with the pack, through a real ComfyUI server, and write docs/nano.md.

Each part's results are kept in a file of the repository, so that parts can be measured on different days; the page is
made of what is there, and says which parts are missing or are of other weights than those shipped.
"""
EPILOG = """\
examples:
  figures
  figures --parts super_resolution --samples 4
  figures --parts super_resolution --set steps=4 --set noise_level=20 --results runs/try --out runs/try.md
  figures --parts none                                   # write the page again, measure nothing
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser the arguments and the help of this command."""
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    parser.add_argument("--parts", default=",".join(PARTS), help="what to measure, or none (default: %(default)s)")
    sizes = ", ".join(f"{name} {part.SAMPLES}" for name, part in PARTS.items())
    parser.add_argument("--samples", type=int, help=f"clips of each part (default: {sizes})")
    parser.add_argument("--seed", type=int, default=0, help="of the first clip; each further one adds 1")
    parser.add_argument("--set", action="append", default=[], type=parse_setting, metavar="INPUT=VALUE",
                        help="change a workflow's input")  # fmt: skip
    parser.add_argument("--results", type=Path, default=ROOT / "nano" / "results", help="folder of the parts' results "
                        "(default: %(default)s); the clips are in runs/figures")  # fmt: skip
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "nano.md", help="page to write")


def run(args: argparse.Namespace) -> int:
    """Do it; returns the exit status."""
    from ...comfyui_api.server import ComfyUIServer, ServerError

    names = [] if args.parts == "none" else args.parts.split(",")
    if unknown := [name for name in names if name not in PARTS]:
        raise TrainingError(f"--parts: expected some of {', '.join(PARTS)}, or none, got {', '.join(unknown)}")
    if args.samples is not None and args.samples < 1:
        raise TrainingError(f"--samples: expected 1 or more, got {args.samples}")
    inputs = dict(args.set)
    for name in names:
        PARTS[name].weights()  # before anything is measured
    try:
        if names:
            with tempfile.TemporaryDirectory() as folder, ComfyUIServer(find_comfyui(), folder) as server:
                for name in names:
                    with measurement_clips(CLIPS / name) as clips:
                        settings = Settings(args.samples or PARTS[name].SAMPLES, clips, args.seed, inputs)
                        keep(measure(name, server, settings), args.results)
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(page(kept(args.results)), encoding="utf-8")
    except (SetupError, ServerError, WorkflowError, OSError) as error:
        print(f"figures: {error}", file=sys.stderr)
        return 1
    print(args.out)
    return 0


def measure(name: str, server, settings: Settings) -> dict:
    """What a part measured, and with what."""
    start, weights = time.monotonic(), weight_digests(PARTS[name].weights())
    result = PARTS[name].measure(server, settings)
    return {
        "part": name, "date": date.today().isoformat(), "seconds": round(time.monotonic() - start),
        "seed": settings.seed, "inputs": settings.inputs, "weights": weights, **result,
    }  # fmt: skip


def keep(result: dict, folder: Path) -> None:
    """Write a part's results, in place of earlier ones."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{result['part']}.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    log.info("%s", path)


def kept(folder: Path) -> dict[str, dict]:
    """The results that are there, by part."""
    paths = {name: folder / f"{name}.json" for name in PARTS}
    return {name: json.loads(path.read_text(encoding="utf-8")) for name, path in paths.items() if path.exists()}
