from typing import get_args

import pytest
import torch
from oracles.mixture import batch_noise, draws, three_blobs

from guided_diffusion.diffusion.denoiser import Threshold
from guided_diffusion.diffusion.schedules import (
    ChainConfig,
    chain_from_betas,
    linear_betas,
    make_chain,
    offset_cosine_chain,
    timestep_subset,
)
from guided_diffusion.guidance import classifier_score, tilted
from guided_diffusion.samplers import (
    SamplerConfig,
    SamplerName,
    ddim,
    ddpm,
    dpmpp_2m,
    dpmpp_2m_sde,
    dpmpp_2s,
    heun,
    langevin,
    make_sampler,
    predictor_corrector,
    unipc,
)
from guided_diffusion.samplers.config import SAMPLERS
from guided_diffusion.samplers.spacing import by_rho, uniformly_in_log_sigma, uniformly_in_t

CHAIN = chain_from_betas(linear_betas(1000)).shortened(timestep_subset(1000, "10"))
MIXTURE = three_blobs(chain_from_betas(linear_betas(1000)))
X_T = draws(3, 2, 1, 2)
TERM = classifier_score(MIXTURE.log_prob, torch.tensor([0, 1, 2]), scale=2.0)
PLAIN = {
    "ddim": ddim,
    "ddpm": ddpm,
    "dpmpp_2m": dpmpp_2m,
    "dpmpp_2m_sde": dpmpp_2m_sde,
    "dpmpp_2s": dpmpp_2s,
    "heun": heun,
    "langevin": langevin,
    "predictor_corrector": predictor_corrector,
    "unipc": unipc,
}


def test_ddpm_is_guided_by_the_mean_shift():
    made = make_sampler(SamplerConfig(name="ddpm"))(MIXTURE.denoiser, CHAIN, X_T, batch_noise(1), guidance=TERM)
    assert torch.equal(made, ddpm(MIXTURE.denoiser, CHAIN, X_T, batch_noise(1), mean_shift=TERM))


@pytest.mark.parametrize("eta", [0.0, 0.5])
def test_ddim_is_guided_by_the_tilted_estimate(eta):
    made = make_sampler(SamplerConfig(name="ddim", eta=eta))(
        MIXTURE.denoiser, CHAIN, X_T, batch_noise(1), guidance=TERM
    )
    assert torch.equal(made, ddim(tilted(MIXTURE.denoiser, TERM), CHAIN, X_T, batch_noise(1), eta=eta))


@pytest.mark.parametrize(("name", "sampler"), PLAIN.items())
def test_without_guidance_a_made_sampler_is_the_plain_one(name, sampler):
    told = []
    made = make_sampler(SamplerConfig(name=name))(
        MIXTURE.denoiser, CHAIN, X_T, batch_noise(1), on_step=lambda k, x, estimate: told.append(k)
    )
    assert torch.equal(made, sampler(MIXTURE.denoiser, CHAIN, X_T, batch_noise(1)))
    assert told == list(reversed(range(10)))


@pytest.mark.parametrize(("name", "sampler"), [(name, plain) for name, plain in PLAIN.items() if name != "ddpm"])
def test_every_other_sampler_is_guided_by_the_tilted_estimate(name, sampler):
    made = make_sampler(SamplerConfig(name=name))(MIXTURE.denoiser, CHAIN, X_T, batch_noise(1), guidance=TERM)
    assert torch.equal(made, sampler(tilted(MIXTURE.denoiser, TERM), CHAIN, X_T, batch_noise(1)))


def test_every_name_has_a_sampler_and_a_spacing():
    assert set(PLAIN) == set(get_args(SamplerName)) == set(SAMPLERS)


@pytest.mark.parametrize(("name", "sampler"), [("langevin", langevin), ("predictor_corrector", predictor_corrector)])
def test_options_of_langevins_samplers_reach_them(name, sampler):
    options = {"snr": 0.1, "langevin_steps": 3}
    made = make_sampler(SamplerConfig(name=name, **options))(MIXTURE.denoiser, CHAIN, X_T, batch_noise(1))
    assert torch.equal(made, sampler(MIXTURE.denoiser, CHAIN, X_T, batch_noise(1), **options))


def test_a_plain_count_is_spaced_as_published_for_each_sampler():
    """ddpm spreads it over the whole chain, ddim takes a whole stride from 0, others leave the noisiest levels out."""
    wanted = {
        "ddpm": timestep_subset(1000, "25"),
        "ddim": torch.arange(0, 1000, 40),
        "heun": by_rho(make_chain(ChainConfig()), 25),
        "langevin": uniformly_in_log_sigma(make_chain(ChainConfig()), 25),
    }
    for name in PLAIN:
        levels = SamplerConfig(name=name, steps=25).levels(ChainConfig())
        assert torch.equal(levels.t.long(), wanted.get(name, uniformly_in_t(make_chain(ChainConfig()), 25))), name


