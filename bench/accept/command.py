"""The command `accept`: run the parts that have no result yet, then write the machine's page from all there are."""

from __future__ import annotations

import argparse
import importlib
import json
import logging
from dataclasses import asdict
from pathlib import Path

import torch

from ...place import ROOT
from .setting import Setting

PARTS = (
    "machine", "precision", "stages", "peer", "vae", "training", "weights", "cascade", "templates", "suite"
)  # fmt: skip
DESCRIPTION = """\
Does LaVie work on this machine, how fast, in how much memory?

Each part takes under ten minutes on a GPU and is kept as soon as it is done: after a stop the same command goes on.
The page is OUT/<card>.md, the figures are OUT/<card>.json.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser the arguments and the help of this command."""
    parser.description = DESCRIPTION
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--toy", action="store_true", help="tiny networks, to see that every part works")
    parser.add_argument("--models", type=Path, metavar="FOLDER", help="ComfyUI's models folder with published weights")
    parser.add_argument(
        "--vram", type=float, nargs="*", default=[], metavar="GB", help="hold ComfyUI to each of these, such as 8 12 24"
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="default: all")
    parser.add_argument("--again", action="store_true", help="measure also what is there already")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "gpu", help="default: docs/gpu")


def run(args: argparse.Namespace) -> int:
    """Do it; the exit status tells whether all parts that were asked for worked."""
    if args.models is not None and not args.models.is_dir():
        raise FileNotFoundError(f"--models: there is no folder {args.models}")
    setting = Setting(args.device, args.toy, args.out, args.models, tuple(args.vram))
    file = args.out / f"{setting.name}.json"
    results = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    file.parent.mkdir(parents=True, exist_ok=True)
    for name in args.parts:
        if not args.again and _is_done(name, setting, results.get(name, {})):
            continue
        results[name] = _measure(name, setting)
        file.write_text(json.dumps(results, indent=1), encoding="utf-8")
        file.with_suffix(".md").write_text(page(setting, results), encoding="utf-8")
    print(f"{file.with_suffix('.md')}, {file}")
    return int(any("error" in results[name] for name in args.parts))


def _asked(setting: Setting) -> dict:
    """A setting as it is kept."""
    return json.loads(json.dumps(asdict(setting), default=str))


def _is_done(name: str, setting: Setting, kept: dict) -> bool:
    """Whether what is kept of a part is its result for this setting."""
    asked = _asked(setting)
    return "result" in kept and all(kept["setting"][field] == asked[field] for field in _part(name).READS)


def _measure(name: str, setting: Setting) -> dict:
    """A part's result, or what went wrong: one part that fails keeps no other from being measured."""
    log = logging.getLogger(__name__)
    log.info("%s ...", name)
    asked = _asked(setting)
    try:
        return {"setting": asked, "result": _part(name).measure(setting)}
    except Exception as error:  # whatever it is, it belongs on the page
        log.exception("%s failed", name)
        return {"setting": asked, "error": f"{type(error).__name__}: {error}"}


def _part(name: str):
    return importlib.import_module(f".{name}", __package__)


def page(setting: Setting, results: dict) -> str:
    """Markdown of all parts that have a result or failed."""
    lines = [f"# {setting.name}", "", "Written by `python dev.py accept`."]
    if setting.toy:
        lines.append("Toy sizes: the figures mean nothing.")
    for name in PARTS:
        if name in results:
            kept, part = results[name], _part(name)
            text = part.report(kept["result"]) if "result" in kept else f"Failed: {kept['error']}"
            lines += ["", f"## {part.TITLE}", "", text]
    return "\n".join(lines) + "\n"
