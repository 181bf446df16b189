"""The lowest versions that the extras promise, installed and used: reading files is what differs between them most."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
import tomllib
from comfyui_lavie.place import ROOT

# What reading files needs. torch and what stands on it (gigabytes) are tested as pinned only.
NEEDED = ("av", "numpy", "pillow", "pyarrow", "scipy", "tqdm", "webdataset")
TESTS = ("test_picture.py", "test_shown.py", "test_image.py", "test_media.py")


def lower_bounds() -> dict[str, str]:
    """The lowest version of each need of the extras `training` and `datasets`; empty where none is promised."""
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    needs = [re.match(r"([\w-]+)(?:>=([\w.]+))?", need) for name in ("training", "datasets") for need in table[name]]
    return {need[1]: need[2] or "" for need in needs}


def test_every_need_has_a_lower_bound():
    """Without one, anything that was ever published is promised."""
    assert [name for name, bound in lower_bounds().items() if not bound] == []


@pytest.fixture(scope="module")
def lowest(tmp_path_factory):
    """The Python of an environment with exactly the lowest versions, and pytest."""
    folder = tmp_path_factory.mktemp("lowest")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    bounds = lower_bounds()
    exact = [f"{name}=={bounds[name]}" for name in NEEDED]
    subprocess.run([python, "-m", "pip", "install", "--quiet", *exact, "pytest"], check=True)
    (folder / "packages").mkdir()
    (folder / "packages" / "comfyui_lavie").symlink_to(ROOT, target_is_directory=True)
    return python, folder / "packages"


def test_files_are_read_right_with_the_lowest_versions(lowest, tmp_path):
    python, packages = lowest
    command = [python, "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider", "--noconftest", "--rootdir", tmp_path]
    command += ["--import-mode=importlib", *(ROOT / "tests" / "datasets" / name for name in TESTS)]
    result = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(packages)}, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-2000:]
    assert re.search(r"\b[1-9]\d\d passed", result.stdout)
