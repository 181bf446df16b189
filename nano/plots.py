"""Plots of the pages about the small models, as SVG that is the same for the same figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ..evaluation.statistics import Estimate
from ..files import write_atomically


def write_lines(
    path: Path, panels: Mapping[str, Mapping[str, Sequence[Estimate]]], x_label: str, places: Sequence[float]
) -> None:
    """Lines with their intervals, beside each other.

    Args:
        panels: {what is on the vertical axis: {name of a line: its values at the places}}; every panel has the same
            lines. Values that could not be measured, NaN, leave a gap.
        places: two or more, rising.
    """
    import matplotlib

    matplotlib.use("svg")
    from io import StringIO

    from matplotlib import pyplot

    with matplotlib.rc_context({"svg.hashsalt": "lavie", "svg.fonttype": "none", "font.size": 9}):
        figure, axes = pyplot.subplots(
            1, len(panels), figsize=(4.6 * len(panels), 3.4), layout="constrained", squeeze=False
        )
        for axis, (title, lines) in zip(axes[0], panels.items(), strict=True):
            for number, (name, values) in enumerate(lines.items()):
                aside = 0.06 * (places[1] - places[0]) * (number - len(lines) / 2)  # intervals beside each other
                at = [place + aside for place in places]
                middles = [value.value for value in values]
                spread = [[max(0.0, v.value - v.low) for v in values], [max(0.0, v.high - v.value) for v in values]]
                axis.errorbar(at, middles, yerr=spread, label=name, marker="o", markersize=3, linewidth=1.2, capsize=2)
            axis.set(xlabel=x_label, ylabel=title)
            axis.grid(alpha=0.3)
        figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
        text = StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
        pyplot.close(figure)
    write_atomically(path, text.getvalue())
