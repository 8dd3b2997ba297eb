"""Chain, prediction and variance of a model as the config of a scheduler of diffusers, and back."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from ..diffusion.chain import DiffusionChain
from ..diffusion.model import DiffusionConfig
from ..diffusion.schedules import ChainConfig, cosine_betas, make_chain
from ..models.blocks import timestep_embedding

_PREDICTIONS = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}
_VARIANCES = {"learned_range": "learned_range", "small": "fixed_small", "large": "fixed_large"}
_SCHEDULES = {"linear": "linear", "cosine": "squaredcos_cap_v2"}
_ENDS = {"beta_start": 1e-4, "beta_end": 0.02}
"""Fields of the first and the last beta of a linear schedule, with the defaults of diffusers."""
_KNOWN = ("DDPM", "DDIM", "PNDM", "DPMSolverMultistep", "DPMSolverSinglestep", "UniPCMultistep")
"""Schedulers of numbered steps, whose networks see x_t as ours do and are conditioned on the step's number."""


def scheduler_config(model: DiffusionConfig) -> dict[str, Any]:
    """The config of a DDPMScheduler on a model's chain, whose betas are written out.

    Raises:
        ValueError: a prediction or a variance that it does not have.
    """
    for option, value, known in (
        ("prediction", model.prediction, _PREDICTIONS),
        ("variance", model.variance, _VARIANCES),
    ):
        if value not in known:
            raise ValueError(f'DDPMScheduler has no form of {option} "{value}", only of {", ".join(known)}')
    betas = _betas(make_chain(model.chain)).tolist()
    return {
        "_class_name": "DDPMScheduler",
        "num_train_timesteps": len(betas),
        "beta_schedule": _SCHEDULES.get(model.chain.schedule, "linear"),  # by name only: the betas count
        "trained_betas": betas,
        "prediction_type": _PREDICTIONS[model.prediction],
        "variance_type": _VARIANCES[model.variance],
        "clip_sample": True,
    }


def time_table(config: ChainConfig, width: int) -> Tensor | None:
    """The time embeddings (T, width) of a chain's steps; None where they are those of the steps' numbers."""
    t = make_chain(config).t.float()
    return None if torch.equal(t, torch.arange(len(t)).float()) else timestep_embedding(t, width)


def model_fields(scheduler: Mapping[str, Any], table: Tensor | None, *, learned: bool) -> dict[str, Any]:
    """Chain, prediction and variance of `DiffusionConfig`, by name, of a scheduler's config.

    table: the network's time embeddings of numbered steps. learned: its output has channels for the variance.

    Raises:
        ValueError: another scheduler, prediction, variance or schedule than ours.
    """
    name = scheduler["_class_name"]
    if name.removesuffix("Scheduler") not in _KNOWN:
        raise ValueError(f"{name} follows no chain of this project's; the schedulers that do are {', '.join(_KNOWN)}")
    prediction = scheduler.get("prediction_type") or "epsilon"
    variance = scheduler.get("variance_type") or ("learned_range" if learned else "fixed_small")
    fields: dict[str, Any] = {}
    for field, value, known in (
        ("prediction", prediction, _PREDICTIONS),
        ("variance", variance.replace("fixed_small_log", "fixed_small"), _VARIANCES),
    ):
        if value not in known.values():
            raise ValueError(f'{name} has {field}_type "{value}", and models here {", ".join(known.values())}')
        fields[field] = next(ours for ours, theirs in known.items() if theirs == value)
    return {"chain": _chain(_scheduled_betas(scheduler), table), **fields}


def _chain(betas: Tensor, table: Tensor | None) -> ChainConfig:
    """The chain with these betas, and with these time embeddings."""
    candidates: list[Any] = [{"schedule": name, "rescale_t": told} for name in _SCHEDULES for told in (False, True)]
    candidates.append({"schedule": "offset_cosine"})
    for candidate in candidates:
        with suppress(ValueError):  # too few steps for a linear schedule
            config = ChainConfig(**candidate, num_steps=len(betas))
            same_noise = torch.allclose(_betas(make_chain(config)), betas, rtol=1e-4, atol=1e-7)
            ours = time_table(config, 2 if table is None else table.shape[1])
            same_time = ours is table if ours is None or table is None else torch.allclose(ours, table, atol=1e-4)
            if same_noise and same_time:
                return config
    raise ValueError(
        f"the scheduler's {len(betas)} betas, {float(betas[0]):.3g} to {float(betas[-1]):.3g}, are no chain of this "
        f"project's, linear ({0.1 / len(betas):.3g} to {20 / len(betas):.3g} for that many) or cosine"
        + ("" if table is None else ", with the network's table of time embeddings")
    )


def _betas(chain: DiffusionChain) -> Tensor:
    return 1 - chain.alpha_bar / torch.cat([chain.alpha_bar.new_ones(1), chain.alpha_bar[:-1]])


def _scheduled_betas(scheduler: Mapping[str, Any]) -> Tensor:
    """The betas (T,) float64 of a scheduler's config, its missing fields at their defaults in diffusers."""
    schedule, steps = scheduler.get("beta_schedule") or "linear", scheduler.get("num_train_timesteps") or 1000
    written = scheduler.get("trained_betas")
    zero = ", rescale_betas_zero_snr" if scheduler.get("rescale_betas_zero_snr") else ""
    if zero or not (written or schedule in _SCHEDULES.values()):
        raise ValueError(f"the scheduler's betas are {schedule}{zero}, and here {', '.join(_SCHEDULES.values())}")
    if written:
        return torch.tensor(written, dtype=torch.float64)
    ChainConfig(num_steps=steps)  # which refuses too few and too many
    if schedule != "linear":
        return cosine_betas(steps)
    first, last = (default if scheduler.get(name) is None else scheduler[name] for name, default in _ENDS.items())
    return torch.linspace(first, last, steps, dtype=torch.float64)
