"""The profile of a forward: every operator counts once, in the right kind, and arithmetic is what torch counts."""

import pytest
import torch
from comfyui_lavie.bench.measure import count_flops
from comfyui_lavie.bench.operators import OTHER, Cost, kind_of, measure, table
from comfyui_lavie.bench.subjects import SUBJECTS, Case


@pytest.mark.parametrize("subject", SUBJECTS)
@pytest.mark.parametrize("stage", ["base", "super_resolution"])
@torch.no_grad()
def test_a_forward_is_taken_apart(subject, stage):
    _, forward = SUBJECTS[subject](Case(stage, 2, 8, width_divisor=10 if stage == "base" else 8))
    costs, whole = measure(forward)
    assert sum(cost.flops for cost in costs.values()) == count_flops(forward)
    assert whole > 0 and all(cost.seconds > 0 for cost in costs.values()) and not costs[OTHER].flops
    assert list(costs.values()) == sorted(costs.values(), key=lambda cost: -cost.seconds)
    for kind in ("convolutions over pixels, 3x3", "matrix products", "attention", "normalisation"):
        assert costs[kind].calls and costs[kind].bytes, kind
    assert bool(costs.get("convolutions over frames")) == (stage == "super_resolution" and subject == "LaVieUNet")


def test_kinds_of_convolutions():
    def kind(*kernel):
        return kind_of(torch.ops.aten.convolution.default, (None, torch.zeros(4, 4, *kernel)))

    assert kind(3, 1, 1) == kind(3, 1) == "convolutions over frames"
    assert kind(3, 3) == kind(1, 3, 3) == "convolutions over pixels, 3x3" and kind(1, 1).endswith("1x1")


def test_what_the_table_says_of_the_rate():
    costs = {"matrix products": Cost(2.0, 10**12, 0, 3), "copies": Cost(1.0, 0, 5 * 10**9, 2), OTHER: Cost(1.0)}
    rows = table(costs, 4.2, 10**12).splitlines()
    assert rows[2] == "| matrix products | 3 | 2.00 | 0.500 | 1.000 | 0.50 | - |"
    assert rows[3] == "| copies | 2 | 1.00 | 0.250 | 0.000 | - | 5.0 |"
    assert "4.0 s in all operators, 4.2 s for" in rows[-1] and "would take 1.0 s: 0.25 of the operators" in rows[-1]
