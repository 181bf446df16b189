"""Sizes of parts: each is measured beside the whole, and what the network works on is as it was."""

import torch
from comfyui_lavie.bench.chunks import WHOLE, compare, table
from comfyui_lavie.lavie_models import parts


def test_a_forward_works_on_as_much_as_it_is_told():
    x, usual = torch.ones(1), parts.CHUNK_VALUES_CPU
    found = compare(lambda: torch.ones(parts.chunk_values(x)), [1000, 5000], "cpu", repeats=2)
    assert {values: held for values, (_, held) in found.items()} == {1000: 4000, 5000: 20000}
    assert all(len(times) == 2 for times, _ in found.values())
    assert parts.CHUNK_VALUES_CPU == usual


def test_ratios_are_those_of_each_turn():
    rows = table({8: ([2.0, 9.0], 5), WHOLE: ([1.0, 3.0], 10)}).splitlines()
    assert "| 2.50 (2.00 - 3.00) |" in rows[2] and rows[2].endswith("| 0.50 |")
