"""Properties of every sampler of the table: its result, its callback, its draws of noise, its cost, its guidance."""

from typing import get_args

import pytest
import torch
from oracles.counting import Counted
from oracles.mixture import assert_is_component, batch_noise, draws, three_blobs
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from guided_diffusion.diffusion.denoiser import NetworkDenoiser
from guided_diffusion.diffusion.noise import SeededNoise
from guided_diffusion.diffusion.schedules import ChainConfig, chain_from_betas, linear_betas, timestep_subset
from guided_diffusion.guidance import classifier_score, within
from guided_diffusion.samplers import SamplerConfig, SamplerName, make_sampler
from guided_diffusion.samplers.config import SAMPLERS

NAMES = get_args(SamplerName)
CHAIN = chain_from_betas(linear_betas(1000))
SHORT, EVEN = (CHAIN.shortened(timestep_subset(1000, str(n))) for n in (25, 12))
MIXTURE = three_blobs(CHAIN)
LINKS, MOVES = len(SHORT), 2
EVALUATIONS = {"heun": 2 * LINKS - 1, "langevin": LINKS * MOVES + 1, "predictor_corrector": LINKS * (MOVES + 1)}
"""Of those that do not ask once a link."""
DRAWS = {
    "ddpm": LINKS - 1,
    "dpmpp_2m_sde": LINKS - 1,
    "langevin": LINKS * MOVES,
    "predictor_corrector": LINKS * MOVES + LINKS - 1,
}
"""Of those that draw noise after x_T."""


