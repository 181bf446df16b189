"""The command `report`: a dataset that was built as a page (report.html) and as Markdown (report.md).

Contract: report.html needs no other file; report.md names pictures in report/ beside it. Both say the same.
"""

from __future__ import annotations

import argparse
import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from ..files import whole_file, write_atomically
from ..tables import markdown_table
from .charts import histogram
from .datasheet import MEASURES, WORDS, Datasheet, Example, make_datasheet
from .video import contact_sheet

PICTURES = "report"
STYLE = """
body { font: 15px/1.5 sans-serif; max-width: 1080px; margin: 2em auto; padding: 0 1em; color: #222 }
h1, h2 { font-weight: 600 } h2 { margin-top: 2em; border-bottom: 1px solid #ddd }
table { border-collapse: collapse } td, th { padding: .25em .9em; border-bottom: 1px solid #eee; text-align: left }
td.n { text-align: right; font-variant-numeric: tabular-nums }
figure { display: inline-block; width: 224px; margin: 0 10px 12px 0; vertical-align: top; font-size: 12px }
figure img { width: 100%; display: block } .title { font-weight: 600; font-size: 11px }
.words span { margin-right: .7em; white-space: nowrap } .words small { color: #888 }
.bar { background: #1f6f8b; height: .8em; display: inline-block }
"""
TITLES = {
    "random": "Selected, at random", "best": "Selected, highest {0}", "worst": "Selected, lowest {0}",
    "rejected": "Turned down, at random, with the first reason",
}  # fmt: skip
LANGUAGES = "Languages of the captions (und: too short to tell)"
COST_HEAD = ("rule", "turned down", "by it alone", "left")


def html_report(sheet: Datasheet, title: str) -> str:
    """The whole page."""
    facts = "".join(f"<tr><th>{escape(name)}</th><td>{escape(text)}</td></tr>" for name, text in sheet.facts.items())
    charts = "\n".join(histogram(MEASURES[name], *pair) for name, pair in sheet.measures.items())
    parts = [
        f"<h1>{escape(title)}</h1><table>{facts}</table>",
        f"<h2>What each rule costs</h2>{_cost_table(sheet)}",
        f"<h2>Scores</h2><p>All shots in grey, the selected ones in colour.</p>{charts}",
        _counted("Categories", sheet.categories, "selected shots"),
        _counted(LANGUAGES, sheet.languages, "selected shots"),
        _words(sheet),
        *(_figures(TITLES[name].format(sheet.ranked_by), shown) for name, shown in sheet.examples.items() if shown),
        _counted("Files that were skipped", sheet.skipped, "files"),
        f"<p>{sheet.unreadable} examples could not be read any more.</p>" if sheet.unreadable else "",
    ]  # fmt: skip
    head = f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{escape(title)}</title><style>{STYLE}</style>"
    return f"{head}\n" + "\n".join(filter(None, parts)) + "\n</html>\n"


def _cost_table(sheet: Datasheet) -> str:
    total = max(1, sheet.costs[0]["left"])
    rows = "".join(
        f"<tr><td>{escape(cost['rule'])}</td><td class='n'>{cost['fails']}</td><td class='n'>{cost['alone']}</td>"
        f"<td class='n'>{cost['left']}</td><td><span class='bar' style='width:{240 * cost['left'] / total:.0f}px'>"
        "</span></td></tr>"
        for cost in sheet.costs
    )
    return f"<table><tr>{''.join(f'<th>{name}</th>' for name in COST_HEAD)}<th></th></tr>{rows}</table>"


def _counted(title: str, counts, unit: str) -> str:
    if not counts:
        return ""
    rows = "".join(f"<tr><td>{escape(name)}</td><td class='n'>{n}</td></tr>" for name, n in counts.most_common())
    return f"<h2>{title}</h2><table><tr><th></th><th>{unit}</th></tr>{rows}</table>"


def _words(sheet: Datasheet) -> str:
    words = (f"<span>{escape(word)} <small>{count}</small></span>" for word, count in sheet.words.most_common(WORDS))
    return f"<h2>Words of the captions</h2><p class='words'>{' '.join(words)}</p>" if sheet.words else ""


def _figures(title: str, examples: Sequence[Example]) -> str:
    figures = "".join(
        f"<figure><img src='data:image/jpeg;base64,{_jpeg(example.picture)}' alt=''>"
        f"<figcaption>{escape(example.line)}</figcaption></figure>"
        for example in examples
    )
    return f"<h2>{escape(title)}</h2>{figures}"


def _jpeg(picture: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "jpeg", quality=85)
    return base64.b64encode(buffer.getvalue()).decode()


def markdown_report(sheet: Datasheet, title: str, folder: Path) -> str:
    """The text; its pictures are written into `folder`/report."""
    pictures = folder / PICTURES
    pictures.mkdir(exist_ok=True)
    lines = [f"# {title}", "", *(f"- {name}: {text}" for name, text in sheet.facts.items())]
    costs = ((cost["rule"], cost["fails"], cost["alone"], cost["left"]) for cost in sheet.costs)
    lines += ["", "## What each rule costs", "", markdown_table(COST_HEAD, costs)]
    lines += ["", "## Scores", "", "All shots in grey, the selected ones in colour.", ""]
    for name, pair in sheet.measures.items():
        write_atomically(pictures / f"{name}.svg", [histogram(MEASURES[name], *pair)])
        lines.append(f"![{MEASURES[name]}]({PICTURES}/{name}.svg)")
    for heading, counts in (
        ("Categories", sheet.categories), (LANGUAGES, sheet.languages), ("Files that were skipped", sheet.skipped)
    ):  # fmt: skip
        if counts:
            lines += ["", f"## {heading}", "", markdown_table(("", "count"), counts.most_common())]
    if sheet.words:
        words = ", ".join(f"{word} ({count})" for word, count in sheet.words.most_common(WORDS))
        lines += ["", "## Words of the captions", "", words]
    for name, shown in sheet.examples.items():
        if shown:
            with whole_file(pictures / f"{name}.jpg") as part:
                contact_sheet(np.stack([example.picture for example in shown]), 4).save(part, "jpeg", quality=85)
            said = (f"{number}. {example.line}" for number, example in enumerate(shown, 1))
            heading = TITLES[name].format(sheet.ranked_by)
            lines += ["", f"## {heading}", "", f"![{heading}]({PICTURES}/{name}.jpg)", "", *said]
    return "\n".join(lines) + "\n"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser the arguments and the help of this command."""
    parser.description = "Describe a dataset that was built, before and after its selection: report.html and report.md."
    parser.add_argument("folder", type=Path, help="what `build --out` made")
    parser.add_argument("--title", help="of the page (default: the folder's name)")


def run(args: argparse.Namespace) -> int:
    """Do it; returns the exit status."""
    sheet = make_datasheet(args.folder)
    title = args.title or args.folder.resolve().name
    write_atomically(args.folder / "report.html", [html_report(sheet, title)])
    write_atomically(args.folder / "report.md", [markdown_report(sheet, title, args.folder)])
    print(f"{args.folder / 'report.html'}, {args.folder / 'report.md'}")
    return 0
