"""Muon: orthogonal steps for matrices, AdamW for the rest, and a training with it that goes on where it was."""

import numpy as np
import pytest
import torch
from comfyui_lavie.tests.tiny_training import make_catalogue, make_unet, save_unet, tiny_recipe
from comfyui_lavie.training.checkpoints import Checkpoints
from comfyui_lavie.training.loop import Training
from comfyui_lavie.training.muon import Muon, orthogonalized, split_matrices
from torch import nn


def stepped(parameter, gradient, make):
    """What two steps add to a parameter."""
    parameter = nn.Parameter(parameter.clone())
    before = parameter.detach().clone()
    optimizer = make(parameter)
    for _ in range(2):
        parameter.grad = gradient.clone()
        optimizer.step()
    return parameter.detach() - before


@pytest.mark.parametrize("shape", [(24, 60), (60, 24), (32, 32), (20, 20), (12, 40), (40, 12)])
def test_singular_values_come_near_one_and_vectors_stay(shape):
    matrix = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    inside = u.T @ orthogonalized(matrix) @ v.T
    along = torch.diagonal(inside)
    assert 0.6 < along[:-2].min() and 0.5 < along.min() and along.max() < 1.3
    torch.testing.assert_close(inside, torch.diag(along), atol=1e-4, rtol=0)


def test_a_step_is_as_long_whatever_the_gradient_and_as_said_of_the_shape():
    rng = torch.Generator().manual_seed(0)
    kernel, gradient = torch.randn(32, 16, 3, 3, generator=rng), torch.randn(32, 16, 3, 3, generator=rng)
    make = lambda p: Muon([{"params": [p], "lr": 0.1, "momentum": 0.0}], weight_decay=0.0)  # noqa: E731
    ways = [stepped(kernel, gradient * scale, make).flatten(1) for scale in (1e-3, 1.0, 1e3)]
    for way in ways:
        torch.testing.assert_close(way, ways[0], rtol=1e-2, atol=1e-4)
    expected = 2 * 0.1 * (32 / 144) ** 0.5
    assert 0.7 * expected < torch.linalg.matrix_norm(ways[0], 2) < 1.3 * expected


def test_vectors_and_thin_matrices_are_adamws():
    thin, wide, vector = nn.Parameter(torch.ones(8, 99)), nn.Parameter(torch.ones(16, 16)), nn.Parameter(torch.ones(9))
    large, rest = split_matrices([thin, wide, vector])
    assert [id(p) for p in large] == [id(wide)] and [id(p) for p in rest] == [id(thin), id(vector)]
    gradient = torch.linspace(-1, 1, 9)
    ours = stepped(vector, gradient, lambda p: Muon([{"params": [p]}], lr=0.1, weight_decay=0.1))
    theirs = stepped(vector, gradient, lambda p: torch.optim.AdamW([p], lr=0.1, weight_decay=0.1))
    assert torch.equal(ours, theirs)
    with pytest.raises(ValueError, match="two or more axes"):
        Muon([{"params": [vector], "momentum": 0.9}])


def test_a_training_learns_and_goes_on_where_it_was(tmp_path):
    make_catalogue(tmp_path / "catalogue")
    save_unet(make_unet(), tmp_path / "base.safetensors")

    def training(name, count):
        values = {
            "model__start": tmp_path / "base.safetensors", "data__images": 2, "samples__every": 0,
            "validation__every": 0, "validation__heldout": 0, "optimizer__name": "muon", "optimizer__lr": 2e-3,
            "run__steps": count, "run__save_every": 100,
        }  # fmt: skip
        return Training(tiny_recipe("nano_joint", tmp_path / name, tmp_path / "catalogue", **values))

    whole = training("whole", 30)
    losses = [whole.train_step(whole.inputs.read(whole.data, 0, step))["loss"] for step in range(30)]
    assert np.mean(losses[-8:]) < 0.8 * np.mean(losses[:8])
    training("parts", 3).run()
    training("parts", 6).run()
    training("once", 6).run()
    one, other = (Checkpoints(tmp_path / name).load()["model"] for name in ("parts", "once"))
    assert all(torch.equal(value, other[key]) for key, value in one.items())
