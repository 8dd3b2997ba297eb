"""What a sampling run's options make of its sampler and of its estimates' clipping."""

from pathlib import Path

import pytest

from guided_diffusion.diffusion.denoiser import Threshold
from guided_diffusion.generation.config import RunConfig, clipping, sampler_config
from guided_diffusion.samplers import SamplerConfig


def test_a_runs_options_reach_its_sampler():
    config = RunConfig(out=Path("o"), sampler="langevin", steps=30, snr=0.1, langevin_steps=5)
    assert sampler_config(config) == SamplerConfig(name="langevin", steps=30, snr=0.1, langevin_steps=5)
    assert sampler_config(RunConfig(out=Path("o"), eta=0.5)) == SamplerConfig(eta=0.5)


@pytest.mark.parametrize(
    ("options", "own"),
    [
        ({"sampler": "ddpm"}, {}),
        ({"sampler": "ddim", "eta": 0.5}, {"eta": 0.5}),
        ({"sampler": "predictor_corrector"}, {"snr": 0.16, "langevin_steps": 1}),
        ({"sampler": "predictor_corrector", "snr": 0.16}, {"snr": 0.16, "langevin_steps": 1}),
        ({"sampler": "langevin", "langevin_steps": 7}, {"snr": 0.05**0.5, "langevin_steps": 7}),
    ],
)
def test_a_manifest_has_the_samplers_own_numbers_and_no_options_of_others(options, own):
    record = sampler_config(RunConfig(out=Path("o"), **options)).record()
    assert record == {"name": options["sampler"], "steps": 25, "eta": 0.0} | own


def test_estimates_are_clipped_by_a_bound_by_a_threshold_or_not_at_all():
    assert clipping(RunConfig(out=Path("o"))) == 1.0
    assert clipping(RunConfig(out=Path("o"), clip=None)) is None
    assert clipping(RunConfig(out=Path("o"), threshold=0.995)) == Threshold(0.995)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 0.995, "clip": 2.0}, "threshold 0.995 takes the place of clip 2.0: leave one out"),
        ({"threshold": 0.995, "clip": None}, "threshold 0.995 takes the place of clip None"),
        ({"threshold": 99.5}, "a share of a sample's values, above 0 and at most 1; got 99.5"),
    ],
)
def test_two_ways_of_clipping_and_impossible_ones_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        RunConfig(out=Path("o"), **options)
