"""The objective of an upsampler, what its training leaves on disk, and what it learns."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
import torch.nn.functional as F
from einops import reduce
from oracles.golden import arrays
from safetensors.torch import load_file
from torch import Tensor, nn

from guided_diffusion.checkpoint import open_checkpoint
from guided_diffusion.commands.train_upsampler import train_upsampler
from guided_diffusion.data.batches import Batch
from guided_diffusion.diffusion.denoiser import Prediction, Variance
from guided_diffusion.diffusion.model import DiffusionConfig, UpsamplerModelConfig, load_diffusion, load_upsampler
from guided_diffusion.diffusion.noise import SeededNoise
from guided_diffusion.diffusion.schedules import ChainConfig, make_chain
from guided_diffusion.diffusion.timesteps import UniformTimesteps
from guided_diffusion.models.unet import UNetConfig
from guided_diffusion.models.upsampler import UpsamplerConfig
from guided_diffusion.run_directory import latest
from guided_diffusion.training.diffusion_objective import DiffusionObjective, area_reduced

COUNT = 6


def objective(
    *,
    variance: Variance = "small",
    prediction: Prediction = "eps",
    num_classes: int | None = None,
    conditioning_noise: float | None = None,
) -> DiffusionObjective:
    network = UpsamplerConfig(
        **vars(tiny.encoder()), in_channels=1, out_channels=1, num_classes=num_classes, low_res_size=4,
        conditioning_noise=conditioning_noise,
    )  # fmt: skip
    config = UpsamplerModelConfig(network=network, chain=tiny.CHAIN, prediction=prediction, variance=variance)
    timesteps = UniformTimesteps(make_chain(tiny.CHAIN))
    return DiffusionObjective(timesteps, config, "simple")


def batch() -> Batch:
    x0 = torch.rand(COUNT, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return Batch(x0, torch.arange(COUNT) % 2, torch.arange(COUNT))


def noise() -> SeededNoise:
    return SeededNoise(0, range(COUNT))


class Recorder(nn.Module):
    """Says nothing, and remembers what it was given."""

    def forward(self, *arguments: Tensor, **named: Tensor) -> Tensor:
        self.arguments, self.named = arguments, named
        return torch.zeros_like(arguments[0])


def test_area_reduction_gives_the_stored_images():
    stored = arrays("data")
    names = [name for name in stored if name.startswith("sr_area_") and not name.endswith("bilinear")]
    assert sorted(int(name.removeprefix("sr_area_")) for name in names) == [12, 20, 24]
    for name in names:  # 48 / 20 is no whole number: areas overlap
        reduced = area_reduced(stored["sr_large"], stored[name].shape[-1])
        torch.testing.assert_close(reduced, stored[name], rtol=0, atol=1e-6)  # float32 means of up to 16 values


def test_area_reduction_is_the_mean_of_each_block():
    x0 = batch().x0.double()
    blocks = reduce(x0, "b c (y two) (x deux) -> b c y x", "mean", two=2, deux=2)
    torch.testing.assert_close(area_reduced(x0, 4), blocks, rtol=0, atol=1e-15)


def test_the_network_sees_the_reduction_of_the_clean_image_and_otherwise_what_a_diffusion_model_sees():
    for num_classes in (None, 2):
        ours, plain = Recorder(), Recorder()
        losses = objective(num_classes=num_classes)(ours, batch(), noise())
        network = UNetConfig(**vars(tiny.encoder()), in_channels=1, out_channels=1, num_classes=num_classes)
        model = DiffusionConfig(network=network, chain=tiny.CHAIN, variance="small")
        reference = replace(objective(), config=model)(plain, batch(), noise())
        assert torch.equal(ours.named["low_res"], area_reduced(batch().x0, 4))
        assert plain.named == {}
        assert len(ours.arguments) == (2 if num_classes is None else 3)
        assert all(torch.equal(a, b) for a, b in zip(ours.arguments, plain.arguments, strict=True))
        assert torch.equal(losses.total, reference.total)
        assert torch.equal(losses.logged["mse"], reference.logged["mse"])


def test_enlarging_alone_has_no_loss_on_flat_images():
    class Stretch(nn.Module):
        def forward(self, x_t: Tensor, t: Tensor, *, low_res: Tensor) -> Tensor:
            return F.interpolate(low_res, size=x_t.shape[2:], mode="nearest")

    levels = torch.linspace(-1, 1, COUNT).reshape(-1, 1, 1, 1).expand(-1, 1, 8, 8)
    flat = replace(batch(), x0=levels)
    # A float32 mean's rounding, squared.
    assert float(objective(prediction="x0")(Stretch(), flat, noise()).total) < 1e-12
    assert float(objective(prediction="x0")(Stretch(), batch(), noise()).total) > 1e-2


def test_the_checkpoint_says_what_it_enlarges(tmp_path: Path, class_folder: Path):
    for name, conditional in (("plain", False), ("told", True)):
        config = tiny.upsampler_config(tmp_path / name, class_folder, class_conditional=conditional, iterations=1)
        train_upsampler(config)
        upsampler = load_upsampler(tmp_path / name)
        assert upsampler.config.low_res_shape == (1, 4, 4)
        assert upsampler.config.image_shape == (1, 8, 8)
        assert upsampler.config.class_names == ("dark", "light")
        assert upsampler.config.is_conditional == conditional
        assert upsampler.config.chain == tiny.CHAIN
        assert upsampler.weights == "ema_0.9"
        assert not upsampler.network.training
    assert open_checkpoint(tmp_path / "told", "upsampler").run["low_res_size"] == 4
    assert load_upsampler(tmp_path / "told", weights="network").weights == "network"


def test_an_upsampler_is_no_diffusion_model_nor_the_other_way_round(
    tmp_path: Path, class_folder: Path, diffusion_run: Path
):
    train_upsampler(tiny.upsampler_config(tmp_path, class_folder, iterations=1))
    with pytest.raises(ValueError, match='kind "upsampler", but kind "diffusion" is needed'):
        load_diffusion(tmp_path)
    with pytest.raises(ValueError, match='kind "diffusion", but kind "upsampler" is needed'):
        load_upsampler(diffusion_run)


@pytest.mark.parametrize("low_res_size", [0, 8, 16])
def test_a_low_res_size_that_is_no_reduction_is_refused_before_the_data_are_read(tmp_path: Path, low_res_size: int):
    with pytest.raises(ValueError, match=f"low_res_size is {low_res_size}; .* give a side between 1 and 7"):
        tiny.upsampler_config(tmp_path, tmp_path / "nowhere", low_res_size=low_res_size, iterations=1)


def test_a_loss_that_cannot_train_the_variance_is_refused_of_upsamplers_as_well(tmp_path: Path):
    with pytest.raises(ValueError, match='variance "small" cannot be trained with loss "hybrid"'):
        replace(tiny.upsampler_config(tmp_path, tmp_path, iterations=1), variance="small")


def test_a_resumed_training_equals_an_uninterrupted_one(tmp_path: Path, class_folder: Path):
    def weights(name: str, *lengths: int) -> dict[str, Tensor]:
        for iterations in lengths:
            config = tiny.upsampler_config(
                tmp_path / name, class_folder, class_conditional=True, iterations=iterations, resume="auto"
            )
            train_upsampler(config)
        return load_file(latest(tmp_path / name) / "network.safetensors")

    whole, resumed = weights("whole", 4), weights("resumed", 2, 4)
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    with pytest.raises(ValueError, match="network.low_res_size: 4 there, 2 now"):
        train_upsampler(
            tiny.upsampler_config(
                tmp_path / "whole", class_folder, class_conditional=True, low_res_size=2, iterations=5, resume="auto"
            )
        )


def test_two_processes_train_the_upsampler_that_one_trains(tmp_path: Path, class_folder: Path):
    options = (*tiny.DIFFUSION_OPTIONS, "--training.iterations=3", "--training.log_every_iterations=1")
    process = tiny.start(
        "train_upsampler.py", f"--out={tmp_path / 'two'}", f"--data.path={class_folder}", "--low_res_size=4", *options,
        processes=2,
    )  # fmt: skip
    status, output = tiny.finish(process)
    assert status == 0, output
    train_upsampler(tiny.upsampler_config(tmp_path / "one", class_folder, iterations=3, log_every_iterations=1))
    losses = [
        [json.loads(line)["loss"] for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    ]
    assert len(losses[0]) == 3
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)  # float32, summed in another order


def test_low_res_images_are_noised_up_to_the_largest_rate_and_the_network_is_told_how_much():
    many = replace(batch(), x0=batch().x0.repeat(100, 1, 1, 1), y=torch.zeros(600).long(), counter=torch.arange(600))
    recorder, seeded = Recorder(), SeededNoise(0, range(600))
    objective(conditioning_noise=0.4)(recorder, many, seeded)
    again = SeededNoise(0, range(600))
    rate = 0.4 * again.uniform()
    assert torch.equal(recorder.named["conditioning_noise"], rate.float())
    assert 0 < float(rate.min()) < 0.01 < 0.39 < float(rate.max()) < 0.4
    clean = area_reduced(many.x0, 4)
    eps, column = again(clean), rate.reshape(-1, 1, 1, 1)
    expected = (1 - column**2).sqrt() * clean + column * eps
    torch.testing.assert_close(recorder.named["low_res"].double(), expected, rtol=0, atol=1e-6)  # float32


def test_training_with_noised_low_res_keeps_its_range_and_a_range_that_is_none_is_refused(
    tmp_path: Path, class_folder: Path
):
    # The output's layer begins at zero, then the blocks' last ones: the third update is the first to see the embedding.
    config = tiny.upsampler_config(tmp_path / "run", class_folder, class_conditional=True, iterations=3)
    train_upsampler(replace(config, conditioning_noise=0.4))
    upsampler = load_upsampler(tmp_path / "run", weights="network")
    assert upsampler.config.network.conditioning_noise == 0.4
    assert upsampler.network.noise_rate is not None
    assert upsampler.network.noise_rate.mlp[-1].weight.any()  # zero at first, and trained
    with pytest.raises(ValueError, match="conditioning_noise is a noise rate above 0 and at most 1, or null"):
        replace(config, conditioning_noise=1.5)


@pytest.mark.parametrize(
    "changes",
    [
        {"timesteps": "loss_second_moment", "min_snr_gamma": 5.0},
        {"chain": ChainConfig(schedule="offset_cosine"), "variance": "small", "loss": "simple"},
    ],
)
def test_an_upsampler_has_the_objectives_of_a_diffusion_model(tmp_path: Path, class_folder: Path, changes: dict):
    train_upsampler(replace(tiny.upsampler_config(tmp_path, class_folder, iterations=2), **changes))
    assert load_upsampler(tmp_path).config.chain == changes.get("chain", tiny.CHAIN)
