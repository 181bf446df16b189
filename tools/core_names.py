"""The names of ComfyUI that the published pack imports or overrides, as a page: `docs/comfyui_names.md`.

Contract: read from the source alone, nothing is imported. A core that moves or drops one of them is seen on the day it
comes, for `tests/tools/test_core_names.py` looks each of them up in the ComfyUI in use:

    python -P -m comfyui_lavie.tools.core_names
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ..place import ROOT

ROOMS = ("nodes", "lavie_models/comfyui")
CORE = (
    "comfy", "comfy_api", "comfy_execution", "comfy_extras", "folder_paths", "latent_preview", "node_helpers", "nodes",
    "server",
)  # fmt: skip
PAGE = ROOT / "docs" / "comfyui_names.md"
HEAD = """\
# Names of ComfyUI that this pack relies on

Everything of ComfyUI's own modules that `nodes/` and `lavie_models/comfyui/` name, and every class of theirs that ours
derive from, with the members that ours define again. Written by `python -P -m comfyui_lavie.tools.core_names`; a test
looks each of them up in the ComfyUI in use.
"""


class Derived(NamedTuple):
    """A class of ours, the core class that it derives from, and what it defines, of which some replaces the core's."""

    name: str
    base: str
    members: tuple[str, ...]


def sources() -> list[Path]:
    """The published files that import ComfyUI."""
    return sorted(path for room in ROOMS for path in (ROOT / room).glob("*.py"))


def names_in(file: Path) -> set[str]:
    """Dotted names of core that a file uses, such as ``comfy.utils.ProgressBar``; the longest of each chain."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    known = _imports(tree)
    found = {name for node in ast.walk(tree) if (name := _dotted(node, known))}
    found |= {name for name in known.values() if "." in name}
    return {name for name in found if not any(other.startswith(name + ".") for other in found)}


def derived_in(file: Path) -> Iterator[Derived]:
    """Classes of a file that derive from one of core's."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    known = _imports(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            for base in node.bases:
                if name := _dotted(base, known):
                    yield Derived(node.name, name, tuple(sorted(_members(node))))


def _members(node: ast.ClassDef) -> set[str]:
    """What a class defines in its body, without what Python itself calls."""
    names = {item.name for item in node.body if isinstance(item, (ast.FunctionDef, ast.AsyncFunctionDef))}
    names |= {target.id for item in node.body if isinstance(item, ast.Assign) for target in item.targets
              if isinstance(target, ast.Name)}  # fmt: skip
    return {name for name in names if not name.startswith("__")}


def _imports(tree: ast.AST) -> dict[str, str]:
    """{name in the file: what it stands for} of core's modules and what is imported out of them."""
    known = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                root = alias.name.split(".")[0]
                if root in CORE:
                    known[alias.asname or root] = alias.name if alias.asname else root
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module.split(".")[0] in CORE:
            known |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return known


def _dotted(node: ast.AST, known: dict[str, str]) -> str | None:
    """The full name of an attribute of something imported, or of the imported thing itself."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name) or node.id not in known:
        return None
    return ".".join([known[node.id], *reversed(parts)])


def page() -> str:
    """The page's text."""
    users: dict[str, list[str]] = {}
    for file in sources():
        for name in names_in(file):
            users.setdefault(name, []).append(str(file.relative_to(ROOT)))
    lines = [HEAD, "## Names\n", "| name | used in |", "| --- | --- |"]
    lines += [f"| `{name}` | {', '.join(users[name])} |" for name in sorted(users)]
    lines += ["\n## Classes derived from core's\n", "| ours | core's | defines |", "| --- | --- | --- |"]
    for file in sources():
        lines += [f"| `{d.name}` | `{d.base}` | {', '.join(d.members)} |" for d in derived_in(file)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
