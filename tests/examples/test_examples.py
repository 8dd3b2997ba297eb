"""The examples run as they are, on tiny models, and are short."""

import pickle
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

from guided_diffusion import GuidedDiffusion, SamplerConfig, SeededNoise, ddim, load_diffusion, through_network

EXAMPLES = {path.stem: path for path in (tiny.REPOSITORY / "examples").glob("*.py")}


def example(name: str) -> dict:
    """The names that an example defines."""
    return runpy.run_path(str(EXAMPLES[name]), run_name=name)


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_short_and_begins_with_the_command_that_runs_it(name):
    text = EXAMPLES[name].read_text()
    assert len(text.splitlines()) <= 40
    assert f"python examples/{name}.py " in text.splitlines()[0]


def test_a_model_is_guided_by_a_classifier(tmp_path, diffusion_run, classifier_run):
    example("guide_a_model")["main"](diffusion_run, classifier_run, tmp_path / "grid.png", scale=20.0, steps=5)
    grid = pixels(tmp_path / "grid.png").astype(float)
    guided = grid[:, grid.shape[1] // 2 :]
    dark, light = guided[: len(grid) // 2], guided[len(grid) // 2 :]
    assert light.mean() > dark.mean() + 5


def test_an_own_sampler_draws_samples_and_approaches_those_of_ddim(tmp_path, diffusion_run):
    own = example("own_sampler")
    own["main"](diffusion_run, tmp_path / "grid.png", steps=3, num_samples=4)
    assert pixels(tmp_path / "grid.png").std() > 1
    model = load_diffusion(diffusion_run)
    noise = SeededNoise(0, range(4))
    x_T = noise(torch.empty(4, *model.image_shape))
    few, many = (SamplerConfig(steps=steps).levels(model.config.chain) for steps in (5, 25))
    reference = ddim(model.denoiser(None), many, x_T, noise)
    error = (own["plms"](model.denoiser(None), many, x_T) - reference).square().mean()
    assert error < (ddim(model.denoiser(None), few, x_T, noise) - reference).square().mean()


def test_an_own_guidance_moves_the_samples(tmp_path, diffusion_run):
    own = example("own_guidance")["main"]
    for name, brightness in (("dark", -0.9), ("light", 0.9)):
        own(diffusion_run, tmp_path / f"{name}.png", brightness=brightness, num_samples=4)
    assert pixels(tmp_path / "light.png").mean() > pixels(tmp_path / "dark.png").mean() + 20


def test_a_function_of_ones_own_guides(tmp_path, diffusion_run):
    example("guide_by_a_function")["main"](diffusion_run, tmp_path / "grid.png", num_samples=3, steps=5)
    dark, light, symmetric = (rows.astype(float) for rows in np.array_split(pixels(tmp_path / "grid.png"), 3))
    assert light.mean() > dark.mean() + 20
    assert symmetric.std() > 1


def test_a_guide_by_a_prompt_names_the_package_that_it_needs(diffusion_run, monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    prompt = example("guide_by_a_prompt")["Prompt"]
    with pytest.raises(ValueError, match="Prompt fails: ImportError: .* needs CLIP: pip install open_clip_torch"):
        GuidedDiffusion.load(diffusion_run, function=through_network(prompt, text="a red car"))


def test_an_own_metric_finds_copies(class_folder, judge_run, capsys):
    example("own_metric")["main"](class_folder, class_folder, f"classifier:{judge_run}")
    assert capsys.readouterr().out == "{'copies': 1.0}\n"


def test_a_table_of_digits_has_their_slant_ink_and_attributes(tmp_path):
    table = example("digit_table")
    tiny.write_class_folder(tmp_path, classes=("3", "8"), per_class=1)
    table["main"]([tmp_path])
    header, three, eight = (line.split(",") for line in (tmp_path / "table.csv").read_text().splitlines())
    assert header == ["file", "slant", "ink", "thick", "odd"]
    assert (three[0], three[3:], eight[0], eight[3:]) == ("3/000.png", ["0", "1"], "8/000.png", ["1", "0"])
    assert table["slant"](np.eye(8)[::-1]) == pytest.approx(1)  # from the lower left to the upper right
    assert table["slant"](np.ones((8, 8))) == pytest.approx(0)


def test_a_small_checkpoint_makes_the_samples_of_its_weights_rounded_to_float16(tmp_path, diffusion_run):
    example("small_checkpoint")["main"](diffusion_run, tmp_path)
    small, whole = load_diffusion(tmp_path), load_diffusion(diffusion_run)
    assert small.weights == whole.weights
    for (name, rounded), kept in zip(
        small.network.state_dict().items(), whole.network.state_dict().values(), strict=True
    ):
        assert torch.equal(rounded, kept.half().float()), name


def test_the_archive_of_cifar10_becomes_class_folders(tmp_path, monkeypatch):
    from torchvision.datasets import cifar

    archive = tmp_path / "archive" / "cifar-10-batches-py"
    archive.mkdir(parents=True)
    names, labels = ["airplane", "truck"], [1, 0, 1]
    planes = np.arange(3 * 3072).reshape(3, 3072).astype(np.uint8)  # each image: red, green, then blue, row by row
    content = {"data_batch_1": {"data": planes, "labels": labels}, "test_batch": {"data": planes[:1], "labels": [0]}}
    for file, entry in {**content, "batches.meta": {"label_names": names}}.items():
        (archive / file).write_bytes(pickle.dumps(entry))
    for split, file in (("train_list", "data_batch_1"), ("test_list", "test_batch")):
        monkeypatch.setattr(cifar.CIFAR10, split, [[file, ""]])
    monkeypatch.setattr(cifar, "check_integrity", lambda path, md5: Path(path).is_file())

    example("cifar10_folders")["main"](tmp_path)
    written = sorted(str(file.relative_to(tmp_path)) for file in tmp_path.glob("t*/*/*.png"))
    assert written == [
        "test/airplane/00000.png", "train/airplane/00001.png", "train/truck/00000.png", "train/truck/00002.png"
    ]  # fmt: skip
    image = pixels(tmp_path / "train" / "truck" / "00002.png")
    assert np.array_equal(image, planes[2].reshape(3, 32, 32).transpose(1, 2, 0))
