"""Discriminator guidance: exact log-odds correct a blurred model, and a run's discriminator is checked and recorded."""

from dataclasses import replace

import pytest
import tiny
import torch
from oracles.mixture import draws, three_blobs
from torch.testing import assert_close

from classifiers.trained_model import DISCRIMINATOR_CLASSES, load_classifier
from guided_diffusion.commands.train_classifier import train_classifier
from guided_diffusion.diffusion.model import load_diffusion
from guided_diffusion.diffusion.schedules import chain_from_betas, linear_betas, make_chain
from guided_diffusion.guidance import log_odds, score_of, tilted
from guided_diffusion.guidance.config import GuidanceConfig
from guided_diffusion.guidance.run import load_guidance

MIXTURE = three_blobs(chain_from_betas(linear_betas(1000)))
BLURRED = replace(MIXTURE, covariances=MIXTURE.covariances + 0.2 * torch.eye(4, dtype=torch.float64))
x_t = draws(6, 2, 1, 2, seed=3)


@pytest.mark.parametrize("k", [20, 300, 800])
def test_exact_log_odds_make_the_denoiser_of_the_real_data_of_a_blurred_one(k):
    step = MIXTURE.chain.at(k, like=x_t)

    def log_prob(x, t):
        return torch.stack([BLURRED.log_density(x, step), MIXTURE.log_density(x, step)], dim=1).log_softmax(dim=1)

    corrected = tilted(BLURRED.denoiser, score_of(log_odds(log_prob, of=1, against=0), 1.0))(x_t, step)
    wanted = MIXTURE.denoiser(x_t, step).x0
    assert_close(corrected.x0, wanted, rtol=1e-9, atol=1e-9)
    assert (BLURRED.denoiser(x_t, step).x0 - wanted).abs().max() > 0.01


def test_a_discriminator_is_trained_loaded_and_recorded(tmp_path, diffusion_run):
    folder = tiny.write_class_folder(tmp_path / "images", classes=DISCRIMINATOR_CLASSES, per_class=2)
    train_classifier(tiny.classifier_config(tmp_path / "run", folder, diffusion=diffusion_run, iterations=2))
    model, run = load_diffusion(diffusion_run), load_classifier(tmp_path / "run")
    settings = GuidanceConfig(function="discriminator", function_options={"run": str(tmp_path / "run")})
    guidance = load_guidance(settings, model=model)
    y = torch.zeros(2, dtype=torch.int64)
    noise = torch.randn(2, *model.image_shape, generator=torch.Generator().manual_seed(0))
    step = make_chain(tiny.CHAIN).at(20, like=noise)
    by_hand = score_of(lambda x, step: run.log_prob(x, step.t) @ torch.tensor([-1.0, 1.0]), 1.0)
    assert_close(guidance.term(y)(noise, step), by_hand(noise, step))
    assert guidance.record()["function"]["options"] == {"run": run.sha256}


def test_a_classifier_of_the_models_classes_is_no_discriminator(diffusion_run, classifier_run):
    settings = GuidanceConfig(function="discriminator", function_options={"run": str(classifier_run)})
    with pytest.raises(ValueError, match="is no discriminator: its classes are dark, light, not generated and real"):
        load_guidance(settings, model=load_diffusion(diffusion_run))
