"""Parameters shared out over processes (FSDP2), and whole tensors out of shards and back for checkpoints.

Contract: checkpoints hold whole tensors, so they do not depend on how many processes write or read them.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


def shard(module: nn.Module, blocks: tuple[type, ...]) -> None:
    """Share parameters, gradients and states out over all processes; each of ``blocks`` is gathered when it is used."""
    for child in module.modules():
        if isinstance(child, blocks):
            fully_shard(child)
    for child in module.children():
        fully_shard(child)  # sampling calls the UNet by itself
    fully_shard(module)


def gather_whole(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """On the CPU, to be written at once; all processes must call this together where tensors are sharded."""
    return {name: _gather(tensor) for name, tensor in tensors.items()}


@torch.no_grad()
def scatter_whole(values: Mapping[str, torch.Tensor], into: Mapping[str, torch.Tensor]) -> None:
    """Copy whole tensors into (shards of) those of the same names."""
    for name, tensor in into.items():
        tensor.copy_(_like(values[name], tensor))


def gather_optimizer_state(optimizer) -> dict:
    """The optimiser's state with whole tensors on the CPU."""
    state = optimizer.state_dict()
    whole = {
        number: {key: _gather(value) if isinstance(value, torch.Tensor) else value for key, value in entry.items()}
        for number, entry in state["state"].items()
    }
    return {**state, "state": whole}


def scatter_optimizer_state(optimizer, state: dict) -> None:
    """Inverse of `gather_optimizer_state`."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    parts = {
        number: {
            key: _like(value, parameters[number])
            if isinstance(value, torch.Tensor) and value.shape == parameters[number].shape
            else value
            for key, value in entry.items()
        }
        for number, entry in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": parts})


def _gather(tensor: torch.Tensor) -> torch.Tensor:
    tensor = tensor.detach()  # the same storage where it is whole and on the CPU
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).cpu()


def _like(value: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    if not isinstance(tensor, DTensor):
        return value
    return distribute_tensor(value.to(tensor.device), tensor.device_mesh, tensor.placements)
