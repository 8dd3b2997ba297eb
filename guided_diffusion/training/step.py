"""One optimiser update, on one process or many, of a whole batch or in micro-batches."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from ..data.batches import Batch
from ..diffusion.noise import SeededNoise, sample_seed
from ..distributed import clip_gradients, gathered, gradients_synced, on_any_process
from ..stop_request import InterruptedWork, StopRequest
from .objective import Losses
from .run import HostCopy, TrainState, Update

DROPOUT = 1 << 32
"""Added to the seed, so that dropout's generator differs from that of the sample with the iteration's number."""

MOST_LOSS_GROWTH = 1e4
"""An update whose loss is over this many times the largest of all sound ones is not sound: its weights are ruined."""


def accumulate(state: TrainState, micro_batches: Sequence[Batch], stop: StopRequest) -> Update:
    """Accumulate the gradients of this process's share of a batch.

    Raises:
        InterruptedWork: a lone process was asked to stop; nothing has changed.
    """
    # Dropout alone uses the global generator; seeded so, iteration n is the same after a resume.
    position = state.iteration * state.process.world_size + state.process.rank
    torch.manual_seed(sample_seed(DROPOUT + state.run.config.seed, position))
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
    joined = {name: torch.cat([micro[name].detach() for micro in observed]) for name in observed[0]}
    return Update(micro_batches=micro_batches, numbers=means, observed=joined)


def launch(state: TrainState, update: Update, stop: StopRequest) -> None:
    """Make an update, which counts as an iteration; the device skips it where loss or gradient are not finite."""
    accelerator, optimizer, config = state.accelerator, state.optimizer, state.run.config
    remaining = 1 - state.iteration / config.total_iterations if config.anneal == "linear" else 1.0
    warm = min(1.0, (state.iteration + 1) / config.warmup_iterations) if config.warmup_iterations else 1.0
    for group in optimizer.param_groups:
        group["lr"] = config.learning_rate * remaining * warm
    accelerator.unscale_gradients(optimizer)
    norm, loss = clip_gradients(state.model, max_norm=config.max_grad_norm), update.numbers["loss"]
    flags = on_any_process(
        ~loss.isfinite(), ~norm.isfinite(), loss > MOST_LOSS_GROWTH * state.largest_loss, stop.requested
    )
    update.flags = HostCopy(flags)  # before the optimiser's work, which need not be waited for
    if accelerator.scaler is None:  # a loss scale skips the update by itself, and learns from it
        cast(Any, optimizer).optimizer.found_inf = flags[:2].any().float()
    optimizer.step()
    optimizer.zero_grad()
    state.iteration += 1
    update.numbers["grad_norm"], state.launched = norm, update


def settle(state: TrainState) -> Update | None:
    """Judge the launched update, and follow it by the averages; None if there is none. To be called before the next."""
    launched, state.launched = state.launched, None
    if launched is None or launched.flags is None:
        return None
    broken_losses, broken_gradients, absurd_losses, launched.stop_requested = launched.flags.read().tolist()
    launched.is_finite, scaler = not broken_losses and not broken_gradients, state.accelerator.scaler
    can_be_lowered = scaler is not None and scaler.get_scale() > 1
    is_overflow = broken_gradients and not broken_losses and can_be_lowered
    _judge(state, launched.numbers["loss"], is_sound=launched.is_finite and not absurd_losses, is_overflow=is_overflow)
    if launched.is_finite:
        state.ema.update(state.iteration)
        if state.run.adaptive_timesteps is not None:
            of_whole_batch = gathered(launched.observed)  # in stream order
            state.run.adaptive_timesteps.learn(of_whole_batch["k"], of_whole_batch["loss"])
    return launched


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
    noise = SeededNoise(state.run.config.seed, batch.counter.tolist())
    on_device = batch.to(state.process.device)
    with gradients_synced(state.accelerator, state.model, synced=synced):
        losses = state.run.objective(state.model, on_device, noise)
        state.accelerator.backward(losses.total * (len(batch.y) / state.share))
    return losses
