"""Settings of samplers: their records in manifests, and clipping."""

import pytest

from guided_diffusion.diffusion.denoiser import Threshold
from guided_diffusion.samplers import SamplerConfig


@pytest.mark.parametrize(
    ("options", "own"),
    [
        ({"name": "ddpm"}, {}),
        ({"name": "ddim", "eta": 0.5}, {"eta": 0.5}),
        ({"name": "predictor_corrector"}, {"snr": 0.16, "langevin_steps": 1}),
        ({"name": "predictor_corrector", "snr": 0.16}, {"snr": 0.16, "langevin_steps": 1}),
        ({"name": "langevin", "langevin_steps": 7}, {"snr": 0.05**0.5, "langevin_steps": 7}),
    ],
)
def test_a_record_has_the_samplers_own_numbers_and_no_options_of_others(options, own):
    assert SamplerConfig(**options).record() == {"name": options["name"], "steps": 25, "eta": 0.0} | own


def test_estimates_are_clipped_by_a_bound_by_a_threshold_or_not_at_all():
    assert SamplerConfig().clipping == 1.0
    assert SamplerConfig(clip=None).clipping is None
    assert SamplerConfig(threshold=0.995).clipping == Threshold(0.995)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 0.995, "clip": 2.0}, "threshold 0.995 takes the place of clip 2.0: leave one"),
        ({"threshold": 0.995, "clip": None}, "threshold 0.995 takes the place of clip None"),
        ({"threshold": 99.5}, "a share of a sample's values, above 0 and at most 1; got 99.5"),
    ],
)
def test_two_ways_of_clipping_and_impossible_ones_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SamplerConfig(**options)
