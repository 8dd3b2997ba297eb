"""One optimiser update, on one process or many, of a whole batch or in micro-batches."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..data.batches import Batch
from ..diffusion.noise import SeededNoise, sample_seed
from ..distributed import clip_gradients, gathered, gradients_synced, on_any_process
from ..stop_request import InterruptedWork, StopRequest
from .objective import Losses
from .run import TrainState

DROPOUT = 1 << 32
"""Added to the seed, so that dropout's generator differs from that of the sample with the iteration's number."""

MOST_LOSS_GROWTH = 1e4
"""An update whose loss is over this many times the largest of all sound ones is not sound: its weights are ruined."""


@dataclass(frozen=True, kw_only=True)
class UpdateResult:
    """The outcome of an update; the same on every process but for the numbers."""

    numbers: Mapping[str, Tensor] | None
    """This process's, () each, for the log; None if loss or gradient were not finite, and nothing has changed."""
    stop_requested: bool = False
    """Some process was asked to stop."""


def update(state: TrainState, micro_batches: Sequence[Batch], stop: StopRequest) -> UpdateResult:
    """One optimiser update on this process's share of a batch; it counts as an iteration.

    Raises:
        InterruptedWork: a lone process was asked to stop; nothing has changed.
    """
    accelerator, optimizer, config = state.accelerator, state.optimizer, state.run.config
    # Dropout alone uses the global generator; seeded so, iteration n is the same after a resume.
    position = state.iteration * state.process.world_size + state.process.rank
    torch.manual_seed(sample_seed(DROPOUT + config.seed, position))
    remaining = 1 - state.iteration / config.total_iterations if config.anneal == "linear" else 1.0
    for group in optimizer.param_groups:
        group["lr"] = config.learning_rate * remaining
    means, observed = _accumulated(state, micro_batches, stop)
    accelerator.unscale_gradients(optimizer)
    norm = clip_gradients(state.model, max_norm=config.max_grad_norm)
    loss = means["loss"]
    broken_losses, broken_gradients, absurd_losses, stops = on_any_process(
        ~loss.isfinite(), ~norm.isfinite(), loss > MOST_LOSS_GROWTH * state.largest_loss, torch.tensor(stop.requested)
    )
    is_finite = not broken_losses and not broken_gradients
    if is_finite or accelerator.scaler is not None:  # a loss scale skips the update by itself, and learns from it
        optimizer.step()
    optimizer.zero_grad()
    state.iteration += 1
    can_be_lowered = accelerator.scaler is not None and accelerator.scaler.get_scale() > 1
    is_overflow = broken_gradients and not broken_losses and can_be_lowered
    _judge(state, loss, is_sound=is_finite and not absurd_losses, is_overflow=is_overflow)
    if not is_finite:
        return UpdateResult(numbers=None, stop_requested=stops)
    state.ema.update()
    if state.run.adaptive_timesteps is not None:
        of_whole_batch = gathered(observed)  # in stream order
        state.run.adaptive_timesteps.learn(of_whole_batch["k"], of_whole_batch["loss"])
    return UpdateResult(numbers={**means, "grad_norm": norm}, stop_requested=stops)


def _judge(state: TrainState, loss: Tensor, *, is_sound: bool, is_overflow: bool) -> None:
    """Record the soundness of an update. is_overflow: if it was not, a lower loss scale may mend it."""
    state.is_sound = is_sound
    if is_sound:
        state.unsound_in_a_row = 0
        state.largest_loss = torch.fmax(state.largest_loss, loss.detach().clamp(min=1))
    else:
        state.unsound_in_a_row += not is_overflow


def backward(state: TrainState, batch: Batch, *, synced: bool) -> Losses:
    """Add the gradients of a micro-batch. synced: exchange gradients between processes, with the last one."""
    config = state.run.config
    noise = SeededNoise(config.seed, batch.counter.tolist())
    on_device = batch.to(state.process.device)
    if config.channels_last:
        on_device = replace(on_device, x0=on_device.x0.contiguous(memory_format=torch.channels_last))
    with gradients_synced(state.accelerator, state.model, synced=synced):
        losses = state.run.objective(state.model, on_device, noise)
        state.accelerator.backward(losses.total * (len(batch.y) / state.share))
    return losses


def _accumulated(
    state: TrainState, micro_batches: Sequence[Batch], stop: StopRequest
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Accumulate the gradients; the means of the logged losses, and the observed values sample by sample."""
    means: dict[str, Tensor] = {}
    observed: list[Mapping[str, Tensor]] = []
    for batch in micro_batches:
        if stop.requested and state.process.world_size == 1:
            state.optimizer.zero_grad()
            raise InterruptedWork
        losses = backward(state, batch, synced=batch is micro_batches[-1])
        for name, value in {"loss": losses.total, **losses.logged}.items():
            means[name] = means.get(name, 0.0) + value.detach() * (len(batch.y) / state.share)
        observed.append(losses.observed)
    return means, {name: torch.cat([micro[name].detach() for micro in observed]) for name in observed[0]}
