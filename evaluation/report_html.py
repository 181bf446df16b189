"""The report as one HTML page beside a folder of its clips: no scripts, nothing from elsewhere.

Contract: clips are H.264 copies of what was measured, for browsers; figures are never made of them.
"""

from __future__ import annotations

import shutil
from html import escape
from pathlib import Path

from ..datasets.video import encode_video
from .clips import read_clip
from .manifest import ClipRecord
from .sections import Runs, Section, clip_values, pairs

STYLE = """\
:root { color-scheme: light dark; --line: #8884; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1200px; margin: 2rem auto; padding: 0 1rem; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 2.5rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; } th, td { padding: .35rem .7rem; border-bottom: 1px solid var(--line); }
th { text-align: left; } td { vertical-align: top; overflow-wrap: anywhere; min-width: 4rem; }
td.r, th.r { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; overflow-wrap: normal; }
.clips { display: grid; grid-template-columns: repeat(auto-fill, minmax(var(--wide), 1fr)); gap: 1.2rem; }
figure { display: grid; grid-row: span 3; grid-template-rows: subgrid; gap: .4rem; margin: 0; }
figure { border: 1px solid var(--line); border-radius: 6px; padding: .7rem; }
.row { display: flex; gap: .5rem; } .row div { flex: 1; min-width: 0; font-size: .8rem; }
video { display: block; width: 100%; border-radius: 4px; background: #000; image-rendering: pixelated; }
figcaption { font-weight: 600; } small { opacity: .75; white-space: nowrap; }
figure table { width: 100%; font-size: .75rem; align-self: start; } figure td { padding: .1rem .2rem; }
figure tr:last-child td { border: 0; }
"""


def write_html(told: list[Section], runs: Runs, folders: dict[str, Path], out: Path, shown: int) -> None:
    """Write report.html and media/ into `out`; `folders` of the clips, by the names of the runs."""
    title = f"Evaluation of {' and '.join(runs)}"
    figures = _figures(runs, folders, out / "media", shown)
    total = len(next(iter(runs.values())).clips)
    wide = "320px" if len(runs) == 1 else "480px"
    clips = f'<div class="clips" style="--wide: {wide}">{"".join(figures)}</div>'
    words = f"{len(figures)} of {total}, those of one prompt together."
    first, *rest = told
    body = [_section(first), f"<h2>Clips</h2><p>{words}</p>{clips}", *map(_section, rest)]
    page = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>\n{STYLE}</style></head>\n'
        f"<body><h1>{escape(title)}</h1>\n" + "\n".join(body) + "\n</body></html>\n"
    )
    (out / "report.html").write_text(page, encoding="utf-8")


def _section(section: Section) -> str:
    words = f"<p>{escape(section.words)}</p>" if section.words else ""
    return f"<h2>{escape(section.title)}</h2>{words}{_table(section) if section.rows else ''}"


def _table(section: Section) -> str:
    body = "".join(f"<tr>{_cells(cells, 'td', section.align)}</tr>" for cells in section.rows)
    head = f"<tr>{_cells(section.head, 'th', section.align)}</tr>"
    return f'<div class="wide"><table><thead>{head}</thead><tbody>{body}</tbody></table></div>'


def _cells(texts: tuple[str, ...], tag: str, align: str) -> str:
    """One row; `align` as of a `Section`: further columns stand on the right."""
    return "".join(
        f'<{tag} class="r">{escape(text)}</{tag}>' if side == "r" else f"<{tag}>{escape(text)}</{tag}>"
        for text, side in zip(texts, align.ljust(len(texts), "r"), strict=True)
    )


def _figures(runs: Runs, folders: dict[str, Path], media: Path, shown: int) -> list[str]:
    """One figure a prompt and seed, those of one prompt together: the clip of each run, and their numbers."""
    media.mkdir(parents=True, exist_ok=True)
    made = []
    for places in _by_prompt(runs)[:shown]:
        columns = []
        for number, (name, place) in enumerate(zip(runs, places, strict=True)):
            clip = runs[name].clips[place]
            file = _playable(folders[name] / clip.file, clip, media / f"{number}_{place:05d}.mp4")
            head = f"<b>{escape(name)}</b>" if len(runs) > 1 else ""
            video = f'<video src="media/{file}" autoplay loop muted playsinline controls></video>'
            columns.append(f"<div>{head}{video}</div>")
        clip = next(iter(runs.values())).clips[places[0]]
        told = clip.prompt if clip.prompt is not None else clip.file
        seed = "" if clip.seed is None else f" <small>seed {clip.seed}</small>"
        numbers = "".join(f"<tr>{_cells(row, 'td', 'l')}</tr>" for row in clip_values(runs, places))
        made.append(
            f"<figure><figcaption>{escape(told)}{seed}</figcaption>"
            f'<div class="row">{"".join(columns)}</div><table>{numbers}</table></figure>\n'
        )
    return made


def _by_prompt(runs: Runs) -> list[tuple[int, ...]]:
    """`pairs`, those of one prompt together, prompts in the order in which they come first."""
    clips, first = next(iter(runs.values())).clips, {}
    places = pairs(runs)
    for place in places:
        first.setdefault(clips[place[0]].prompt, len(first))
    return sorted(places, key=lambda place: first[clips[place[0]].prompt])


def _playable(source: Path, clip: ClipRecord, target: Path) -> str:
    """Copy or encode a clip for a browser; returns its name."""
    if source.suffix == ".mp4":
        shutil.copyfile(source, target)
    else:
        encode_video(read_clip(source), target, max(1, round(clip.fps)))
    return target.name
