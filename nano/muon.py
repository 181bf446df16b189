"""Muon: gradient steps whose matrices are made orthogonal (K. Jordan et al., 2024), for convolutions and linear layers.

Contract: an optimiser of tensors with two or more axes, each seen as a matrix of its first axis against all others. An
update has all singular values near one, whatever the gradient's scale, so that directions with small gradients learn as
fast as those with large ones. Vectors (biases) go to another optimiser.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

_POLYNOMIAL = (3.4445, -4.7750, 2.0315)  # of the published iteration: steepest at zero, so that five rounds suffice
_ROUNDS = 5


class Muon(torch.optim.Optimizer):
    """`lr`: spectral norm of an update of a square matrix; a matrix of m rows and n columns gets sqrt(m / n) of it."""

    def __init__(self, parameters: Iterable[torch.nn.Parameter], lr: float = 0.02, momentum: float = 0.9):
        super().__init__(parameters, {"lr": lr, "momentum": momentum})
        if any(p.ndim < 2 for group in self.param_groups for p in group["params"]):
            raise ValueError("Muon takes tensors of two or more axes; give the others to another optimiser")

    @torch.no_grad()
    def step(self, closure=None) -> None:
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                average = state.setdefault("average", torch.zeros_like(parameter))
                average.lerp_(parameter.grad, 1 - group["momentum"])
                ahead = parameter.grad.lerp(average, group["momentum"]).flatten(1)  # as Nesterov's momentum
                rows, columns = ahead.shape
                update = orthogonalized(ahead).view_as(parameter)
                parameter.add_(update, alpha=-group["lr"] * (rows / columns) ** 0.5)


def orthogonalized(matrix: torch.Tensor) -> torch.Tensor:
    """The matrix with its singular values brought to about 0.7 .. 1.2, its singular vectors kept."""
    a, b, c = _POLYNOMIAL
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(_ROUNDS):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if tall else x
