"""The objective of a diffusion model on networks whose losses are known, and what a training run leaves on disk."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from torch import Tensor, nn

from guided_diffusion.checkpoint import open_checkpoint
from guided_diffusion.commands.train_diffusion import TrainDiffusionConfig, train_diffusion
from guided_diffusion.data.batches import Batch
from guided_diffusion.diffusion.chain import uniform_indices
from guided_diffusion.diffusion.model import DiffusionConfig, load_diffusion
from guided_diffusion.diffusion.noise import SeededNoise
from guided_diffusion.diffusion.schedules import make_chain
from guided_diffusion.diffusion.timesteps import UniformTimesteps
from guided_diffusion.models.unet import UNetConfig
from guided_diffusion.pipeline import GuidedDiffusion
from guided_diffusion.training.config import PreviewConfig
from guided_diffusion.training.diffusion_objective import DiffusionObjective

COUNT = 6
CHAIN = make_chain(tiny.CHAIN)


def objective(loss, *, variance="small", prediction="eps", num_classes=None) -> DiffusionObjective:
    network = UNetConfig(
        **vars(tiny.encoder()),
        in_channels=1,
        out_channels=1 if variance in ("small", "large") else 2,
        num_classes=num_classes,
    )
    config = DiffusionConfig(network=network, chain=tiny.CHAIN, prediction=prediction, variance=variance)
    return DiffusionObjective(UniformTimesteps(CHAIN), config, loss)


def black_batch() -> Batch:
    return Batch(torch.full((COUNT, 1, 8, 8), -1.0), torch.arange(COUNT) % 2, torch.arange(COUNT))


def noise() -> SeededNoise:
    return SeededNoise(0, range(COUNT))


def exact_eps(x_t: Tensor, t: Tensor) -> Tensor:
    """The noise in a black image, since x_0 is known to be -1."""
    alpha_bar = CHAIN.alpha_bar[t.long()].reshape(-1, 1, 1, 1)
    return ((x_t.double() + alpha_bar.sqrt()) / (1 - alpha_bar).sqrt()).float()


class Function(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, *arguments: Tensor) -> Tensor:
        return self.function(*arguments)


def test_the_exact_noise_has_no_simple_loss():
    losses = objective("simple")(Function(exact_eps), black_batch(), noise())
    # x_t is float32: its rounding, over the smallest sqrt(1 - alpha_bar) of the chain, squared.
    assert 0 <= float(losses.total) < (1e-7 / float((1 - CHAIN.alpha_bar[0]).sqrt())) ** 2
    assert float(losses.logged["mse"]) == float(losses.total)


def test_a_silent_network_has_the_noises_own_power_as_its_loss():
    drawn = noise()
    drawn.uniform()
    expected = (drawn(black_batch().x0) ** 2).mean()
    losses = objective("simple")(Function(lambda x_t, t: torch.zeros_like(x_t)), black_batch(), noise())
    assert float(losses.total) == pytest.approx(float(expected), rel=1e-6)


def test_every_sample_has_the_timestep_of_its_own_generator():
    seen = []

    def record(x_t: Tensor, t: Tensor) -> Tensor:
        seen.append(t)
        return torch.zeros_like(x_t)

    objective("simple")(Function(record), black_batch(), noise())
    assert torch.equal(seen[0], uniform_indices(noise().uniform(), len(CHAIN)).float())
    assert len(seen[0].unique()) > 1


def test_the_hybrid_loss_adds_a_thousandth_of_the_bound_to_the_mse():
    def learned(x_t: Tensor, t: Tensor) -> Tensor:
        return torch.cat([exact_eps(x_t, t), torch.zeros_like(x_t)], dim=1)

    losses = {
        name: objective(name, variance="learned_range")(Function(learned), black_batch(), noise())
        for name in ("hybrid", "vlb")
    }
    assert float(losses["vlb"].total) > 0
    assert float(losses["hybrid"].total) == pytest.approx(
        float(losses["hybrid"].logged["mse"]) + 1e-3 * float(losses["vlb"].total), rel=1e-5
    )


def test_a_network_of_x0_that_says_black_has_no_loss_on_black():
    losses = objective("simple", prediction="x0")(
        Function(lambda x_t, t: torch.full_like(x_t, -1)), black_batch(), noise()
    )
    assert float(losses.total) == 0


def test_a_conditional_network_is_told_the_labels_and_another_is_not():
    def arguments_of(num_classes: int | None) -> tuple[Tensor, ...]:
        seen = []

        def record(*arguments: Tensor) -> Tensor:
            seen.append(arguments)
            return torch.zeros_like(arguments[0])

        objective("simple", num_classes=num_classes)(Function(record), black_batch(), noise())
        return seen[0]

    assert torch.equal(arguments_of(2)[2], black_batch().y)
    assert len(arguments_of(None)) == 2


@pytest.mark.parametrize(("variance", "loss"), [("small", "hybrid"), ("large", "hybrid"), ("learned_range", "simple")])
def test_a_loss_that_cannot_train_the_variance_is_refused(tmp_path, variance, loss):
    config = tiny.diffusion_config(tmp_path, tmp_path, iterations=1)
    with pytest.raises(ValueError, match=f'variance "{variance}" cannot be trained with loss "{loss}"; take loss'):
        replace(config, variance=variance, loss=loss)


@pytest.mark.parametrize(("variance", "loss"), [("small", "simple"), ("learned_range", "hybrid")])
def test_the_mean_is_not_trained_by_its_squared_error_alone(tmp_path, variance, loss):
    config = tiny.diffusion_config(tmp_path, tmp_path, iterations=1)
    with pytest.raises(ValueError, match=f'"mean" cannot be trained with loss "{loss}": the mean of x_s is x_t'):
        replace(config, prediction="mean", variance=variance, loss=loss)


@pytest.mark.parametrize(("variance", "loss"), [("small", "simple"), ("large", "vlb"), ("learned", "hybrid")])
@pytest.mark.parametrize("prediction", ["eps", "x0", "v", "mean"])
def test_every_prediction_trains_with_every_kind_of_variance(tmp_path, class_folder, variance, loss, prediction):
    config = tiny.diffusion_config(tmp_path, class_folder, iterations=1, log_every_iterations=1)
    loss = "vlb" if prediction == "mean" else loss
    train_diffusion(replace(config, variance=variance, loss=loss, prediction=prediction))
    line = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert math.isfinite(line["loss"])
    stored = load_diffusion(tmp_path).config
    assert (stored.variance, stored.prediction) == (variance, prediction)
    assert stored.network.out_channels == (2 if variance == "learned" else 1)


def test_the_checkpoint_says_what_the_data_decided(diffusion_run, conditional_run):
    for run, num_classes in ((diffusion_run, None), (conditional_run, 2)):
        config = load_diffusion(run).config
        assert config.class_names == ("dark", "light")
        assert (config.network.in_channels, config.network.out_channels) == (1, 2)
        assert config.network.num_classes == num_classes
        assert config.chain == tiny.CHAIN


def test_colour_pictures_make_a_network_of_three_channels(tmp_path):
    folder = tiny.write_class_folder(tmp_path / "colour", mode="RGB", per_class=2)
    train_diffusion(tiny.diffusion_config(tmp_path / "run", folder, batch_size=2, iterations=1))
    assert load_diffusion(tmp_path / "run").image_shape == (3, 8, 8)


def test_the_run_is_stored_as_it_was_resolved(diffusion_run):
    stored = open_checkpoint(diffusion_run, "diffusion").run
    assert stored["training"]["learning_rate"] == 2e-3
    assert stored["variance"] == "learned_range"  # a default


def test_training_lowers_the_loss(diffusion_run):
    lines = [json.loads(line) for line in (diffusion_run / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["mse"] < 0.7 * lines[0]["mse"]


def test_missing_data_is_refused_before_anything_is_written(tmp_path):
    config: TrainDiffusionConfig = tiny.diffusion_config(tmp_path / "run", tmp_path / "nowhere", iterations=1)
    with pytest.raises(FileNotFoundError, match="there is nothing at .*nowhere"):
        train_diffusion(config)
    assert not (tmp_path / "run").exists()


def test_a_class_without_images_is_recorded_and_left_out_by_previews_and_samples(tmp_path, capsys, caplog):
    folder = tiny.write_class_folder(tmp_path / "data", per_class=2)
    rows = [f"{name}/{i:03d}.png,{label}" for label, name in enumerate(("dark", "light"), start=1) for i in range(2)]
    (folder / "labels.csv").write_text("\n".join(["file,label", *rows]))
    config = tiny.diffusion_config(
        tmp_path / "run", folder, iterations=1, class_conditional=True, preview=PreviewConfig(images=4, steps=2),
        observe_every_iterations=1,
    )  # fmt: skip
    config = replace(config, data=replace(config.data, labels=Path("labels.csv")))
    train_diffusion(config)
    assert "4 images of 3 classes (0 0, 1 2, 2 2)" in capsys.readouterr().err
    assert 'no images ("0")' in caplog.text
    model = GuidedDiffusion.load(tmp_path / "run", device="cpu")
    assert model.model.config.unseen_classes == (0,)
    assert len(model.sample("all", steps=2)) == 2
    with pytest.raises(ValueError, match="of which the model saw no image in training"):
        model.sample("0", steps=2)
    file = open_checkpoint(tmp_path / "run", "diffusion").path / "config.json"
    record = json.loads(file.read_text())
    del record["model"]["unseen_classes"]  # as before it was recorded
    file.write_text(json.dumps(record))
    train_diffusion(replace(config, resume="auto", training=tiny.loop(iterations=2)))
