"""The inpainting command: known pixels to the byte, the same result however it is made, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import tiny
from PIL import Image

from classifiers.trained_model import load_classifier
from guided_diffusion.commands.inpaint import InpaintConfig, write_inpainted
from guided_diffusion.data.formats.samples import iterate_shards, read_manifest, settings_of
from guided_diffusion.data.image_set import open_training_set
from guided_diffusion.data.pictures import read_mask
from guided_diffusion.diffusion.model import DiffusionModel, load_diffusion
from guided_diffusion.guidance.config import GuidanceConfig


@pytest.fixture(scope="module")
def model(diffusion_run) -> DiffusionModel:
    return load_diffusion(diffusion_run)


@pytest.fixture
def mask(tmp_path) -> Path:
    return write_mask(tmp_path / "mask.png")


def write_mask(path: Path, *, size: int = 8, white: int = 255, rows: slice = slice(5, None)) -> Path:
    pixels = np.zeros((size, size), dtype=np.uint8)
    pixels[rows] = white
    Image.fromarray(pixels).save(path)
    return path


def config(out: Path, folder: Path, mask: Path, **changes) -> InpaintConfig:
    few = {"max_images": 6, "batch_size": 4, "shard_size": 3, "sampler": "ddpm", "steps": 5, "resample_steps": 1}
    task = {"diffusion": Path("unused"), "data": tiny.data(folder), "mask": mask}
    return InpaintConfig(out=out, **task, **tiny.sampling(**(few | changes)))


def inpaint(config: InpaintConfig, model: DiffusionModel, classifier=None) -> None:
    write_inpainted(tiny.sampling_run(config, model, classifier), config)


def made(directory: Path) -> tuple[np.ndarray, np.ndarray]:
    shards = list(iterate_shards(directory))
    return np.concatenate([shard.images for shard in shards]), np.concatenate([shard.labels for shard in shards])


def originals(folder: Path, count: int) -> np.ndarray:
    dataset = open_training_set(tiny.data(folder), image_size=8)
    return np.stack([dataset.pixels(round(i)) for i in np.linspace(0, len(dataset) - 1, count)])


@pytest.mark.parametrize("changes", [{}, {"resample_steps": 2}, {"sampler": "ddim"}, {"sampler": "dpmpp_2m"}])
def test_known_pixels_are_kept_to_the_byte_and_the_others_are_made(tmp_path, model, class_folder, mask, changes):
    inpaint(config(tmp_path / "out", class_folder, mask, **changes), model)
    images, labels = made(tmp_path / "out")
    real = originals(class_folder, 6)
    assert np.array_equal(images[:, :5], real[:, :5])
    assert (images[:, 5:] != real[:, 5:]).mean() > 0.5
    assert labels.tolist() == [-1] * 6
    assert (tmp_path / "out" / "comparison.png").exists()


def test_an_image_does_not_depend_on_batches_and_shards(tmp_path, model, class_folder, mask):
    whole, halves = config(tmp_path / "1", class_folder, mask), config(tmp_path / "2", class_folder, mask)
    inpaint(whole, model)
    inpaint(InpaintConfig(**(vars(halves) | {"batch_size": 1, "shard_size": 6})), model)
    difference = np.abs(made(tmp_path / "1")[0].astype(int) - made(tmp_path / "2")[0])
    assert difference.max() <= 1  # as RunConfig.batch_size says


def test_guidance_asks_for_each_images_own_class_or_for_the_labels_given(
    tmp_path, model, class_folder, mask, classifier_run
):
    guide = load_classifier(classifier_run)
    strong = {"guidance": GuidanceConfig(scale=20.0)}
    inpaint(config(tmp_path / "own", class_folder, mask, **strong), model, guide)
    inpaint(config(tmp_path / "light", class_folder, mask, labels="light", **strong), model, guide)
    own, light = made(tmp_path / "own"), made(tmp_path / "light")
    assert own[1].tolist() == [0, 0, 0, 1, 1, 1]
    assert light[1].tolist() == [1] * 6
    assert np.array_equal(own[0][3:], light[0][3:])
    assert light[0][:3, 5:].mean() > own[0][:3, 5:].mean()  # of pictures whose known part is dark


def test_the_manifest_is_that_of_samples_and_of_the_task(tmp_path, model, class_folder, mask):
    inpaint(config(tmp_path / "out", class_folder, mask), model)
    few = {"num_samples": 6, "shard_size": 3, "sampler": "ddpm", "steps": 5}
    tiny.generate(tiny.sample_config(tmp_path / "plain", **few), model)
    found, plain = read_manifest(tmp_path / "out"), read_manifest(tmp_path / "plain")
    task = found.pop("inpainting")
    assert set(task) == {"images", "mask", "resample_steps"}
    assert settings_of(found) == settings_of(plain)


def test_another_mask_or_other_images_are_not_mixed_into_a_directory(tmp_path, model, class_folder, mask):
    inpaint(config(tmp_path / "out", class_folder, mask), model)
    before = read_manifest(tmp_path / "out")
    other = write_mask(tmp_path / "other.png", rows=slice(0, 2))
    with pytest.raises(ValueError, match="already holds samples made with other settings:\n  inpainting.mask"):
        inpaint(config(tmp_path / "out", class_folder, other), model)
    brighter = tiny.write_class_folder(tmp_path / "pictures", classes=("a", "b", "c"))
    with pytest.raises(ValueError, match="inpainting.images"):
        inpaint(config(tmp_path / "out", brighter, mask), model)
    assert read_manifest(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 16}, "has 16x16 pixels, but the model makes 8x8; draw it at that size"),
        ({"white": 200}, "has 24 pixels that are neither black"),
        ({"rows": slice(0, 8)}, "is all white, so nothing is kept; draw the part to be made in white on black"),
        ({"rows": slice(0, 0)}, "is all black, so nothing is made"),
    ],
)
def test_masks_that_say_nothing_clear_are_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        read_mask(write_mask(tmp_path / "mask.png", **changes), size=8)


def test_a_mask_that_is_missing_or_no_picture_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no mask .*expected a picture of 8x8 pixels"):
        read_mask(tmp_path / "mask.png", size=8)
    (tmp_path / "mask.png").write_text("no picture")
    with pytest.raises(ValueError, match="cannot be read as a picture"):
        read_mask(tmp_path / "mask.png", size=8)


def test_labels_without_anyone_to_be_told_are_refused_before_anything_is_written(tmp_path, model, class_folder, mask):
    with pytest.raises(ValueError, match="labels 1 were asked for.*add --classifier RUN"):
        inpaint(config(tmp_path / "out", class_folder, mask, labels=1), model)
    assert not (tmp_path / "out").exists()


def test_resampling_is_for_ddpm(tmp_path, class_folder, mask):
    with pytest.raises(
        ValueError, match="resample_steps 10 takes ddpm's links repeatedly, and ddim has none; add --resample_steps 1"
    ):
        config(tmp_path, class_folder, mask, sampler="ddim", resample_steps=10)


def test_particles_which_would_be_ignored_are_refused(tmp_path, class_folder, mask):
    with pytest.raises(ValueError, match="guidance.particles 4 weigh whole images, and here known pixels are kept"):
        config(tmp_path, class_folder, mask, guidance=GuidanceConfig(particles=4))
