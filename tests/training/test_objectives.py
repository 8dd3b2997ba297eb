"""Options of objectives: min-SNR weights, label dropout, importance sampling of timesteps, continuous time."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file
from torch import Tensor

from classifiers.trained_model import load_classifier
from guided_diffusion.commands.train_classifier import train_classifier
from guided_diffusion.commands.train_diffusion import TrainDiffusionConfig, train_diffusion
from guided_diffusion.data.batches import Batch
from guided_diffusion.data.formats.samples import iterate_shards
from guided_diffusion.diffusion.losses import min_snr_weight
from guided_diffusion.diffusion.model import DiffusionConfig, load_diffusion
from guided_diffusion.diffusion.noise import SeededNoise
from guided_diffusion.diffusion.schedules import ChainConfig, make_chain, sampling_chain
from guided_diffusion.diffusion.timesteps import LossSecondMoment
from guided_diffusion.guidance import extrapolated
from guided_diffusion.guidance.config import GuidanceConfig
from guided_diffusion.models.unet import UNetConfig
from guided_diffusion.run_directory import latest
from guided_diffusion.samplers import ddim
from guided_diffusion.training.diffusion_objective import DiffusionObjective, diffusion_objective

COUNT = 6
CHAIN = make_chain(tiny.CHAIN)
CONTINUOUS = ChainConfig(schedule="offset_cosine", num_steps=20)
OF_CONTINUOUS_TIME = {"chain": CONTINUOUS, "variance": "small", "loss": "simple"}


def config(**changes) -> TrainDiffusionConfig:
    return replace(tiny.diffusion_config(Path("out"), Path("in"), iterations=1), **changes)


def objective(*, num_classes: int | None = None, **changes) -> DiffusionObjective:
    """Of eps with a fixed variance and L_simple, unless told otherwise."""
    chosen = config(**({"variance": "small", "loss": "simple"} | changes))
    network = UNetConfig(
        **vars(tiny.encoder()),
        in_channels=1,
        out_channels=1 if chosen.variance == "small" else 2,
        num_classes=num_classes,
        null_class=chosen.label_dropout > 0,
    )
    model = DiffusionConfig(network=network, chain=chosen.chain, prediction=chosen.prediction, variance=chosen.variance)
    return diffusion_objective(chosen, model)


def batch(count: int = COUNT) -> Batch:
    x0 = torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return Batch(x0, torch.arange(count) % 2, torch.arange(count))


def noise(count: int = COUNT) -> SeededNoise:
    return SeededNoise(0, range(count))


class Silent(torch.nn.Module):
    """Says nothing, and remembers what it was given."""

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, *arguments: Tensor) -> Tensor:
        self.arguments = arguments
        return arguments[0].expand(-1, self.channels, -1, -1) * 0


def train(out: Path, class_folder: Path, *, iterations: int = 2, **changes) -> Path:
    tried = tiny.diffusion_config(out, class_folder, iterations=iterations, log_every_iterations=1)
    training = changes.pop("training", {})
    train_diffusion(replace(tried, **changes, training=replace(tried.training, **training)))
    return out


def logged(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_min_snr_weighs_the_mse_of_each_sample_and_what_is_logged_stays_the_mse():
    plain = objective()(Silent(), batch(), noise())
    for prediction in ("eps", "v"):
        weighted = objective(min_snr_gamma=5.0, prediction=prediction)
        losses = weighted(Silent(), batch(), noise())
        unweighted = objective(prediction=prediction)(Silent(), batch(), noise())
        step = CHAIN.drawn(noise().uniform(), like=batch().x0)
        weight = min_snr_weight(step, prediction=prediction, gamma=5.0).float()
        assert torch.allclose(losses.observed["loss"], weight * unweighted.observed["loss"])
        assert torch.equal(losses.total, losses.observed["loss"].mean())
        assert torch.equal(losses.logged["mse"], unweighted.logged["mse"])
    assert torch.equal(plain.total, plain.logged["mse"])


def test_min_snr_weighs_l_simple_within_l_hybrid_and_not_the_bound():
    learned = {"variance": "learned_range", "loss": "hybrid"}
    plain, weighted = (objective(min_snr_gamma=gamma, **learned)(Silent(2), batch(), noise()) for gamma in (None, 5.0))
    simple = objective()(Silent(), batch(), noise()).observed["loss"]
    bounds = [
        plain.observed["loss"] - simple,
        weighted.observed["loss"]
        - min_snr_weight(CHAIN.drawn(noise().uniform(), like=batch().x0), prediction="eps", gamma=5.0) * simple,
    ]
    assert float(bounds[0].min()) > 0
    assert torch.allclose(bounds[0].double(), bounds[1].double(), rtol=0, atol=1e-6)  # float32 sums of order 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"min_snr_gamma": 0.0}, "min_snr_gamma is a signal-to-noise ratio above 0, or null; got 0.0"),
        ({"min_snr_gamma": 5.0, "loss": "vlb"}, 'prediction "eps" and loss "vlb" there is nothing for it to weigh'),
        ({"min_snr_gamma": 5.0, "prediction": "mean"}, 'prediction "mean" and loss "hybrid" there is nothing for it'),
        ({"label_dropout": 1.0, "class_conditional": True}, "label_dropout is a share of the samples below 1, got 1.0"),
        ({"label_dropout": -0.1, "class_conditional": True}, "label_dropout is a share of the samples below 1"),
        ({"label_dropout": 0.1}, "label_dropout 0.1 drops labels that the network is never told; add --class_cond"),
        ({"chain": CONTINUOUS}, 'continuous in time: .* Take variance "small" or "large", loss "simple"; got variance'),
        (OF_CONTINUOUS_TIME | {"loss": "vlb"}, 'continuous in time: .* Take loss "simple"; got loss "vlb"'),
        (OF_CONTINUOUS_TIME | {"prediction": "mean"}, 'Take prediction "eps" or "x0" or "v"; got prediction "mean"'),
        (OF_CONTINUOUS_TIME | {"timesteps": "loss_second_moment"}, 'Take timesteps "uniform"; got timesteps "loss_s'),
    ],
)
def test_what_does_not_go_together_is_refused_with_the_reason(changes, message):
    with pytest.raises(ValueError, match=message):
        config(**changes)


def test_a_model_in_continuous_time_has_no_learned_variance_and_no_predicted_mean():
    network = UNetConfig(**vars(tiny.encoder()), in_channels=1, out_channels=2)
    with pytest.raises(ValueError, match='Take variance "small" or "large"; got variance "learned_range"'):
        DiffusionConfig(network=network, chain=CONTINUOUS)
    with pytest.raises(ValueError, match='got prediction "mean"'):
        DiffusionConfig(network=network, chain=CONTINUOUS, variance="small", prediction="mean")


def test_about_the_share_asked_for_is_told_the_null_class_each_by_its_own_generator():
    dropping, silent = objective(num_classes=2, class_conditional=True, label_dropout=0.3), Silent()
    dropping(silent, batch(500), noise(500))
    told = silent.arguments[2]
    dropped = told == 2
    assert abs(float(dropped.float().mean()) - 0.3) < 5 * math.sqrt(0.3 * 0.7 / 500)
    assert torch.equal(told[~dropped], batch(500).y[~dropped])
    dropping(silent, batch(7), noise(7))
    assert torch.equal(silent.arguments[2], told[:7])


def test_timesteps_and_noise_are_those_of_a_run_without_dropout():
    silent = Silent()
    seen = []
    for dropout in (0.0, 0.5):
        objective(num_classes=2, class_conditional=True, label_dropout=dropout)(silent, batch(), noise())
        seen.append(silent.arguments)
    assert torch.equal(seen[0][0], seen[1][0])
    assert torch.equal(seen[0][1], seen[1][1])
    assert torch.equal(seen[0][2], batch().y)


def test_a_network_with_a_null_class_guides_itself(tmp_path, class_folder):
    run = train(tmp_path, class_folder, class_conditional=True, label_dropout=0.5, iterations=3)
    model = load_diffusion(run)
    assert model.config.null_label == 2
    y = torch.tensor([0, 1, 1])
    x_t = noise(3)(torch.empty(3, 1, 8, 8))
    chain = sampling_chain(model.config.chain, "ddim5")
    conditional, null = model.denoiser(y), model.denoiser(torch.full((3,), 2))
    step = CHAIN.at(30, like=x_t)
    assert not torch.equal(conditional(x_t, step).x0, null(x_t, step).x0)
    plain, guided = (ddim(extrapolated(conditional, null, weight), chain, x_t, noise(3)) for weight in (1.0, 3.0))
    assert bool(guided.isfinite().all())
    assert not torch.equal(plain, guided)


def test_models_without_dropout_have_no_null_class(diffusion_run, conditional_run):
    for run in (diffusion_run, conditional_run):
        assert load_diffusion(run).config.null_label is None


def test_only_a_run_whose_timesteps_learn_has_a_memory(tmp_path, class_folder):
    for timesteps in ("uniform", "loss_second_moment"):
        run = train(tmp_path / timesteps, class_folder, iterations=1, timesteps=timesteps)
        state = load_file(latest(run) / "resume" / "objective.safetensors")
        assert list(state) == ([] if timesteps == "uniform" else ["history"])


def test_losses_are_observed_as_they_are_and_weighed_for_training():
    learning = objective(timesteps="loss_second_moment", chain=replace(tiny.CHAIN, num_steps=5))
    assert isinstance(learning.timesteps, LossSecondMoment)
    k = torch.arange(5).repeat(10)
    learning.timesteps.learn(k, (k + 1.0) ** 2)
    losses = learning(Silent(), batch(), noise())
    drawn = learning.timesteps.drawn(noise().uniform(), like=batch().x0)
    assert torch.equal(losses.observed["k"], drawn.k)
    assert torch.equal(losses.total, (drawn.weight * losses.observed["loss"]).mean())
    assert not losses.observed["loss"].requires_grad
    assert len(drawn.weight.unique()) > 1


LEARNING = {"timesteps": "loss_second_moment", "chain": ChainConfig(schedule="cosine", num_steps=2)}
"""Two levels, so that ten losses of each are soon there."""


def test_a_run_that_learns_its_timesteps_resumes_as_if_never_stopped(tmp_path, class_folder):
    whole = train(tmp_path / "whole", class_folder, iterations=6, **LEARNING)
    for iterations in (4, 6):
        train(tmp_path / "resumed", class_folder, iterations=iterations, resume="auto", **LEARNING)
    files = [latest(run) / "network.safetensors" for run in (whole, tmp_path / "resumed")]
    ours, theirs = (load_file(file) for file in files)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    forgetful = train(tmp_path / "uniform", class_folder, iterations=6, **(LEARNING | {"timesteps": "uniform"}))
    other = load_file(latest(forgetful) / "network.safetensors")
    assert any(not torch.equal(ours[key], other[key]) for key in ours)  # so it was not uniform to the end


@pytest.mark.parametrize("changes", [{"min_snr_gamma": 5.0}, {"timesteps": "loss_second_moment", "loss": "vlb"}])
def test_weighted_losses_train(tmp_path, class_folder, changes):
    run = train(tmp_path, class_folder, **changes)
    assert all(math.isfinite(line["loss"]) for line in logged(run))


def test_continuous_times_are_drawn_and_told_each_by_its_own_generator():
    silent = Silent()
    objective(**OF_CONTINUOUS_TIME)(silent, batch(), noise())
    first, last = math.acos(0.95), math.acos(0.02)
    expected = 1000 * (first + (last - first) * noise().uniform()).sin()
    assert torch.allclose(silent.arguments[1].double(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
def test_a_model_in_continuous_time_trains_and_samples_at_any_number_of_levels(tmp_path, class_folder, prediction):
    run = train(tmp_path / "run", class_folder, prediction=prediction, **OF_CONTINUOUS_TIME)
    model = load_diffusion(run)
    assert model.config.chain == CONTINUOUS
    for sampler, steps in (("ddim", 7), ("ddpm", "50"), ("ddim", "")):
        out = tmp_path / f"{sampler}{steps}"
        tiny.generate(tiny.sample_config(out, num_samples=4, sampler=sampler, steps=steps), model)
        (shard,) = iterate_shards(out)
        assert shard.images.shape == (4, 8, 8, 1)
        assert len(np.unique(shard.images, axis=0)) == 4
    with pytest.raises(ValueError, match="continuous in time and has no numbered steps to cut into sections"):
        tiny.generate(tiny.sample_config(tmp_path / "no", steps="10,20"), model)


def test_a_classifier_of_continuous_time_guides_the_model_whose_noise_it_knows(tmp_path, class_folder):
    run = train(tmp_path / "run", class_folder, **OF_CONTINUOUS_TIME)
    out = tmp_path / "classifier"
    train_classifier(tiny.classifier_config(out, class_folder, diffusion=run, iterations=2, heldout=class_folder))
    guide = load_classifier(out)
    assert guide.config.chain == CONTINUOUS
    sampling = tiny.sample_config(tmp_path / "out", num_samples=4, steps=5, guidance=GuidanceConfig(scale=2.0))
    tiny.generate(sampling, load_diffusion(run), guide)
    assert (tmp_path / "out" / "grid.png").exists()
