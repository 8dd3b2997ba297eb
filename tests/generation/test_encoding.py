"""Encoding by DDIM's inversion: the way back, the great circle between latents, and what is written."""

import json
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from oracles.mixture import GaussianMixture, draws

from guided_diffusion.commands.encode import EncodeConfig, encode
from guided_diffusion.diffusion.model import load_diffusion
from guided_diffusion.diffusion.schedules import ChainConfig, make_chain
from guided_diffusion.generation.encoding import Codec, spherical
from guided_diffusion.samplers import SamplerConfig


def config(out, run, folder, **changes) -> EncodeConfig:
    few = {"max_images": 6, "steps": 10, "batch_size": 4, "interpolations": 2, "frames": 3}
    return EncodeConfig(out=out, diffusion=run, data=tiny.data(folder), **(few | changes))


def test_spherical_interpolation_is_eq_67_and_ends_at_its_ends():
    first, second = draws(5, 3, 4, 4, seed=1), draws(5, 3, 4, 4, seed=2)
    torch.testing.assert_close(spherical(first, second, 0.0), first)
    torch.testing.assert_close(spherical(first, second, 1.0), second)
    a, b = first[0].flatten(), second[0].flatten()
    theta = math.acos(float(a @ b / (a.norm() * b.norm())))
    expected = (math.sin(0.7 * theta) * a + math.sin(0.3 * theta) * b) / math.sin(theta)
    torch.testing.assert_close(spherical(first, second, 0.3)[0].flatten(), expected)


def test_latents_of_one_length_keep_it_on_the_way_where_a_straight_line_would_shorten_them():
    first, second = (
        x / x.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1) for x in (draws(4, 1, 3, 3), draws(4, 1, 3, 3, seed=9))
    )
    halfway = spherical(first, second, 0.5).flatten(1).norm(dim=1)
    torch.testing.assert_close(halfway, torch.ones_like(halfway))
    assert float(((first + second) / 2).flatten(1).norm(dim=1).max()) < 0.95


def test_interpolating_between_a_latent_and_itself_stays_there():
    latent = draws(2, 1, 3, 3, dtype=torch.float32)
    torch.testing.assert_close(spherical(latent, latent, 0.4), latent)


def test_images_come_back_and_closer_with_more_steps():
    chain_config = ChainConfig(schedule="linear", num_steps=1000)
    spread = torch.diag(torch.tensor([0.05, 0.1, 0.2, 0.3], dtype=torch.float64))
    blob = GaussianMixture(torch.zeros(1, 4).double(), spread[None], torch.ones(1).double(), make_chain(chain_config))
    exact: Any = SimpleNamespace(
        device=torch.device("cpu"), config=SimpleNamespace(chain=chain_config), denoiser=lambda y, clip: blob.denoiser
    )
    images = torch.arange(0, 256, 8, dtype=torch.uint8).reshape(8, 1, 2, 2)

    def error(steps: int) -> float:
        codec = Codec(model=exact, sampler=SamplerConfig(steps=steps, clip=None), batch_size=3)
        labels = torch.zeros(8, dtype=torch.int64)
        return float((codec.decode(codec.encode(images, labels), labels).double() - images.double()).abs().mean())

    # First order: a tenth with ten times as many steps, but for half a grey level of truncation.
    assert error(20) > 5
    assert error(200) < error(20) / 10 + 0.5


def test_the_directory_holds_latents_that_decode_to_the_reconstructions(tmp_path, diffusion_run, class_folder, capsys):
    encode(config(tmp_path, diffusion_run, class_folder))
    model, record = load_diffusion(diffusion_run), json.loads((tmp_path / "encoding.json").read_text())
    with np.load(tmp_path / "latents.npz") as arrays:
        latents, images = torch.from_numpy(arrays["latents"]), arrays["images"]
        assert arrays["labels"].tolist() == [image["label"] for image in record["images"]] == [0, 0, 0, 1, 1, 1]
    codec = Codec(model=model, sampler=SamplerConfig(steps=10), batch_size=4)
    again = codec.decode(latents, torch.zeros(6, dtype=torch.int64))
    errors = np.abs(again.numpy().astype(float) - images).mean(axis=(1, 2, 3))
    assert errors == pytest.approx([image["grey_levels"] for image in record["images"]])
    assert {file.name for file in tmp_path.iterdir()} == {
        "latents.npz", "encoding.json", "reconstructions.png", "interpolations.png",
    }  # fmt: skip
    assert "6 images by 10 links and back: off by" in capsys.readouterr().out


def test_one_image_has_nothing_to_be_interpolated_with(tmp_path, diffusion_run, class_folder):
    encode(config(tmp_path, diffusion_run, class_folder, max_images=1))
    assert not (tmp_path / "interpolations.png").exists()


def test_a_conditional_model_is_told_the_classes_of_the_images(tmp_path, conditional_run, class_folder):
    encode(config(tmp_path / "right", conditional_run, class_folder, steps=3))
    strange = tiny.write_class_folder(tmp_path / "strange", classes=("cat", "dog"), per_class=2)
    with pytest.raises(ValueError, match="'cat' for one, that are not among the 2 asked for"):
        encode(config(tmp_path / "wrong", conditional_run, strange, steps=3))
    assert not (tmp_path / "wrong").exists()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"frames": 1}, "frames must be at least 2, got 1"),
        ({"interpolations": -1}, "interpolations must be at least 0, got -1"),
        ({"clip": -1.0}, "clip is a bound above 0, or null; got -1.0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(tmp_path, diffusion_run, class_folder, wrong, message):
    with pytest.raises(ValueError, match=message):
        config(tmp_path, diffusion_run, class_folder, **wrong)
