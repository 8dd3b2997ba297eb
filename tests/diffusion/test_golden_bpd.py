"""Likelihood and training losses with a real network, against stored ones of the published code.

"mse" and "kl" there are our L_hybrid and bound term: L_hybrid adds K / 1000 of the bound's term ("rescaled_mse"), or
the term itself ("mse"), which is vlb_weight 0.001 and 1 / K here. Gradient norms are compared to 1e-3 and 1e-5 of the
largest, as the stored set recommends, since some are zero up to rounding. Of the loop's side quantities,
(x0 - x_0)^2 and (eps - noise)^2, the first is compared; the second is a multiple of it where x0 is not clipped.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import pytest
import torch
from oracles.golden import arrays, assert_near, sidecar
from oracles.published import published_flags, published_weights, stored_network
from torch import Tensor, nn

from guided_diffusion.diffusion.chain import DiffusionChain, q_sample
from guided_diffusion.diffusion.denoiser import NetworkDenoiser
from guided_diffusion.diffusion.losses import (
    Noised,
    bound_term,
    hybrid_loss,
    per_sample_mean,
    prior_bound,
    simple_loss,
    vlb_loss,
)
from guided_diffusion.diffusion.schedules import ChainConfig, make_chain, timestep_subset
from guided_diffusion.openai import convert, revert

MEANING: dict[str, Any] = {"prediction": "eps", "variance": "learned_range"}

Loss = Callable[..., Tensor]
"""(output, noised) -> (B,)."""


@pytest.fixture(scope="module")
def stored() -> dict[str, Tensor]:
    return arrays("bpd")


@pytest.fixture(scope="module")
def chain() -> DiffusionChain:
    diffusion = sidecar("bpd")["diffusion"]
    assert (diffusion["schedule"], diffusion["rescale_timesteps"]) == ("linear", False)
    whole = make_chain(ChainConfig(schedule="linear", num_steps=diffusion["T"]))
    return whole.shortened(timestep_subset(diffusion["T"], diffusion["respacing"]))


@cache
def _network() -> nn.Module:
    return stored_network(sidecar("bpd"))


@pytest.mark.parametrize("clip", [1.0, None])
def test_every_term_of_the_bound_their_sum_and_the_error_of_x0_are_the_published_ones(
    stored: dict[str, Tensor], chain: DiffusionChain, clip: float | None
):
    prefix = "clip0" if clip is None else "clip1"
    x0 = stored["x_start"]
    denoiser = NetworkDenoiser(partial(_network(), y=stored["y"]), **MEANING, clip=clip)
    terms: list[Tensor] = []
    errors: list[Tensor] = []
    for k, eps in zip(reversed(range(len(chain))), stored["noise"], strict=True):
        step = chain.at(k, like=x0)
        x_t = q_sample(x0, eps, step)
        estimate = denoiser(x_t, step)
        terms.append(bound_term(estimate, x0, x_t, step))
        errors.append(per_sample_mean((estimate.x0 - x0) ** 2))
    prior = prior_bound(x0, float(chain.alpha_bar[-1]))
    assert_near(torch.stack(terms, dim=1), stored[f"{prefix}/vb"], 1e-5)
    assert_near(torch.stack(errors, dim=1), stored[f"{prefix}/xstart_mse"], 1e-5)
    # The prior's 1e-5 bits are what is left of float32 terms near 1 that cancel.
    torch.testing.assert_close(prior, stored[f"{prefix}/prior_bpd"], rtol=0, atol=2**-23)
    assert_near(torch.stack(terms).sum(dim=0) + prior, stored[f"{prefix}/total_bpd"], 1e-5)


def _losses(num_steps: int) -> dict[str, Loss]:
    hybrid = partial(hybrid_loss, num_steps=num_steps, **MEANING)
    return {
        "mse": partial(hybrid, vlb_weight=1 / num_steps),
        "rescaled_mse": hybrid,
        "kl": partial(vlb_loss, num_steps=1, **MEANING),
        "rescaled_kl": partial(vlb_loss, num_steps=num_steps, **MEANING),
    }


@pytest.mark.parametrize("name", ["mse", "rescaled_mse", "kl", "rescaled_kl"])
def test_training_loss_and_its_gradient_norms_are_the_published_ones(
    stored: dict[str, Tensor], chain: DiffusionChain, name: str
):
    network = _network().requires_grad_(True)
    network.zero_grad()
    x0, eps = stored["x_start"], stored["train_noise"]
    noised = Noised.of(x0, eps, chain.at(stored["train_t"], like=x0))
    output = network(noised.x_t, noised.step.t, stored["y"])
    loss = _losses(len(chain))[name](output, noised)
    loss.mean().backward()
    assert_near(loss.detach(), stored[f"train/{name}/loss"], 1e-5)
    if f"train/{name}/mse" in stored:
        mse = simple_loss(output.detach(), noised, **MEANING)
        assert_near(mse, stored[f"train/{name}/mse"], 1e-5)
    norms, expected = _gradient_norms(network), stored[f"train/{name}/grad_l2_per_parameter"]
    excess = (norms - expected).abs() - 1e-3 * expected
    assert float(excess.max()) <= 1e-5 * float(expected.max())


def _gradient_norms(network: nn.Module) -> Tensor:
    """Norms of the gradients in published order. The layout is a permutation, so a gradient goes through it as a weight
    does."""
    described = sidecar("bpd")
    weights = published_weights(described["state_dict"], described["weights"])
    converted = convert(published_flags(described["hyperparameters"]), weights)
    gradients = {key: parameter.grad for key, parameter in network.named_parameters()}
    published = revert(type(converted)(converted.kind, converted.config, gradients)).weights
    return torch.stack([published[key].double().norm() for key in described["parameter_order"]])
