"""Tables in Markdown: the one writer of the house, for reports, benchmarks and generated pages.

Contract: standard library only, and nothing of ours, so that every room that is not published may import it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def markdown_table(head: Sequence[object], rows: Iterable[Sequence[object]], align: str = "l") -> str:
    """A Markdown table, without a newline at its end. Raises ValueError for a row that is not as long as the head.

    Args:
        head, rows: cells of any kind; `str` is taken of each. Bars and newlines in them are escaped.
        align: "l" or "r" for each column from the left; the columns that are not named hold numbers: "r".
    """
    rule = ["---" if side == "l" else "---:" for side in align.ljust(len(head), "r")]
    lines = [head, rule, *rows]
    if uneven := next((line for line in lines if len(line) != len(head)), None):
        raise ValueError(f"expected {len(head)} cells as in {list(head)}, got {list(uneven)}")
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
