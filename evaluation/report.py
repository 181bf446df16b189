"""The command `report`: one measured run, or two compared, as Markdown and as HTML with the clips playing."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..tables import markdown_table
from .errors import EvaluationError
from .measurements import Measurements
from .report_html import write_html
from .sections import Runs, Section, sections

DESCRIPTION = """\
Write what `measure` found as report.md and report.html: figures with their intervals, two runs compared by paired
tests, the clips side by side, and every protocol so fully that another person can repeat it.
"""
EPILOG = """\
examples:
  report runs/clips
  report runs/before runs/after --out runs/report
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser the arguments and the help of this command."""
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="one or two folders of measured clips")
    parser.add_argument("--measured", type=Path, nargs="+", metavar="FOLDER", help="where the measurements are, if not "
                        "beside the clips (measure --out)")  # fmt: skip
    parser.add_argument("--clips", type=int, default=24, help="how many clips the page shows (default: 24)")
    parser.add_argument("--out", type=Path, help="folder to write (default: `report` in the first run)")


def run(args: argparse.Namespace) -> int:
    """Write both; returns the exit status. Raises EvaluationError for runs that are not measured."""
    measured = args.measured or args.runs
    if len(args.runs) > 2 or len(measured) != len(args.runs):
        raise EvaluationError(f"expected one run or two, each measured once, got {len(args.runs)} and {len(measured)}")
    names = [f"{number}: {path.resolve().name}" if len(args.runs) > 1 else path.resolve().name
             for number, path in enumerate(args.runs, 1)]  # fmt: skip
    runs = {name: Measurements.load(folder) for name, folder in zip(names, measured, strict=True)}
    out = args.out or args.runs[0] / "report"
    out.mkdir(parents=True, exist_ok=True)
    told = sections(runs)
    (out / "report.md").write_text(markdown(told, runs), encoding="utf-8")
    write_html(told, runs, dict(zip(names, args.runs, strict=True)), out, args.clips)
    print(out / "report.html")
    return 0


def markdown(told: list[Section], runs: Runs) -> str:
    """The whole report but the clips."""
    lines = [f"# Evaluation of {' and '.join(runs)}\n"]
    for section in told:
        lines.append(f"## {section.title}\n")
        if section.words:
            lines.append(section.words + "\n")
        if section.rows:
            lines.append(markdown_table(section.head, section.rows, section.align) + "\n")
    return "\n".join(lines)
