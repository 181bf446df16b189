"""docs/compatibility.md from the markers of collected tests.

A test may carry several `core` markers. `stage` is a stage or a tuple of stages, base if left out. Sections are the
modules, named by the first line of their docstring.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from comfyui_lavie.tables import markdown_table

FILE = Path(__file__).resolve().parents[2] / "docs" / "compatibility.md"
STAGES = {"base": "base", "interpolation": "interpolation", "super_resolution": "super-resolution"}
VERDICTS = ("works", "works, see note", "does not")  # the worst that any test says counts
HEAD = """\
# What works

Core nodes of ComfyUI 0.30.0 on LaVie's networks, as proved by the tests in `tests/compat`: each line stands for at
least one test that calls the node on a small model and compares numbers with the effect it should have. This file is
written by `python -P -m pytest tests/compat --write-table`; an empty cell was not tested.

Not tested, because it needs a GPU: weights that move between two devices (`--lowvram` and `--novram` do so there; on a
CPU ComfyUI leaves models whole, and the tests give its loader the budgets of these options), dynamic VRAM's own loader
(its library needs CUDA), torch.compile's cudagraphs, speed options.
"""


@dataclass(frozen=True)
class Row:
    """One test's word on one node at one stage; ``works`` False for what is refused with a reason."""

    section: str
    node: str
    stage: str
    works: bool
    note: str

    @property
    def verdict(self) -> int:
        return 2 if not self.works else 1 if self.note else 0


def rows(items) -> list[Row]:
    """Rows of collected tests, in their order, each once."""
    found = {}
    for item in items:
        for marker in reversed(list(item.iter_markers("core"))):
            stages = marker.kwargs.get("stage", "base")
            for stage in (stages,) if isinstance(stages, str) else stages:
                section = item.module.__doc__.strip().splitlines()[0].rstrip(".")
                if stage not in STAGES:
                    raise ValueError(f"{item.nodeid}: no such stage {stage}")
                works, note = marker.kwargs.get("works", True), marker.kwargs.get("note", "")
                found[Row(section, marker.args[0], stage, works, note)] = None
    return list(found)


def is_complete(session) -> bool:
    """Whether all tests of this folder were collected."""
    options, here = session.config.option, Path(__file__).parent
    chosen = options.keyword or options.markexpr or options.deselect or any("::" in a for a in session.config.args)
    return not chosen and {path.name for path in here.glob("test_*.py")} <= {Path(i.path).name for i in session.items}


def render(found: list[Row]) -> str:
    """The whole document."""
    home: dict[str, str] = {}  # a node stands in the section that names it first, with all its stages
    sections: dict[str, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in found:
        sections[home.setdefault(row.node, row.section)][row.node].append(row)
    lines, head = [HEAD], ("node", *STAGES.values(), "note")
    for section, nodes in sections.items():
        cells = [_cells(node, node_rows) for node, node_rows in nodes.items()]
        lines += [f"## {section}", "", markdown_table(head, cells, "l" * len(head)), ""]
    return "\n".join(lines)


def _cells(node: str, node_rows: list[Row]) -> list[str]:
    worst = {stage: [row.verdict for row in node_rows if row.stage == stage] for stage in STAGES}
    cells = [VERDICTS[max(found)] if found else "" for found in worst.values()]
    notes = " ".join(dict.fromkeys(row.note for row in node_rows if row.note))
    return [node, *cells, notes]
