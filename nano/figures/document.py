"""docs/nano.md, made of what the parts have measured so far.

Contract: a part that is not measured says so; figures of other weights than those shipped now say so. The page depends
on the results and on the weights alone.
"""

from __future__ import annotations

from pathlib import Path

from ...place import ROOT
from ...tables import markdown_table
from ...training.files import file_digest
from . import base, few_steps, held_frames, interpolation, lora, super_resolution, vae
from .parts import Part

PARTS: dict[str, Part] = {
    part.NAME: part for part in (vae, base, interpolation, super_resolution, held_frames, lora, few_steps)
}
HEAD = """\
# Figures of the nano models

Measured through a real ComfyUI server and the shipped workflows, from pixels alone, on scenes whose colour, thing and
direction never came together in training (24 of 144 combinations, `nano/shapes.py`). Behind each value is its 95 %
interval, over clips: Wilson's of rates, a bootstrap's of means, which is too narrow where clips are fewer than about
ten. Written by `python -P -m comfyui_lavie.nano figures`; another computer rounds differently, and its figures lie
within the intervals. See also [the two claims of the paper](claims.md) and [long videos](long_video.md).
"""


def page(results: dict[str, dict]) -> str:
    """Markdown of the whole page; `results` by the names of the parts that are measured."""
    found = [(part, results[name]) for name, part in PARTS.items() if name in results]
    goals = [(g.aim, g.figure, "yes" if g.met else "**no**") for part, result in found for g in part.goals(result)]
    lines = [HEAD]
    if goals:
        lines += ["## Goals\n", markdown_table(["goal", "measured", "met"], goals) + "\n"]
    for name, part in PARTS.items():
        lines += [f"## {part.TITLE}\n", _section(part, results.get(name))]
    return "\n".join(lines)


def _section(part: Part, result: dict | None) -> str:
    command = f"`python -P -m comfyui_lavie.nano figures --parts {part.NAME}`"
    if result is None:
        return f"Not measured yet: {command} does it.\n"
    lines = [part.tell(result), _origin(result)]
    if stale := _changed_weights(result):
        warning = f"**Of other weights than those that are here now** ({', '.join(stale)}): {command} measures again.\n"
        lines.insert(0, warning)
    return "\n".join(lines)


def _origin(result: dict) -> str:
    words = {name.removesuffix("_name").replace("_", " "): value for name, value in result["sampling"].items()}
    sampling = "Sampling: " + ", ".join(f"{name} {value}" for name, value in words.items())
    changed = ", changed from the workflow's" if result["inputs"] else ""
    how = f"{sampling}{changed}. Seeds from {result['seed']}. " if words else ""
    return f"{how}Measured on {result['date']} in {result['seconds']:.0f} s.\n"


def _changed_weights(result: dict) -> list[str]:
    now = {path.name: path for path in (ROOT / "weights").rglob("*.safetensors")}
    return [name for name, digest in result["weights"].items() if name not in now or file_digest(now[name]) != digest]


def weight_digests(paths: list[Path]) -> dict[str, str]:
    """{file name: digest}, which a result keeps."""
    return {path.name: file_digest(path) for path in paths}
