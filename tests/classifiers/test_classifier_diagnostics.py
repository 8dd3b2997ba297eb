"""Accuracy by noise level against numbers computed by hand."""

import json
import math

import pytest
import tiny
import torch
from torch import Tensor, nn

from classifiers.checkpoint import load_classifier
from classifiers.diagnostics import DiagnoseConfig, accuracy_by_level, diagnose, heldout_images, level_indices
from guided_diffusion.chain import q_sample
from guided_diffusion.noise import SeededNoise
from guided_diffusion.schedules import make_chain

CHAIN = make_chain(tiny.CHAIN)


class BrightIsOne(nn.Module):
    """Logits (0, 10 * mean): knows its classes from the mean brightness."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(10.0))

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        score = self.factor * x_t.mean(dim=(1, 2, 3))
        return torch.stack([torch.zeros_like(score), score], dim=1)


def pictures() -> tuple[Tensor, Tensor]:
    labels = torch.arange(40) % 2
    x0 = (labels * 0.2 - 0.1).reshape(-1, 1, 1, 1) + 0.1 * torch.randn(
        40, 1, 8, 8, generator=torch.Generator().manual_seed(0)
    )
    return x0, labels


@pytest.mark.parametrize("batch_size", [256, 7])
def test_levels_are_what_direct_computation_gives(batch_size):
    images, labels = pictures()
    levels = accuracy_by_level(BrightIsOne(), CHAIN, images, labels, indices=(0, 20, 49), seed=3, batch_size=batch_size)
    for level, k in zip(levels, (0, 20, 49), strict=True):
        eps = SeededNoise(3, range(40))(images)
        x_t = q_sample(images, eps, CHAIN.at(k, like=images))
        score = 10 * x_t.mean(dim=(1, 2, 3))
        right = (score > 0) == (labels == 1)
        log_p = torch.where(labels == 1, -torch.log1p((-score).exp()), -torch.log1p(score.exp()))
        assert level.accuracy == pytest.approx(float(right.double().mean()), abs=1e-12)
        assert level.log_likelihood == pytest.approx(float(log_p.double().mean()), rel=1e-5)  # float32 logits
        assert level.t == k
        assert level.alpha_bar == pytest.approx(float(CHAIN.alpha_bar[k]))
    assert levels[0].accuracy > 0.9 > levels[2].accuracy


def test_without_a_chain_pictures_are_measured_as_they_are():
    images, labels = pictures()
    (level,) = accuracy_by_level(BrightIsOne(), None, images, labels, indices=level_indices(None, count=5), seed=0)
    assert (level.t, level.alpha_bar) == (0.0, 1.0)
    assert level.accuracy == float(((images.mean(dim=(1, 2, 3)) > 0) == (labels == 1)).double().mean())


def test_levels_are_spread_over_the_whole_chain():
    assert level_indices(CHAIN, count=5) == [0, 12, 24, 37, 49]
    assert level_indices(None, count=5) == [0]


def test_heldout_pictures_have_the_classifiers_numbering(tmp_path, judge_run):
    only_light = tiny.write_class_folder(tmp_path, classes=("light",), per_class=3)
    images, labels = heldout_images(tiny.data(only_light), load_classifier(judge_run).config, most=10)
    assert images.shape == (3, 1, 8, 8)
    assert labels.tolist() == [1, 1, 1]


def test_of_a_large_heldout_folder_evenly_spaced_pictures_are_measured(class_folder, judge_run):
    config = load_classifier(judge_run).config
    everything, _ = heldout_images(tiny.data(class_folder), config, most=1000)
    some, labels = heldout_images(tiny.data(class_folder), config, most=5)
    assert len(everything) == 20
    assert torch.equal(some, everything[[0, 5, 10, 14, 19]])
    assert labels.tolist() == [0, 0, 1, 1, 1]


def test_heldout_pictures_of_other_channels_are_refused(tmp_path, judge_run):
    colour = tiny.write_class_folder(tmp_path, mode="RGB", per_class=1)
    with pytest.raises(ValueError, match=r"holds images of 3 channels, the classifier takes 1; --data.mode converts"):
        heldout_images(tiny.data(colour), load_classifier(judge_run).config, most=10)


def test_a_diagnosis_is_printed_and_written(tmp_path, class_folder, classifier_run, capsys):
    out = tmp_path / "diagnosis.json"
    diagnose(DiagnoseConfig(classifier=classifier_run, data=tiny.data(class_folder), levels=3, out=out))
    record = json.loads(out.read_text())
    assert (record["num_images"], record["chance"]) == (20, 0.5)
    assert [level["t"] for level in record["levels"]] == [0, 24, 49]
    assert record["levels"][0]["accuracy"] == 1.0
    assert record["levels"][2]["log_likelihood"] < math.log(0.9)  # pure noise tells nothing
    assert "20 held-out images" in capsys.readouterr().out
