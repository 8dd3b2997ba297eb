"""Previews: samples that change with the network alone, and what is logged of them."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from classifiers.trained_model import load_classifier
from guided_diffusion.commands.train_diffusion import train_diffusion
from guided_diffusion.commands.train_upsampler import train_upsampler
from guided_diffusion.data.image_set import ImageSet, open_training_set
from guided_diffusion.data.pictures import MARGIN, TEXT_SIZE
from guided_diffusion.data.subset import evenly_spaced
from guided_diffusion.diffusion.chain import Step
from guided_diffusion.diffusion.denoiser import Estimate
from guided_diffusion.diffusion.images import to_uint8
from guided_diffusion.diffusion.model import DiffusionConfig, load_diffusion
from guided_diffusion.diffusion.noise import SeededNoise
from guided_diffusion.diffusion.schedules import ChainConfig, make_chain
from guided_diffusion.guidance import classifier_score, tilted
from guided_diffusion.models.unet import UNet, UNetConfig
from guided_diffusion.run_directory import latest
from guided_diffusion.samplers import ddim
from guided_diffusion.training.config import PreviewConfig
from guided_diffusion.training.diffusion_objective import area_reduced
from guided_diffusion.training.previews import (
    diffusion_previews,
    preview_chain,
    preview_labels,
    preview_samples,
)

CPU = torch.device("cpu")
CHAIN = preview_chain(tiny.CHAIN, 5)


def red(value: float) -> Tensor:
    return torch.tensor([value, 0.0, 0.0]).reshape(3, 1, 1)


def test_labels_cycle_through_the_classes_or_are_spread_over_them():
    assert preview_labels(7, 3).tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert preview_labels(4, 1000).tolist() == [0, 250, 500, 750]
    assert preview_labels(3, 1).tolist() == [0, 0, 0]


@pytest.mark.parametrize(("num_steps", "steps", "length"), [(1000, 25, 25), (50, 25, 25), (30, 25, 30), (1000, 3, 4)])
def test_the_chain_of_previews_goes_by_a_whole_stride_from_0(num_steps, steps, length):
    config = ChainConfig(num_steps=num_steps)
    chain = preview_chain(config, steps)
    strides = chain.t.diff()
    assert len(chain) == length
    assert chain.t[0] == 0
    assert (strides == strides[0]).all()


def test_in_continuous_time_previews_have_the_very_number_of_levels():
    assert len(preview_chain(ChainConfig(schedule="offset_cosine"), 7)) == 7


def model(**changes) -> DiffusionConfig:
    network = UNetConfig(**vars(tiny.encoder()), in_channels=3, out_channels=3)
    return DiffusionConfig(network=network, chain=tiny.CHAIN, prediction="x0", variance="small", **changes)


def test_sample_i_is_the_same_however_many_others_are_made():
    def shrinking(x_t: Tensor, step: Step) -> Estimate:
        return Estimate(x0=x_t.tanh(), log_var=0.0)

    few, more = (preview_samples(lambda ids: shrinking, model(), CHAIN, count=n, device=CPU) for n in (18, 35))
    assert torch.equal(few, more[:18])
    assert len(few.flatten(1).unique(dim=0)) == 18
    assert few.abs().max() <= 1


class Constant(nn.Module):
    """Says that every x_0 is of one colour."""

    def __init__(self, colour: Tensor) -> None:
        super().__init__()
        self.colour = nn.Parameter(colour)

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        return self.colour.expand_as(x_t)


def test_a_red_network_is_said_to_be_redder_than_grey_data(tmp_path, caplog, capsys):
    folder = tiny.write_class_folder(tmp_path / "data", mode="RGB")
    data = open_training_set(tiny.data(folder), image_size=8)
    training = tiny.diffusion_config(tmp_path, folder, iterations=1, ema_decays=(0.99,))
    observe = diffusion_previews(PreviewConfig(images=20), model(), data, training)
    assert observe is not None
    metrics = observe(Constant(red(0.75)), 100)
    every = torch.stack([data[index][0] for index in range(20)]).double()
    for channel, level in enumerate((0.75, 0, 0)):
        assert metrics[f"preview_mean_{channel}"] == pytest.approx(level, abs=1e-6)  # float32
        assert metrics[f"preview_std_{channel}"] == pytest.approx(0, abs=1e-3)  # a root of float32's rounding
        assert metrics[f"data_mean_{channel}"] == pytest.approx(float(every[:, channel].mean()), abs=1e-12)
        assert metrics[f"data_std_{channel}"] == pytest.approx(float(every[:, channel].std(correction=0)), abs=1e-12)
    assert metrics["preview_cast"] == pytest.approx(0.5, abs=0.05)  # the data are nearly grey
    said = caplog.messages[-1]
    assert "previews at iteration 100 are redder than the data by" in said
    assert "37% of the averaged weights that made them (ema_0.99) are still the initial ones" in said  # 0.99^100
    observe(Constant(red(0.75)), 1000)
    assert "the model is not there yet; it may have had too few iterations, or too high" in caplog.messages[-1]
    assert [file.name for file in sorted((tmp_path / "previews").iterdir())] == ["0000100.png", "0001000.png"]
    assert capsys.readouterr().err.splitlines() == [
        f"{tmp_path / 'previews' / '0000100.png'}: previews by the weights ema_0.99, still 37% the initial ones",
        f"{tmp_path / 'previews' / '0001000.png'}: previews by the weights ema_0.99",
    ]


def test_the_data_are_measured_once(tmp_path, monkeypatch):
    folder = tiny.write_class_folder(tmp_path / "data", mode="RGB", per_class=2)
    data = open_training_set(tiny.data(folder), image_size=8)
    read = []

    def item(self: ImageSet, index: int) -> tuple[Tensor, int]:
        read.append(index)
        return red(0.5), 0

    monkeypatch.setattr(ImageSet, "__getitem__", item)
    training = tiny.diffusion_config(tmp_path, folder, iterations=1, ema_decays=())
    observe = diffusion_previews(PreviewConfig(images=2), model(), data, training)
    assert observe is not None
    for iteration in (1, 2):
        observe(Constant(red(0)), iteration)
    assert read == [0, 1, 2, 3]


def test_no_previews_are_made_where_none_are_wanted(tmp_path, class_folder):
    train_diffusion(tiny.diffusion_config(tmp_path, class_folder, iterations=1))
    assert not (tmp_path / "previews").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": -1}, "preview.images is 0, for no previews, to 10,000 samples; got -1"),
        ({"images": 10**9}, "preview.images is 0, for no previews, to 10,000 samples; got 1000000000"),
        ({"steps": 1}, "preview.steps must be at least 2, got 1"),
        ({"scale": 4.0}, "preview.scale 4 needs a classifier; add --preview.classifier RUN"),
    ],
)
def test_previews_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        PreviewConfig(**options)


def test_previews_are_pictures_and_leave_the_training_as_it_was(tmp_path, class_folder):
    for name, every in (("seen", 1), ("unseen", 1000)):
        config = tiny.diffusion_config(
            tmp_path / name,
            class_folder,
            class_conditional=True,
            network=tiny.encoder(dropout=0.2),
            preview=PreviewConfig(images=6, steps=5),
            iterations=2,
            observe_every_iterations=every,
        )
        train_diffusion(config)
    pngs = sorted((tmp_path / "seen" / "previews").iterdir())
    assert [file.name for file in pngs] == ["0000001.png", "0000002.png"]
    with Image.open(pngs[1]) as picture:
        assert picture.width == (2 * 9 + 1) * 8  # two columns of tiles of 64 pixels, whatever their number
        assert len(picture.getcolors(maxcolors=256)) > 2
    lines = [json.loads(line) for line in (tmp_path / "seen" / "metrics.jsonl").read_text().splitlines()]
    observed = [line for line in lines if "preview_mean_0" in line]
    assert [line["iteration"] for line in observed] == [1, 2]
    seen, unseen = (latest(tmp_path / name) for name in ("seen", "unseen"))
    for file in ("network.safetensors", "ema_0.9.safetensors"):
        ours, theirs = load_file(seen / file), load_file(unseen / file)
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_guided_previews_are_tilted_ddim_of_the_average_in_a_column_a_class(tmp_path, class_folder, classifier_run):
    preview = PreviewConfig(images=6, classifier=classifier_run, scale=3.0)
    config = tiny.diffusion_config(tmp_path, class_folder, iterations=2, preview=preview)
    train_diffusion(config)

    guide, trained = load_classifier(classifier_run), load_diffusion(tmp_path)
    assert trained.weights == "ema_0.9"
    y = torch.tensor([0, 1, 0, 1, 0, 1])
    chain = make_chain(tiny.CHAIN).shortened(torch.arange(0, 50, 2))
    noise = SeededNoise(0, range(6))
    guided = tilted(trained.denoiser(y), classifier_score(guide.log_prob, y, 3.0))
    expected = to_uint8(ddim(guided, chain, noise(torch.empty(6, 1, 8, 8)), noise))
    plain = to_uint8(ddim(trained.denoiser(y), chain, noise(torch.empty(6, 1, 8, 8)), noise))
    tiles = _tiles(tmp_path / "previews" / "0000002.png", columns=2)
    assert np.array_equal(tiles, expected[:, 0])
    assert not np.array_equal(tiles, plain[:, 0])
    with Image.open(tmp_path / "previews" / "0000002.png") as picture:
        captions = np.array_split(np.asarray(picture)[: 2 * MARGIN + TEXT_SIZE], 2, axis=1)
    assert [int(half.min()) < 128 for half in captions] == [True, True]  # "dark" and "light" stand above their columns


def test_previews_of_a_diverged_network_warn_and_stop_nothing(tmp_path, class_folder, caplog):
    config = tiny.diffusion_config(tmp_path, class_folder, iterations=1, preview=PreviewConfig(images=2, steps=2))
    described = replace(model(), network=replace(model().network, in_channels=1, out_channels=1))
    data = open_training_set(tiny.data(class_folder), image_size=8)
    observe = diffusion_previews(config.preview, described, data, config)
    network = UNet(described.network)
    next(network.parameters()).data.fill_(torch.nan)
    assert observe is not None
    observe(network, 7)
    assert "previews at iteration 7 are not finite and shown black: training has diverged" in caplog.text
    assert (tmp_path / "previews" / "0000007.png").exists()


def test_a_classifier_that_cannot_guide_is_refused_before_anything_is_written(tmp_path, class_folder, judge_run):
    config = tiny.diffusion_config(
        tmp_path / "run", class_folder, iterations=1, preview=PreviewConfig(classifier=judge_run)
    )
    with pytest.raises(ValueError, match="trained on clean images only and cannot guide; train one with --diffusion"):
        train_diffusion(config)
    with pytest.raises(FileNotFoundError):
        train_diffusion(replace(config, preview=PreviewConfig(classifier=tmp_path / "nowhere")))
    assert not (tmp_path / "run").exists()


def test_upsampler_previews_show_the_low_res_input_beside_its_enlargement(tmp_path: Path, class_folder: Path):
    config = tiny.upsampler_config(
        tmp_path, class_folder, class_conditional=True, preview=PreviewConfig(images=16, steps=5), iterations=1
    )
    train_upsampler(config)
    tiles = _tiles(tmp_path / "previews" / "0000001.png", columns=8)
    shown = evenly_spaced(20, most=16)
    folder = open_training_set(tiny.data(class_folder), image_size=8)
    x0 = torch.stack([folder[index][0] for index in shown])
    expected = to_uint8(area_reduced(x0, 4)).repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    assert np.array_equal(tiles[0:32:2], expected[:, 0])
    assert len(np.unique(tiles[1:32:2], axis=0)) == len(shown)
    metrics = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert metrics["data_mean_0"] == pytest.approx(float(x0.mean()), abs=1e-6)  # float32


def test_upsampler_previews_are_not_guided(tmp_path):
    with pytest.raises(ValueError, match="previews of an upsampler are not guided: leave preview.classifier out"):
        tiny.upsampler_config(tmp_path, tmp_path, iterations=1, preview=PreviewConfig(classifier=tmp_path))


def _tiles(file: Path, *, columns: int) -> np.ndarray:
    """The 8x8 tiles of a grid with captions, in order, at one pixel a pixel."""
    with Image.open(file) as picture:
        pixels = np.asarray(picture)[2 * MARGIN + TEXT_SIZE :]
    factor = pixels.shape[1] // (columns * 9 + 1)
    pixels = pixels[::factor, ::factor]
    rows = (pixels.shape[0] - 1) // 9
    return np.stack([pixels[9 * r + 1 : 9 * r + 9, 9 * c + 1 : 9 * c + 9] for r in range(rows) for c in range(columns)])
