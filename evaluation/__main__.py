"""Judging a model from the command line: `python -P -m comfyui_lavie.evaluation COMMAND --help`."""

from __future__ import annotations

import sys

from ..comfyui_api.client import ServerError
from ..comfyui_api.graphs import WorkflowError
from ..commands import run_command
from ..datasets.errors import DataError
from ..place import SetupError
from .errors import EvaluationError

WHAT = "Judge a text-to-video model: generate clips once, measure them by any number of metrics, report with intervals."
COMMANDS = {  # name: (module with add_arguments and run, what it does)
    "generate": ("generate", "run a workflow over a set of prompts and seeds; writes clips and their manifest"),
    "measure": ("measure", "measure a folder of clips, with or without a manifest"),
    "report": ("report", "write what was measured as Markdown and HTML; compares two runs"),
}
EXPECTED = (EvaluationError, DataError, SetupError, ServerError, WorkflowError, FileNotFoundError)


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    return run_command(__package__, WHAT, COMMANDS, EXPECTED, argv)


if __name__ == "__main__":
    sys.exit(main())
