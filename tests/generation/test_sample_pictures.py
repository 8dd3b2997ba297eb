"""The film of a few samples: its last frame is the samples, and making it changes nothing else."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from PIL import Image, ImageSequence

from guided_diffusion.data.formats.samples import iterate_shards
from guided_diffusion.diffusion.denoiser import Estimate
from guided_diffusion.diffusion.model import load_diffusion
from guided_diffusion.generation.sample_pictures import MOST_FRAMES, Film

CONFIG = tiny.sample_config(Path("unused"), num_samples=6, batch_size=3, shard_size=4, steps=5, animate=4)


def shard_bytes(directory: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(directory.glob("*")) if file.suffix in (".npz", ".json")}


def test_the_last_frame_shows_the_samples_and_their_estimate(tmp_path, diffusion_run):
    model = load_diffusion(diffusion_run)
    tiny.generate(replace(CONFIG, out=tmp_path / "a"), model)
    with Image.open(tmp_path / "a" / "animation.webp") as film:
        frames = [np.asarray(frame.convert("L")) for frame in ImageSequence.Iterator(film)]
    assert len(frames) == 5
    factor = frames[0].shape[0] // 19  # two rows of 8 pixels and three lines between
    small = [frame[::factor, ::factor] for frame in frames]
    images = np.concatenate([shard.images for shard in iterate_shards(tmp_path / "a")])[..., 0]
    for i in range(4):
        y, x = 1 + 9 * (i // 2), 1 + 9 * (i % 2)
        sample = small[-1][y : y + 8, x : x + 8].astype(int)
        # ddim's last state is its estimate of x_0
        estimate = small[-1][y : y + 8, x + 19 + 4 : x + 19 + 4 + 8]
        assert np.abs(sample - images[i]).max() <= 1  # batches of other sizes
        assert np.array_equal(sample, estimate)
    first = small[0][1:9, 1:9].astype(int)
    assert first.std() > images[0].std()  # it begins as noise


def test_an_animation_changes_no_sample_and_may_come_later(tmp_path, diffusion_run):
    model = load_diffusion(diffusion_run)
    plain = replace(CONFIG, out=tmp_path / "a", animate=0)
    tiny.generate(plain, model)
    before = shard_bytes(tmp_path / "a")
    assert not (tmp_path / "a" / "animation.webp").exists()
    tiny.generate(replace(plain, animate=1), model)
    assert (tmp_path / "a" / "animation.webp").exists()
    assert shard_bytes(tmp_path / "a") == before


@pytest.mark.parametrize(("links", "kept"), [(1, 1), (60, 60), (61, 31), (1000, 59)])
def test_of_many_steps_a_film_keeps_some_and_always_the_last(links, kept):
    film = Film(links)
    for k in reversed(range(links)):
        x = torch.full((2, 1, 1, 1), 2 * (1 - k / links) - 1)
        film(k, x, Estimate(x0=-x, log_var=0.0))
    states, estimates = film.frames()
    assert states.shape == estimates.shape == (kept, 2, 1, 1, 1)
    assert kept <= MOST_FRAMES
    assert states[-1].flatten().tolist() == [255, 255]
    assert estimates[-1].flatten().tolist() == [0, 0]


def test_more_images_than_samples_are_refused():
    with pytest.raises(ValueError, match="animate is a number of the 6 samples, 0 for none; got 7"):
        replace(CONFIG, animate=7)
