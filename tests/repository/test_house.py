"""The house keeps its own rules: which room may import which, no circles, sizes, style, no private strings."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
import tomllib
from comfyui_lavie.place import ROOT

TRACKED = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
SOURCES = sorted(ROOT / name for name in TRACKED if name.endswith(".py") and (ROOT / name).exists())
CODE = [file for file in SOURCES if file.relative_to(ROOT).parts[0] != "tests"]
COMFY = {"comfy", "comfy_api", "comfy_extras", "comfy_execution", "folder_paths", "nodes", "node_helpers", "execution"}
LONGEST_FILE, LARGEST_ROOM = 300, 0.25

# Rooms that each room may import besides itself; imports go one way. Single files at the root are rooms too.
FOUNDATION = {"place", "commands", "files", "tables"}  # standard library alone; only `files` is published
MAY_IMPORT = {
    "lavie_models": {"files"},
    "lavie_models/comfyui": {"lavie_models", "files"},
    "nodes": {"lavie_models", "lavie_models/comfyui", "files"},
    "files": set(),
    "place": set(),
    "commands": set(),
    "tables": set(),
    "ray_cluster": {"place"},
    "datasets": {"ray_cluster"} | FOUNDATION,
    "comfyui_api": {"ray_cluster"} | FOUNDATION,
    "training": {"lavie_models", "datasets"} | FOUNDATION,
    "evaluation": {"comfyui_api", "datasets"} | FOUNDATION,
    "bench": {"training", "lavie_models", "datasets", "comfyui_api"} | FOUNDATION,
    "nano": {"lavie_models", "datasets", "training", "comfyui_api", "evaluation", "bench"} | FOUNDATION,
    "tools": {"comfyui_api", "datasets", "dev"} | FOUNDATION,
    "environment": {"place", "files"},
    "dev": {"place", "environment"},
}
OF_COMFYUI = {"lavie_models/comfyui", "nodes"}  # the rooms that import ComfyUI's modules


def room(file: Path) -> str:
    """The room of the house that a source file belongs to."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return "lavie_models/comfyui" if parts[:2] == ("lavie_models", "comfyui") else parts[0]


def module_file(base: Path) -> Path | None:
    """The file that a module path stands for, if there is one."""
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.exists()), None)


def imported_files(file: Path) -> set[Path]:
    """Files of ours that a file imports, at any depth of its code; by relative imports, as all of ours are."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = file.parents[node.level - 1]
            base = base.joinpath(*node.module.split(".")) if node.module else base
            inner = {module_file(base / alias.name) for alias in node.names}
            found |= inner - {None} or {module_file(base)}
    return found - {None, file}


def imported_names(file: Path) -> set[str]:
    """Top-level names of a file's absolute imports."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("file", CODE, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_go_one_way(file):
    here, names = room(file), imported_names(file)
    if here not in OF_COMFYUI:
        assert not names & COMFY
    if here == "__init__":
        return
    assert "comfyui_lavie" not in names, "imports inside the package are relative"
    rooms = {room(other) for other in imported_files(file)}
    assert rooms - {here} <= MAY_IMPORT[here]


def test_the_table_of_rooms_is_whole_and_has_no_circle():
    assert {room(file) for file in CODE} - {"__init__"} <= set(MAY_IMPORT)
    order = list(TopologicalSorter(MAY_IMPORT).static_order())
    assert order.index("lavie_models") < order.index("nodes")


def test_no_files_import_each_other_in_a_circle():
    graph = {file: imported_files(file) for file in CODE if file.name != "__init__.py"}
    list(TopologicalSorter(graph).static_order())  # raises CycleError, which names them


def lines_of(file: Path) -> int:
    return file.read_text(encoding="utf-8").count("\n")


def test_files_and_rooms_stay_small():
    assert [str(f.relative_to(ROOT)) for f in SOURCES if lines_of(f) > LONGEST_FILE] == []
    sizes = Counter()
    for file in CODE:
        sizes[room(file)] += lines_of(file)
    total = sum(sizes.values())
    assert {name: size for name, size in sizes.items() if size >= LARGEST_ROOM * total} == {}


def test_every_folder_of_code_is_installed():
    """An editable installation finds all of them; one from a wheel finds those that pyproject.toml lists."""
    table = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    folders = {file.parent.relative_to(ROOT) for file in CODE}
    assert {".".join(("comfyui_lavie", *folder.parts)) for folder in folders} == set(table)


def test_contributing_names_every_room():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    folders = {name for name in MAY_IMPORT if (ROOT / name).is_dir()}
    assert {name for name in folders if f"`{name}/`" not in text} == set()


def test_what_runs_before_anything_is_installed_needs_the_standard_library_only():
    for name in ("dev", "environment", "place", "commands", "files", "tables"):
        assert imported_names(ROOT / f"{name}.py") - {"place", "environment", "files"} <= sys.stdlib_module_names


def test_ruff():
    result = subprocess.run([sys.executable, "-m", "ruff", "check", "."], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_nothing_published_runs_code_from_text_or_other_programs():
    """What the registry forbids in a node pack: eval, exec, subprocess, unpickling, pip at run time."""
    for file in CODE:
        if room(file) in ("lavie_models", "lavie_models/comfyui", "nodes", "files", "__init__"):
            assert not imported_names(file) & {"subprocess", "pip", "ctypes"}, file
            forbidden = r"(?<!\.)\b(eval|exec)\(|os\.system|pickle\.(load|Unpickler\()"
            assert not re.search(forbidden, file.read_text(encoding="utf-8")), file


def test_no_addresses_of_machines():
    """No file tells where it was made: no home folders, no hosts of package indexes, no local addresses."""
    private = re.compile(r"/home/\w|/root/|/Users/\w|file:///|[\w.-]*pypi[\w-]*\.\w+|\b192\.168\.")
    for name in TRACKED:
        file = ROOT / name
        if name and file.is_file() and name != "tests/repository/test_house.py" and file.stat().st_size < 1_000_000:
            if file.suffix not in (".safetensors", ".pt", ".png", ".jpg", ".gif", ".webp", ".mp4"):
                assert not private.search(file.read_text(encoding="utf-8")), name
