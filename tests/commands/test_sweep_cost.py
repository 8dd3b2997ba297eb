"""The cost of a sweep's settings: evaluations of denoising networks, counted without the networks."""

from dataclasses import replace

import pytest
import tiny

from classifiers.trained_model import load_classifier
from guided_diffusion.commands.sample import write_samples
from guided_diffusion.commands.sweep import network_evaluations
from guided_diffusion.diffusion.chain import sigma
from guided_diffusion.diffusion.model import DiffusionModel, load_diffusion
from guided_diffusion.generation.config import SamplingConfig
from guided_diffusion.generation.run import SamplingRun
from guided_diffusion.guidance.config import (
    AutoguidanceConfig,
    ClassifierFreeConfig,
    CleanClassifierConfig,
    GuidanceConfig,
)
from guided_diffusion.samplers import SamplerConfig


def run_of(model: DiffusionModel, guidance: GuidanceConfig | None = None, **sampler) -> SamplingRun:
    settings = SamplingConfig(sampler=SamplerConfig(**({"steps": 10} | sampler)))
    return SamplingRun.assemble(model, None, guidance=guidance or GuidanceConfig(), settings=settings)


@pytest.mark.parametrize(
    ("sampler", "evaluations"),
    [
        ({"name": "ddim"}, 10),
        ({"name": "ddpm"}, 10),
        ({"name": "heun"}, 19),
        ({"name": "unipc"}, 10),
        ({"name": "langevin", "langevin_steps": 3}, 31),
    ],
)
def test_the_cost_of_a_sampler_is_counted(sampler, evaluations, diffusion_run):
    assert network_evaluations(run_of(load_diffusion(diffusion_run), **sampler)) == evaluations


def test_the_cost_of_guidance_by_denoising_networks_is_counted(diffusion_run, free_run, judge_run):
    # The sampler's calls alone are 10 in each case.
    free, plain = load_diffusion(free_run), load_diffusion(diffusion_run)
    twice = GuidanceConfig(classifier_free=ClassifierFreeConfig(weight=2.0))
    assert network_evaluations(run_of(free, twice)) == 20
    within = run_of(free, replace(twice, sigma_max=1.0))
    quiet = sum(sigma(float(alpha_bar)) <= 1.0 for alpha_bar in within.chain.alpha_bar)
    assert 0 < quiet < 10
    assert network_evaluations(within) == 10 + quiet
    weaker = GuidanceConfig(autoguidance=AutoguidanceConfig(model=f"{diffusion_run}:network", weight=2.0))
    assert network_evaluations(run_of(plain, weaker)) == 20
    judge = GuidanceConfig(clean_classifier=CleanClassifierConfig(name=f"classifier:{judge_run}"))
    assert network_evaluations(run_of(plain, judge)) == 10


def test_the_count_without_networks_is_the_runs_own(tmp_path, free_run):
    guidance = GuidanceConfig(classifier_free=ClassifierFreeConfig(weight=2.0), sigma_max=1.0)
    config = tiny.sample_config(tmp_path, num_samples=4, steps=10, guidance=guidance)
    run = tiny.sampling_run(config, load_diffusion(free_run))
    write_samples(run, config)
    assert run.evaluations == {"network": 4 * network_evaluations(run)}


def test_each_particle_counts(tmp_path, diffusion_run, classifier_run):
    guidance = GuidanceConfig(particles=3)
    config = tiny.sample_config(tmp_path, num_samples=2, sampler="ddpm", steps=5, guidance=guidance)
    run = tiny.sampling_run(config, load_diffusion(diffusion_run), load_classifier(classifier_run))
    write_samples(run, config)
    assert run.evaluations["network"] == 2 * network_evaluations(run) == 2 * 5 * 3
