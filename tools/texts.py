"""What a new node still lacks in words: `python -P -m comfyui_lavie.tools.texts`.

Contract: asks a real ComfyUI server for this pack's nodes and compares with `web/docs` (a help page with a picture
and an example for each), tooltips, and `locales` (every node, input and output in every language, nothing else).
English is what the nodes say themselves; `--write` brings its file up to date. Prints what is missing; exit status 1 if
anything is.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

from PIL import Image

from ..comfyui_api.server import ComfyUIServer
from ..place import ROOT, find_comfyui

DOCS, LOCALES = ROOT / "web" / "docs", ROOT / "locales"
LANGUAGES = ("en", "zh", "ja")
NODES = "nodeDefs.json"
DRAWN = "node"  # of the text inside a picture


def pack_nodes(object_info: dict) -> dict:
    """This pack's entries of a server's object_info."""
    return {name: node for name, node in object_info.items() if node["python_module"] == "custom_nodes.lavie"}


def inputs_of(node: dict) -> dict:
    """{input name: its options} without hidden inputs."""
    groups = (node["input"].get(group, {}) for group in ("required", "optional"))
    return {name: (spec[1] if len(spec) > 1 else {}) for group in groups for name, spec in group.items()}


def drawn(node: dict) -> str:
    """What a picture of the node shows, as JSON: its name, its inputs with the numbers and switches they begin with,
    its outputs. Kept inside the picture, it tells one that is older than the node.
    """
    begin = {key: options.get("default") for key, options in inputs_of(node).items()}
    known = {key: value if isinstance(value, int | float) else None for key, value in begin.items()}
    return json.dumps([node["display_name"], known, node["output_name"]])


def english(nodes: dict) -> dict:
    """nodeDefs.json as the nodes themselves say it."""
    return {
        name: {
            "display_name": node["display_name"],
            "description": node["description"],
            "inputs": {
                key: {"name": options.get("display_name") or key, "tooltip": options.get("tooltip", "")}
                for key, options in inputs_of(node).items()
            },
            "outputs": {
                str(index): {"name": label, "tooltip": tooltip or ""}
                for index, (label, tooltip) in enumerate(zip(node["output_name"], node["output_tooltips"], strict=True))
            },
        }
        for name, node in sorted(nodes.items())
    }


def leaves(tree: dict, path: str = "") -> dict[str, str]:
    """{"node.inputs.width.tooltip": text} of nested dictionaries."""
    found = {}
    for key, value in tree.items():
        name = f"{path}.{key}" if path else key
        found |= leaves(value, name) if isinstance(value, dict) else {name: value}
    return found


def read(language: str, file: str) -> dict:
    path = LOCALES / language / file
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def missing(object_info: dict) -> list[str]:
    """One line for everything that is not there, is empty, or belongs to nothing."""
    nodes = pack_nodes(object_info)
    return [*missing_help(nodes), *missing_translations(nodes)]


def missing_help(nodes: dict) -> list[str]:
    lines = []
    for name in nodes:
        page = DOCS / f"{name}.md"
        text = page.read_text(encoding="utf-8") if page.exists() else ""
        if not text:
            lines.append(f"{page.name}: there is no help page")
            continue
        pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text)
        if not pictures or not all((DOCS / picture).exists() for picture in pictures):
            lines.append(f"{page.name}: no picture that is there")
        if f"{name}.png" in pictures and _drawn_in(DOCS / f"{name}.png") != drawn(nodes[name]):
            lines.append(f"{name}.png: older than its node; run comfyui_lavie.tools.node_pictures {name}")
        if "\n## Example\n" not in text:
            lines.append(f"{page.name}: no section Example")
        lines += [f"{page.name}: input {key} is not explained" for key in inputs_of(nodes[name]) if key not in text]
    known = {f"{name}.md" for name in nodes}
    return lines + [f"{page.name}: no node of that name" for page in DOCS.glob("*.md") if page.name not in known]


def _drawn_in(picture: Path) -> str | None:
    """`drawn` of the node when its picture was taken."""
    if not picture.exists():
        return None
    with Image.open(picture) as image:
        return image.info.get(DRAWN)


def missing_translations(nodes: dict) -> list[str]:
    own = leaves(english(nodes))
    lines = [f"{key}: the node itself says nothing" for key, text in own.items() if not text]
    for language in LANGUAGES:
        there = leaves(read(language, NODES))
        lines += [f"{language}/{NODES}: {key} is missing: {text}" for key, text in own.items() if not there.get(key)]
        lines += [f"{language}/{NODES}: {key} belongs to no node" for key in there if key not in own]
        if language != "en":
            same = [key for key in own if there.get(key) == own[key] and key.endswith(("description", "tooltip"))]
            lines += [f"{language}/{NODES}: {key} is not translated" for key in same]
        for file in ("main.json", "settings.json"):
            wanted, got = leaves(read("en", file)), leaves(read(language, file))
            lines += [f"{language}/{file}: {key} is missing" for key in wanted if not got.get(key)]
            lines += [f"{language}/{file}: {key} is not in English" for key in got if key not in wanted]
    stated = leaves(read("en", NODES))
    stale = [key for key in own if stated.get(key) not in (None, own[key])]
    return lines + [f"en/{NODES}: {key} is not what the node says" for key in stale]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--write", action="store_true", help=f"write locales/en/{NODES} anew")
    args = parser.parse_args()
    base = ROOT / "runs" / "texts"
    base.mkdir(parents=True, exist_ok=True)
    with ComfyUIServer(find_comfyui(), base) as server:
        info = server.object_info()
    if args.write:
        text = json.dumps(english(pack_nodes(info)), ensure_ascii=False, indent=2)
        (LOCALES / "en" / NODES).write_text(text + "\n", encoding="utf-8")
    lines = missing(info)
    print("\n".join(lines) or "Nothing is missing.")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
