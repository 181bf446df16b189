"""Muon: gradient steps whose matrices are made orthogonal (K. Jordan et al., 2024), for convolutions and linear layers.

Contract: a matrix is a tensor of two or more axes, its first against all others. Its update has all singular values
near one, whatever the gradient's scale, so that directions with small gradients learn as fast as those with large ones.
What is a vector, or has a side too short for that, is learned by AdamW.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

SHORTEST_SIDE = 16
_POLYNOMIAL = (3.4445, -4.7750, 2.0315)  # of the published iteration: steepest at zero, so that five rounds suffice
_ROUNDS = 5


class Muon(torch.optim.AdamW):
    """Groups with ``momentum`` hold matrices and are learned by Muon; all others by AdamW.

    A group's ``lr`` is, of matrices, the spectral norm of the update of a square one; m rows and n columns get
    sqrt(m / n) of it. Raises ValueError for a vector among the matrices.
    """

    def __init__(self, groups: Iterable[dict], **adamw):
        super().__init__(groups, **adamw)
        if any(p.ndim < 2 for group in self._matrices() for p in group["params"]):
            raise ValueError("Muon takes tensors of two or more axes; leave others in groups without momentum")

    def _matrices(self) -> list[dict]:
        return [group for group in self.param_groups if "momentum" in group]

    @torch.no_grad()
    def step(self, closure=None) -> None:
        """One update of every parameter that has a gradient."""
        groups, matrices = self.param_groups, self._matrices()
        for group in matrices:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._step_matrix(parameter, group["lr"], group["momentum"], group["weight_decay"])
        self.param_groups = [group for group in groups if "momentum" not in group]
        try:
            super().step(closure)
        finally:
            self.param_groups = groups

    def _step_matrix(self, parameter: nn.Parameter, lr: float, momentum: float, weight_decay: float) -> None:
        state = self.state[parameter]
        if not state:
            state |= {"average": torch.zeros_like(parameter), "step": torch.tensor(0.0)}
        average = state["average"]
        state["step"] += 1  # as of AdamW, which wants it when states are loaded
        average.lerp_(parameter.grad, 1 - momentum)
        ahead = parameter.grad.lerp(average, momentum).flatten(1)  # as Nesterov's momentum
        rows, columns = ahead.shape
        parameter.mul_(1 - lr * weight_decay)
        parameter.add_(orthogonalized(ahead).view_as(parameter), alpha=-lr * (rows / columns) ** 0.5)


def split_matrices(parameters: Iterable[nn.Parameter]) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """(those that Muon takes, the others)."""
    large, rest = [], []
    for parameter in parameters:
        fits = parameter.ndim > 1 and min(parameter.flatten(1).shape) >= SHORTEST_SIDE
        (large if fits else rest).append(parameter)
    return large, rest


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
