"""Kernels of temporal attention: the same numbers as the plain formula, and a table of all of them."""

import math

import pytest
import torch
from comfyui_lavie.bench.__main__ import main
from comfyui_lavie.bench.attention import KERNELS

ON_A_CPU = [name for name in KERNELS if name != "flex"]


@pytest.mark.parametrize("name", ON_A_CPU)
def test_a_kernel_is_the_formula(name):
    """softmax(q k / sqrt(size) + bias) v, for each pixel and head by itself."""
    torch.manual_seed(0)
    heads, size = 2, 8
    q, k, v = torch.randn(3, 4, 5, heads * size).unbind()
    bias = torch.randn(1, heads, 5, 5)
    got = KERNELS[name](q, k, v, heads, bias)
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        for pixel in range(4):
            scores = q[pixel, :, part] @ k[pixel, :, part].T / math.sqrt(size) + bias[0, head]
            torch.testing.assert_close(got[pixel, :, part], scores.softmax(1) @ v[pixel, :, part], rtol=0, atol=1e-5)


def test_the_table_names_the_fastest(capsys):
    assert main("attention --device cpu --stages super_resolution --pixels 2 --repeats 1".split()) == 0
    head, _, *rows = capsys.readouterr().out.strip().splitlines()
    assert all(name in head for name in KERNELS) and len(rows) == 2  # widths 512 and 1024
    assert all(row.split("|")[-2].strip() in ON_A_CPU and "not on a CPU" in row for row in rows)


def test_arguments_out_of_range(capsys):
    assert main(["attention", "--pixels", "0"]) == 1
    assert "start at 1, got 5 and 0" in capsys.readouterr().err
