"""Tensors that may be spread over processes (FSDP's DTensors), treated alike with those that are not."""

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from ..distributed import is_first_process


def shard(network: nn.Module, *, device_type: str) -> None:
    """Spread the network's parameters over all processes, level by level and block by block, in place."""
    mesh = init_device_mesh(device_type, (dist.get_world_size(),))
    lists = [module for module in network.modules() if isinstance(module, nn.ModuleList)]
    for modules in reversed(lists):  # inner ones first: what is already sharded is left out of what holds it
        for module in modules:
            fully_shard(module, mesh=mesh)
    fully_shard(network, mesh=mesh)


def full(tensor: Tensor) -> Tensor:
    """The whole tensor. One that is spread is put together on the CPU of the first process: every process must ask for
    it, and the others get nothing."""
    if not isinstance(tensor, DTensor):
        return tensor
    whole = tensor.full_tensor()
    return whole.cpu() if is_first_process() else whole.new_empty(0)


def full_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of whole tensors."""
    return {name: full(tensor) for name, tensor in state.items()}


def spread_again(network: nn.Module) -> None:
    """Spread the parameters again that a forward pass without gradients has left whole."""
    for module in network.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor, the same memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def laid_out_like(tensor: Tensor, like: Tensor) -> Tensor:
    """A copy of a whole tensor on like's device, in its memory format and spread as it is.

    The fused optimiser goes through weights and moments in the order of memory: it takes them to be laid out alike.
    """
    copy = torch.empty_like(like, dtype=tensor.dtype, requires_grad=False)
    whole = tensor.to(like.device)
    if isinstance(like, DTensor):
        whole = distribute_tensor(whole, like.device_mesh, like.placements)
    local(copy).copy_(local(whole))
    return copy
