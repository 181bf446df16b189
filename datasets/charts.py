"""Histograms as SVG: a score before and after selection, to stand in a page without anything else.

Contract: pure functions from numbers to text; the same numbers give the same text.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

BINS = 24
WIDTH, HEIGHT, LEFT, FOOT, HEAD = 330, 150, 34, 22, 20  # pixels
ALL, KEPT = "#b9c3d0", "#1f6f8b"
TAIL = 0.01  # of the values on either side stand in the outermost bins


def bin_edges(values: Sequence[float]) -> np.ndarray:
    """(bins + 1,) even edges; whole numbers that are few get a bin each; far outliers do not squeeze the others."""
    array = np.asarray(values, float)
    low, high = np.quantile(array, [TAIL, 1 - TAIL]) if len(array) > 1 / TAIL else (array.min(), array.max())
    if np.all(array == np.round(array)) and high - low < BINS:
        return np.arange(np.floor(low), np.floor(high) + 2) - 0.5
    if low == high:
        return np.array([low - 0.5, high + 0.5])
    return np.linspace(low, high, BINS + 1)


def histogram(title: str, everything: Sequence[float], kept: Sequence[float]) -> str:
    """An SVG picture: counts of all values in grey, of the kept ones in colour before them."""
    edges = bin_edges(everything)
    counts = [np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0] for values in (everything, kept)]
    top = max(1, int(counts[0].max()))
    plot_width, plot_height = WIDTH - LEFT - 6, HEIGHT - HEAD - FOOT
    step = plot_width / len(counts[0])
    bars = []
    for count, color in zip(counts, (ALL, KEPT), strict=True):
        for index, number in enumerate(count.tolist()):
            tall = plot_height * number / top
            if number:
                bars.append(
                    f'<rect x="{LEFT + index * step:.1f}" y="{HEAD + plot_height - tall:.1f}" '
                    f'width="{max(1.0, step - 1):.1f}" height="{tall:.1f}" fill="{color}"/>'
                )
    base = HEAD + plot_height
    inset = 0.5 if len(edges) == 2 or np.all(edges % 1 == 0.5) else 0.0  # bins around whole numbers
    texts = [
        f'<text x="{LEFT}" y="13" class="title">{escape(title)}</text>',
        f'<text x="{LEFT - 4}" y="{HEAD + 8}" text-anchor="end">{top}</text>',
        f'<text x="{LEFT - 4}" y="{base}" text-anchor="end">0</text>',
        f'<text x="{LEFT}" y="{HEIGHT - 6}">{edges[0] + inset:.4g}</text>',
        f'<text x="{WIDTH - 6}" y="{HEIGHT - 6}" text-anchor="end">{edges[-1] - inset:.4g}</text>',
    ]
    line = f'<line x1="{LEFT}" x2="{WIDTH - 6}" y1="{base}" y2="{base}" stroke="#888"/>'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" '
    return f'{head}font-size="10">{"".join(bars)}{line}{"".join(texts)}</svg>'
