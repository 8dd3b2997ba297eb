"""Several processes as one, and one device as another: the only part of the loop that knows accelerate."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Literal, cast

import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from ..distributed import PATIENCE, has_accelerator
from ..models.unet import recompute
from .config import LoopConfig
from .sharding import shard


def make_accelerator(config: LoopConfig) -> Accelerator:
    """The process's place among the others, its device and its precision.

    Raises:
        ValueError: float16 without a GPU.
    """
    precision = _precision(config)
    if precision == "fp16" and not has_accelerator():
        raise ValueError("training.precision float16 needs a GPU; take float32 here")
    # Without `cpu`, accelerate takes each of several processes without accelerators for a run of its own.
    patience = InitProcessGroupKwargs(timeout=PATIENCE)
    return Accelerator(mixed_precision=precision, cpu=not has_accelerator(), kwargs_handlers=[patience])


def _precision(config: LoopConfig) -> str:
    has_bfloat16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    wanted = config.precision if config.precision != "auto" else "bfloat16" if has_bfloat16 else "float32"
    return {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}[wanted]


def distributed(network: nn.Module, config: LoopConfig, accelerator: Accelerator) -> nn.Module:
    """The network on its device, as the loop calls it: its gradients are those of all processes.

    Raises:
        ValueError: sharding with one process; a size to recompute that the network does not have.
    """
    recompute(network, config.recompute_sizes)
    network.to(accelerator.device)
    if config.channels_last:
        network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue, reportArgumentType]  # undeclared form
    if config.shard:
        if accelerator.num_processes == 1:
            raise ValueError("training.shard spreads a network over processes, but there is one; start several")
        shard(network, device_type=accelerator.device.type)
    if config.compile:
        network.compile()
    # In evaluation mode, accelerate adds the precision and no DistributedDataParallel.
    return cast(nn.Module, accelerator.prepare_model(network, evaluation_mode=config.shard))


@contextmanager
def gradients_synced(accelerator: Accelerator, model: nn.Module, *, synced: bool) -> Iterator[None]:
    """Processes exchange gradients once per update, with its last micro-batch."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(synced)
        yield
    elif synced:
        yield
    else:
        with accelerator.no_sync(model):
            yield


def clipped_gradient_norm(model: nn.Module, *, limit: float | None) -> Tensor:
    """() L2 norm of all gradients, which are scaled down to `limit` where they are longer."""
    parameters = [parameter for parameter in model.parameters() if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm([cast(Tensor, parameter.grad) for parameter in parameters])
    if limit is not None:
        torch.nn.utils.clip_grads_with_norm_(parameters, limit, norm)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def reduced(accelerator: Accelerator, values: Tensor, reduction: Literal["sum", "mean"]) -> Tensor:
    """Sums or means over processes, on every process."""
    return cast(Tensor, accelerator.reduce(values.to(accelerator.device), reduction=reduction))


def told_by_the_first(answer: Callable[[], str | None], accelerator: Accelerator) -> str | None:
    """The first process's answer, on every process; a refusal is raised on every one as well."""
    told: list[str | None] = [None, None]
    if accelerator.is_main_process:
        try:
            told[0] = answer()
        except (ValueError, OSError) as refusal:
            told[1] = str(refusal)
    broadcast_object_list(told)
    if told[1] is not None:
        raise ValueError(told[1])
    return told[0]


def gathered(accelerator: Accelerator, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Values (b,) of every process behind one another in the order of their ranks, (B,), on the CPU."""
    return {name: cast(Tensor, accelerator.gather(value)).cpu() for name, value in values.items()}