def made(name):
    return make_sampler(
        SamplerConfig(name=name, langevin_steps=MOVES if "langevin_steps" in SAMPLERS[name].options else None)
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("chain", [SHORT, EVEN], ids=["odd", "even"])
def test_a_known_x_0_is_where_it_ends(name, chain):
    point = torch.full((1, 2, 1, 2), 0.3, dtype=torch.float64)
    denoiser = NetworkDenoiser(lambda x, t: point.expand_as(x), "x0", "small")
    x_0 = made(name)(denoiser, chain, draws(3, 2, 1, 2), batch_noise(0))
    assert_close(x_0, point.expand_as(x_0), rtol=0, atol=1e-15)


@pytest.mark.parametrize("name", NAMES)
def test_the_watcher_is_told_every_link_and_the_last_estimate_is_the_result(name):
    told = []
    x_0 = made(name)(
        MIXTURE.denoiser, SHORT, draws(3, 2, 1, 2), batch_noise(0), on_step=lambda k, x, e: told.append((k, x, e.x0))
    )
    assert [k for k, _, _ in told] == list(reversed(range(LINKS)))
    assert torch.equal(told[-1][1], x_0)
    assert torch.equal(told[-1][2], x_0)


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_does_not_depend_on_its_batch(name):
    """To the rounding of kernels that group a batch differently."""
    x_T = SeededNoise(0, range(5))(torch.empty(5, 2, 1, 2, dtype=torch.float64))
    together = made(name)(MIXTURE.denoiser, SHORT, x_T, SeededNoise(1, range(5)))
    alone = made(name)(MIXTURE.denoiser, SHORT, x_T[3:4], SeededNoise(1, [3]))
    assert_close(together[3:4], alone, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", NAMES)
def test_guidance_of_scale_0_changes_no_bit(name):
    x_T, term = draws(3, 2, 1, 2), classifier_score(MIXTURE.log_prob, torch.tensor([0, 1, 2]), scale=0.0)
    guided = made(name)(MIXTURE.denoiser, SHORT, x_T, batch_noise(1), guidance=term)
    assert torch.equal(guided, made(name)(MIXTURE.denoiser, SHORT, x_T, batch_noise(1)))


@pytest.mark.parametrize("name", NAMES)
def test_it_asks_the_denoiser_and_the_classifier_as_often_as_its_order_needs_and_no_more(name):
    denoiser, classifier = Counted(MIXTURE.denoiser), Counted(MIXTURE.log_prob)
    term = classifier_score(classifier, torch.tensor([0, 1, 2]), scale=1.0)
    made(name)(denoiser, SHORT, draws(3, 2, 1, 2), batch_noise(0), guidance=term)
    assert denoiser.calls == EVALUATIONS.get(name, LINKS)
    assert classifier.calls == denoiser.calls


@pytest.mark.parametrize("name", NAMES)
def test_noise_is_drawn_only_where_it_acts(name):
    noise = Counted(batch_noise(0))
    made(name)(MIXTURE.denoiser, SHORT, draws(3, 2, 1, 2), noise)
    assert noise.calls == DRAWS.get(name, 0)


@pytest.mark.parametrize("name", NAMES)
def test_the_denoiser_is_told_no_timestep_that_the_chain_has_not(name):
    told = []

    def denoiser(x_t, step):
        told.append(float(step.t[0]))
        return MIXTURE.denoiser(x_t, step)

    made(name)(denoiser, SHORT, draws(3, 2, 1, 2), batch_noise(0))
    assert set(told) == set(SHORT.t.tolist())


@pytest.mark.parametrize("name", NAMES)
def test_float32_images_stay_float32_keep_no_gradient_and_x_T_stays_as_it_was(name):
    weight = torch.ones((), requires_grad=True)
    denoiser = NetworkDenoiser(lambda x, t: weight * x, "eps", "small")
    x_T = draws(3, 2, 4, 4, dtype=torch.float32)
    kept = x_T.clone()
    x_0 = made(name)(denoiser, SHORT, x_T, SeededNoise(0, range(3)))
    assert x_0.dtype == torch.float32
    assert torch.isfinite(x_0).all()
    assert not x_0.requires_grad
    assert torch.equal(x_T, kept)


@pytest.mark.parametrize("name", NAMES)
def test_a_chain_may_start_in_pure_noise_unless_the_sampler_divides_by_the_signal(name):
    """alpha_bar 0, where x_T is eps and only v or x0 can be predicted."""
    chain = chain_from_betas(linear_betas(20))
    assert chain.alpha_bar[-1] == 0
    denoiser = NetworkDenoiser(lambda x, t: 0.1 * x, "x0", "small")
    if name in ("heun", "langevin"):
        with pytest.raises(ValueError, match=f"alpha_bar 0, an infinite sigma, from which {name} cannot start"):
            made(name)(denoiser, chain, draws(3, 1, 1, 2), batch_noise(0))
    else:
        assert torch.isfinite(made(name)(denoiser, chain, draws(3, 1, 1, 2), batch_noise(0))).all()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("dpmpp_2m", {"steps": 50}),
        ("dpmpp_2s", {"steps": 50}),
        ("unipc", {"steps": 50}),
        ("heun", {"steps": 50}),
        ("dpmpp_2m_sde", {"steps": 250}),
        ("langevin", {"steps": 60, "langevin_steps": 15}),
    ],
)
def test_guided_by_the_exact_classifier_its_samples_are_the_components(name, options):
    """In the sampler's own spacing. ddim, ddpm and predictor_corrector have tests of their own."""
    config = SamplerConfig(name=name, **options)
    term = classifier_score(MIXTURE.log_prob, torch.ones(1000, dtype=torch.int64), scale=1.0)
    x_T = draws(1000, 2, 1, 2, seed=11)
    x_0 = make_sampler(config)(MIXTURE.denoiser, config.levels(ChainConfig()), x_T, batch_noise(5), guidance=term)
    assert_is_component(x_0, MIXTURE, y=1)


class Waits(TorchDispatchMode):
    """Names of the operations for which the host must wait for a GPU: it needs a number of a float32 tensor.

    The chain is float64, and on the host.
    """

    WAITING = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "unique")

    def __init__(self):
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name, is_chain = func.overloadpacket.__name__, args[:1] and getattr(args[0], "dtype", None) == torch.float64
        self.found += [name] if name in self.WAITING and not is_chain else []
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", NAMES)
def test_no_guided_link_makes_the_host_wait_for_the_device(name):
    term = within(classifier_score(lambda x, t: x.flatten(1).log_softmax(dim=1), torch.tensor([0, 1]), 1.0), 0.1, 50)
    denoiser = NetworkDenoiser(lambda x, t: torch.cat([x, x], dim=1).tanh(), "eps", "learned_range")
    x_T = draws(2, 2, 1, 2).float()
    _ = SHORT.at(0, like=x_T)  # coefficients become numbers once
    with Waits() as waits:
        made(name)(denoiser, SHORT, x_T, lambda like: torch.zeros_like(like), guidance=term)
    assert waits.found == []
    with Waits() as waits:
        float(x_T.sum())
    assert waits.found == ["_local_scalar_dense"]
