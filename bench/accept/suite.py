"""The tests that a GPU changes: memory and offloading, precision, compilation."""

from __future__ import annotations

import logging
import subprocess
import sys

from ...place import ROOT
from .setting import Setting

TITLE = "Tests on this machine"
READS = ()
FILES = ("tests/compat/test_memory.py", "tests/compat/test_precision.py", "tests/compat/test_compile.py")
SKIPPED = "skipped: it needs a GPU"


def measure(setting: Setting) -> dict:
    """{file: "passed", the end of what pytest said, or that it was skipped}."""
    if setting.device != "cuda":
        logging.getLogger(__name__).warning("NOT TESTED without a GPU: %s", ", ".join(FILES))
        return dict.fromkeys(FILES, SKIPPED)
    return {file: _run(file) for file in FILES}


def _run(file: str) -> str:
    command = [sys.executable, "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider", file]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return "passed" if done.returncode == 0 else done.stdout[-500:]


def report(result: dict) -> str:
    """One line per file."""
    return "\n".join(f"- `{file}`: {said}" for file, said in result.items())