@pytest.mark.parametrize("name", [name for name in PLAIN if name != "ddpm"])
def test_a_plain_count_leaves_out_the_cosine_chains_level_without_signal(name):
    """There alpha_bar is 2e-9, and tilting divides by its root."""
    levels = SamplerConfig(name=name, steps=25).levels(ChainConfig(schedule="cosine"))
    assert float(levels.alpha_bar[-1]) > 1e-4


@pytest.mark.parametrize("name", PLAIN)
def test_a_written_spec_means_the_same_for_every_sampler(name):
    for spec in ("10,20,30", "ddim50", ""):
        levels = SamplerConfig(name=name, steps=spec).levels(ChainConfig())
        assert torch.equal(levels.t.long(), timestep_subset(1000, spec)), spec


@pytest.mark.parametrize("name", PLAIN)
def test_a_quoted_count_is_the_count_in_the_samplers_own_spacing(name):
    """As a YAML file or Python may give it; the two are one configuration, so that their manifests agree."""
    quoted, count = (SamplerConfig(name=name, steps=steps) for steps in ("50", 50))
    assert quoted == count
    assert torch.equal(quoted.levels(ChainConfig()).t, count.levels(ChainConfig()).t)


@pytest.mark.parametrize("name", PLAIN)
def test_in_continuous_time_a_count_is_that_many_levels_for_every_sampler(name):
    for steps in (7, "7", "ddim7"):
        levels = SamplerConfig(name=name, steps=steps).levels(ChainConfig(schedule="offset_cosine"))
        assert torch.equal(levels.alpha_bar, offset_cosine_chain(7).alpha_bar), steps


REFUSED = {
    "sampler.eta 0.5 was given to ddpm; it is for ddim: leave it out": {"name": "ddpm", "eta": 0.5},
    "snr 0.1 was given to ddim; it is for langevin and predictor_corrector: leave it out": {"snr": 0.1},
    "langevin_steps 2 was given to unipc; it is for langevin": {"name": "unipc", "langevin_steps": 2},
    "snr sets the length of Langevin's steps and must be above 0; got -1": {"name": "langevin", "snr": -1},
    "langevin_steps is a number of steps at each level, at least 1; got 0": {"name": "langevin", "langevin_steps": 0},
    "eta is the share of ancestral noise, between 0 and 1; got 1.5": {"eta": 1.5},
    "clip is a bound above 0, or null; got -1": {"clip": -1},
    'there is no sampler "euler"; there are ddim, ddpm, ': {"name": "euler"},
    "threshold 0.995 takes the place of clip 2.0: leave one out": {"threshold": 0.995, "clip": 2.0},
    "threshold 0.995 takes the place of clip None": {"threshold": 0.995, "clip": None},
    "a share of a sample's values, above 0 and at most 1; got 99.5": {"threshold": 99.5},
}


@pytest.mark.parametrize("message", REFUSED)
def test_an_option_is_refused_where_it_has_no_meaning(message):
    with pytest.raises(ValueError, match=message):
        SamplerConfig(**REFUSED[message])


def test_estimates_are_clipped_by_a_bound_by_a_threshold_or_not_at_all():
    assert SamplerConfig().clipping == 1.0
    assert SamplerConfig(clip=None).clipping is None
    assert SamplerConfig(threshold=0.995).clipping == Threshold(0.995)


@pytest.mark.parametrize(
    ("options", "own"),
    [
        ({"name": "ddpm"}, {}),
        ({"name": "ddpm", "gradient_at": "mean"}, {}),
        ({"name": "ddim", "eta": 0.5}, {"eta": 0.5}),
        ({"name": "predictor_corrector"}, {"snr": 0.16, "langevin_steps": 1}),
        ({"name": "predictor_corrector", "snr": 0.16}, {"snr": 0.16, "langevin_steps": 1}),
        ({"name": "langevin", "langevin_steps": 7}, {"snr": 0.05**0.5, "langevin_steps": 7}),
    ],
)
def test_a_manifest_has_the_samplers_own_numbers_and_no_options_of_others(options, own):
    record = SamplerConfig(**options).record()
    assert record == {"name": options["name"], "steps": 25, "eta": 0.0} | own
    assert list(record) == ["name", "steps", "eta", *(name for name in own if name != "eta")]


def test_a_manifest_lists_a_gradient_at_the_mean_with_the_guidance():
    at = {option: SamplerConfig(name="ddpm", gradient_at=option) for option in (None, "x_t", "mean")}
    assert {option: config.guidance_record() for option, config in at.items()} == {
        None: {}, "x_t": {}, "mean": {"gradient_at": "mean"},
    }  # fmt: skip
