"""Warnings of an evaluation, and their place in its report."""

import json
from pathlib import Path

import torch
from evaluation.pixel_extractor import LABELS, PixelExtractor, noisy_images, save_samples

from guided_diffusion.evaluation.config import EvaluationConfig
from guided_diffusion.evaluation.run import evaluate


def warnings(generated: Path, real: Path, **settings: int) -> list[str]:
    out = generated / "report.json"
    evaluate(generated=generated, real=real, extractor=PixelExtractor(), config=EvaluationConfig(**settings), out=out)
    return json.loads(out.read_text())["doubts"]


def test_enough_images_leave_no_doubt(tmp_path: Path, real: Path) -> None:
    samples = save_samples(tmp_path / "samples", noisy_images(LABELS, seed=0), LABELS)
    assert warnings(samples, real, bootstrap=40) == []


def test_a_set_against_itself_says_nothing(real: Path) -> None:
    assert warnings(real, real) == [f"both sides are {real}: this says nothing about samples"]


def test_samples_in_the_place_of_real_images_are_doubted(tmp_path: Path, real: Path) -> None:
    samples = save_samples(tmp_path / "samples", noisy_images(LABELS, seed=0), LABELS)
    doubt = f"--real {samples} holds samples, not real images; give samples as --generated"
    assert doubt in warnings(save_samples(tmp_path / "others", noisy_images(LABELS, seed=1), LABELS), samples)


def test_real_images_that_are_enlarged_are_doubted(tmp_path: Path, real: Path, capsys) -> None:
    samples = save_samples(tmp_path / "samples", noisy_images(LABELS, seed=0, size=12), LABELS)
    (doubt,) = (doubt for doubt in warnings(samples, real) if "smaller" in doubt)
    assert doubt.startswith(f"120 of the 120 images of {real} are smaller than 12 pixels and were enlarged")
    told = [line for line in capsys.readouterr().err.splitlines() if " images of " in line]
    assert told == [f"{real}: 120 images of 3 classes, 12x12 RGB, .png; 120 smaller than 12 pixels, which are enlarged"]


def test_few_images_are_doubted_by_all_that_needs_many(tmp_path: Path, real: Path) -> None:
    few = save_samples(tmp_path / "few", noisy_images(LABELS[:5], seed=0), LABELS[:5])
    rank, resamplings, interval, nearest = warnings(few, real, bootstrap=3)
    assert rank.startswith("the generated side has 5 images for features of 5 dimensions: its covariance is singular")
    assert nearest.startswith("the generated side has 5 images to look for 3 neighbours in: precision, recall")
    assert resamplings == "3 resamplings do not show where 95 % of them lie; 200 do"
    assert interval.startswith("with 5 samples of 5 dimensions the bootstrap interval is too wide")


def test_a_short_last_split_is_said(tmp_path: Path, real: Path) -> None:
    samples = save_samples(tmp_path / "samples", noisy_images(LABELS, seed=0), LABELS)
    assert warnings(samples, real, split_size=119) == [
        "the Inception Score's last split has 1 images and counts like the others, as published"
    ]
    assert warnings(samples, real, split_size=60) == []


def test_images_of_one_colour_are_doubted(tmp_path: Path, real: Path) -> None:
    images = noisy_images(LABELS, seed=0)
    images[:2] = 0  # a black sample or two of 120
    samples = save_samples(tmp_path / "two", images, LABELS)
    assert warnings(samples, real) == ["2 of the 120 generated images are of one colour: sampling may have failed"]
    images[:2] = noisy_images(LABELS, seed=0)[:2]
    images[0] = torch.tensor([3, 200, 9])
    assert warnings(save_samples(tmp_path / "one", images, LABELS), real) == []


def test_copies_are_doubted_within_a_set_and_between_the_sets(tmp_path: Path, real: Path) -> None:
    images = noisy_images(LABELS, seed=0)
    images[40:80] = images[:40]
    assert warnings(save_samples(tmp_path / "repeated", images, LABELS), real) == [
        "40 of the 120 generated images are copies of others of the set, and count as often"
    ]
    copied = save_samples(tmp_path / "copied", noisy_images(LABELS, seed=1, spread=35), LABELS)
    (overlap,) = warnings(copied, real)
    assert overlap.startswith("120 of the 120 generated images are copies of real ones, to the byte: the sets overlap")
