"""Data for training from the command line: `python -P -m comfyui_lavie.datasets COMMAND --help`."""

from __future__ import annotations

import sys

from ..commands import run_command
from ..place import SetupError
from .errors import DataError

WHAT = "From videos and images on disk to catalogues that recipes name (`prepare`: captioned; `build`: raw footage)."
COMMANDS = {  # name: (module with add_arguments and run, what it does)
    "prepare": ("prepare", "look at captioned videos and images, and write the catalogue that recipes read"),
    "build": ("build", "cut raw footage into shots, score them, select, and write the catalogue"),
    "select": ("select", "apply other limits and quotas to a dataset that was built"),
    "report": ("report", "describe a dataset that was built: report.html and report.md"),
    "shards": ("write_shards", "write a catalogue's clips anew at one size, as WebDataset shards"),
    "predict": ("predict", "days and disk of a large build, from the rates of one that was made"),
}
EXPECTED = (DataError, SetupError, FileNotFoundError, ImportError)


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    return run_command(__package__, WHAT, COMMANDS, EXPECTED, argv)


if __name__ == "__main__":
    sys.exit(main())
