"""The levels that a plain count of steps means."""

import pytest
import torch

from guided_diffusion.diffusion.chain import sigma
from guided_diffusion.diffusion.schedules import ChainConfig, make_chain, timestep_subset
from guided_diffusion.samplers.spacing import LARGEST_SIGMA, by_rho, evenly, uniformly_in_log_sigma, uniformly_in_t

LINEAR, COSINE = (make_chain(ChainConfig(schedule=name)) for name in ("linear", "cosine"))
BOUNDED = (uniformly_in_t, uniformly_in_log_sigma, by_rho)


@pytest.mark.parametrize("spacing", BOUNDED)
@pytest.mark.parametrize("chain", [LINEAR, COSINE], ids=["linear", "cosine"])
@pytest.mark.parametrize("count", [2, 5, 25, 250, 900])
def test_it_finds_as_many_different_levels_as_asked_and_the_noisiest_below_the_largest_sigma(spacing, chain, count):
    kept = spacing(chain, count)
    assert len(kept) == count
    assert int(kept[0]) >= 0
    assert bool((kept.diff() > 0).all())
    top = int(kept[-1])
    assert sigma(float(chain.alpha_bar[top])) <= LARGEST_SIGMA < sigma(float(chain.alpha_bar[top + 1]))


@pytest.mark.parametrize("spacing", BOUNDED)
def test_all_levels_up_to_the_largest_sigma_are_the_most_it_finds(spacing):
    assert torch.equal(spacing(LINEAR, 930), torch.arange(930))
    with pytest.raises(
        ValueError,
        match="asked for 931 sampling steps, but of the chain's 1000 levels 930 have a sigma up to 80",
    ):
        spacing(LINEAR, 931)
    with pytest.raises(ValueError, match="asked for 1 sampling steps.*take 2 to 930"):
        spacing(LINEAR, 1)


def test_uniformly_in_t_the_link_to_x_0_is_as_long_as_the_others():
    kept = uniformly_in_t(LINEAR, 10)
    lengths = torch.cat([torch.tensor([-1]), kept]).diff()
    assert set(lengths.tolist()) == {93}


def test_by_rho_the_levels_are_nearest_to_edms_formula():
    """2206.00364 eq. 5 written out, at a count small enough that no two places share a level."""
    kept = by_rho(COSINE, 8)
    sigmas = (1 / COSINE.alpha_bar - 1).sqrt()
    lowest, highest = float(sigmas[kept[0]]), float(sigmas[kept[-1]])
    for i, k in enumerate(kept.tolist()):
        wanted = lowest ** (1 / 7) + i / 7 * (highest ** (1 / 7) - lowest ** (1 / 7))
        assert int((sigmas ** (1 / 7) - wanted).abs().argmin()) == k
    assert int(kept[0]) == 0


def test_uniformly_in_log_sigma_the_levels_are_a_geometric_sequence():
    sigmas = (1 / LINEAR.alpha_bar - 1).sqrt()[uniformly_in_log_sigma(LINEAR, 10)]
    ratios = sigmas[1:] / sigmas[:-1]
    # A low level of the chain is up to 1.5 times the one below it.
    assert float(ratios.max() / ratios.min()) < 1.25


def test_evenly_is_the_published_subset():
    assert torch.equal(evenly(COSINE, 250), timestep_subset(1000, "250"))
