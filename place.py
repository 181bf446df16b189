"""Where this repository and its ComfyUI are.

Contract: standard library only, so that `dev.py` can use it before anything is installed. Nothing is fetched here.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent
WORKFLOWS = ROOT / "workflows"  # an artist's templates, by the names that they show
NANO_WORKFLOWS = ROOT / "nano" / "workflows"  # graphs of the nano models, for commands, tests and figures
PINNED_COMFYUI = ROOT / ".comfyui" / "ComfyUI-0.30.0"  # where `dev.py` puts it
OLDEST_COMFYUI = (0, 30, 0)
USE_PINNED = "unset it to use the pinned copy"


def workflow_file(name: str) -> Path:
    """The file of that name among NANO_WORKFLOWS, else among an artist's templates."""
    own = NANO_WORKFLOWS / name
    return own if own.exists() else WORKFLOWS / name


class SetupError(Exception):
    """Something outside this repository is missing or broken; the message says what to do about it."""


class NoComfyUI(SetupError):
    """No ComfyUI was named, none surrounds this folder, and none was fetched yet."""


def find_comfyui() -> Path:
    """The folder of the ComfyUI to use: $COMFYUI_PATH, the one this folder is a custom node of, else the pinned copy.

    Raises SetupError if the first of them is not usable, NoComfyUI if there is none.
    """
    if given := os.environ.get("COMFYUI_PATH"):
        return check_comfyui(Path(given).expanduser().resolve(), "COMFYUI_PATH")
    if ROOT.parent.name == "custom_nodes" and (ROOT.parents[1] / "main.py").exists():
        return check_comfyui(ROOT.parents[1], "the ComfyUI this folder is a custom node of")
    if PINNED_COMFYUI.exists():
        return check_comfyui(PINNED_COMFYUI, "the pinned copy", f"Delete {PINNED_COMFYUI} and run dev.py again")
    raise NoComfyUI(
        f"There is no ComfyUI in {PINNED_COMFYUI}. Run `python dev.py test` once, which fetches it, or set "
        "COMFYUI_PATH to the folder that holds ComfyUI's main.py."
    )


def check_comfyui(folder: Path, source: str, remedy: str = "") -> Path:
    """Return `folder` if it is a ComfyUI that is new enough, else raise SetupError, which says `remedy` if given."""
    version_file = folder / "comfyui_version.py"
    if not (folder / "main.py").exists() or not version_file.exists():
        raise SetupError(
            f"{source} is {folder}, which is not a whole ComfyUI: main.py or comfyui_version.py "
            f"is missing. {remedy or f'Set COMFYUI_PATH to the folder of a whole one, or {USE_PINNED}'}."
        )
    found = re.search(r'__version__ = "(\d+)\.(\d+)\.(\d+)', version_file.read_text())
    if found is None or tuple(map(int, found.groups())) < OLDEST_COMFYUI:
        raise SetupError(
            f"{source} is {folder}, whose version is {'.'.join(found.groups()) if found else 'unknown'}; expected "
            f"{'.'.join(map(str, OLDEST_COMFYUI))} or newer. {remedy or f'Update it, or {USE_PINNED}'}."
        )
    return folder


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
