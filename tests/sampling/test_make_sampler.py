import pytest
import torch
from oracles.mixture import batch_noise, draws, three_blobs

from guided_diffusion.guidance import classifier_score, tilted
from guided_diffusion.sampling import SamplerConfig, ddim, ddpm, make_sampler
from guided_diffusion.schedules import (
    ChainConfig,
    chain_from_betas,
    linear_betas,
    offset_cosine_chain,
    timestep_subset,
)

CHAIN = chain_from_betas(linear_betas(1000)).shortened(timestep_subset(1000, "10"))
MIXTURE = three_blobs(chain_from_betas(linear_betas(1000)))
X_T = draws(3, 2, 1, 2)
TERM = classifier_score(MIXTURE.log_prob, torch.tensor([0, 1, 2]), scale=2.0)


def test_ddpm_is_guided_by_the_mean_shift():
    made = make_sampler(SamplerConfig(name="ddpm"))(MIXTURE.denoiser, CHAIN, X_T, batch_noise(1), guidance=TERM)
    assert torch.equal(made, ddpm(MIXTURE.denoiser, CHAIN, X_T, batch_noise(1), mean_shift=TERM))


@pytest.mark.parametrize("eta", [0.0, 0.5])
def test_ddim_is_guided_by_the_tilted_estimate(eta):
    made = make_sampler(SamplerConfig(name="ddim", eta=eta))(
        MIXTURE.denoiser, CHAIN, X_T, batch_noise(1), guidance=TERM
    )
    assert torch.equal(made, ddim(tilted(MIXTURE.denoiser, TERM), CHAIN, X_T, batch_noise(1), eta=eta))


@pytest.mark.parametrize(("name", "sampler"), [("ddpm", ddpm), ("ddim", ddim)])
def test_without_guidance_a_made_sampler_is_the_plain_one(name, sampler):
    told = []
    made = make_sampler(SamplerConfig(name=name))(
        MIXTURE.denoiser, CHAIN, X_T, batch_noise(1), on_step=lambda k, x, estimate: told.append(k)
    )
    assert torch.equal(made, sampler(MIXTURE.denoiser, CHAIN, X_T, batch_noise(1)))
    assert told == list(reversed(range(10)))


def test_a_plain_count_is_spaced_as_published_for_each_sampler():
    """ddpm spreads it over the whole chain, ddim takes a whole stride from 0."""
    assert torch.equal(SamplerConfig(name="ddpm", steps=25).levels(ChainConfig()).t.long(), timestep_subset(1000, "25"))
    assert torch.equal(SamplerConfig(name="ddim", steps=25).levels(ChainConfig()).t.long(), torch.arange(0, 1000, 40))


@pytest.mark.parametrize("name", ["ddpm", "ddim"])
def test_a_written_spec_means_the_same_for_every_sampler(name):
    for spec in ("10,20,30", "ddim50", "100", ""):
        levels = SamplerConfig(name=name, steps=spec).levels(ChainConfig())
        assert torch.equal(levels.t.long(), timestep_subset(1000, spec)), spec


@pytest.mark.parametrize("name", ["ddpm", "ddim"])
def test_in_continuous_time_a_count_is_that_many_levels_for_every_sampler(name):
    for steps in (7, "7", "ddim7"):
        levels = SamplerConfig(name=name, steps=steps).levels(ChainConfig(schedule="offset_cosine"))
        assert torch.equal(levels.alpha_bar, offset_cosine_chain(7).alpha_bar), steps


def test_eta_is_refused_where_it_has_no_meaning():
    with pytest.raises(ValueError, match="eta 0.5 was given to ddpm; only ddim has it: leave it out"):
        make_sampler(SamplerConfig(name="ddpm", eta=0.5))
