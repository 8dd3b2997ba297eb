import torch
from oracles.counting import Counted
from oracles.mixture import batch_noise, draws, three_blobs

from guided_diffusion.diffusion.schedules import chain_from_betas, linear_betas, timestep_subset
from guided_diffusion.guidance import classifier_score, tilted, within
from guided_diffusion.samplers import ddim

CHAIN = chain_from_betas(linear_betas(1000))
SHORT = CHAIN.shortened(timestep_subset(1000, "25"))
MIXTURE = three_blobs(CHAIN)
Y = torch.tensor([0, 1, 2])


def test_a_counted_function_returns_what_it_would():
    counted = Counted(lambda x, *, y: (x, y))
    assert counted(1, y=2) == (1, 2)
    assert counted.calls == 1


def test_diffusion_network_and_classifier_are_counted_apart():
    """Guidance within an interval asks the classifier inside alone, and at scale 0 never."""
    sigmas = (1 / SHORT.alpha_bar - 1).sqrt()
    for scale, inside in ((2.0, int(((sigmas > 0.5) & (sigmas <= 5)).sum())), (0.0, 0)):
        denoiser, classifier = Counted(MIXTURE.denoiser), Counted(MIXTURE.log_prob)
        term = within(classifier_score(classifier, Y, scale=scale), 0.5, 5.0)
        ddim(tilted(denoiser, term), SHORT, draws(3, 2, 1, 2), batch_noise(0))
        assert denoiser.calls == 25
        assert classifier.calls == inside
    assert 0 < int(((sigmas > 0.5) & (sigmas <= 5)).sum()) < 25
