"""docs/compatibility.md is what the tests of this folder say."""

import pytest
from comfyui_lavie.tests.compat import table


def test_the_table_is_current(request):
    """Whole where all tests are collected; else every collected row has its line."""
    if request.config.getoption("--write-table", default=False):
        pytest.skip("about to be written")
    written = table.FILE.read_text(encoding="utf-8")
    found = table.rows(request.session.items)
    if table.is_complete(request.session):
        assert written == table.render(found), "run python -P -m pytest tests/compat --write-table"
    for row in found:
        assert f"\n| {row.node} |" in written, row


def test_the_worst_word_counts_and_stages_share_a_line():
    rows = [
        table.Row("First", "Node", "base", True, ""), table.Row("Second", "Node", "interpolation", True, "Slow."),
        table.Row("Second", "Node", "base", False, "Not so."),
    ]  # fmt: skip
    lines = table.render(rows).splitlines()
    assert "| Node | does not | works, see note |  | Slow. Not so. |" in lines
    assert "## First" in lines and "## Second" not in lines
