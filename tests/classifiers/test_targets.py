"""Targets other than classes: learned from the columns of a table, measured on held-out images, resumed."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from torch import Tensor, nn

from classifiers.target_model import TargetModelConfig
from classifiers.target_objective import TARGETS, TargetObjective
from classifiers.trained_model import load_classifier
from classifiers.validation import open_heldout
from guided_diffusion.checkpoint import open_checkpoint
from guided_diffusion.commands.train_classifier import TrainClassifierConfig, train_classifier
from guided_diffusion.config import from_plain
from guided_diffusion.data.batches import Batch
from guided_diffusion.data.columns import column_values
from guided_diffusion.data.image_set import open_training_set
from guided_diffusion.diffusion.noise import SeededNoise


def write_table(folder: Path) -> Path:
    """table.csv of the images in a folder, with their brightness and whether it is above the middle."""
    rows = ["file,brightness,light"]
    for file in sorted(folder.glob("**/*.png")):
        brightness = float(np.asarray(Image.open(file)).mean())
        rows.append(f"{file.relative_to(folder).as_posix()},{brightness},{int(brightness > 127)}")
    (folder / "table.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_table(tiny.write_class_folder(tmp_path_factory.mktemp("targets") / "data"))


def target_config(out: Path, folder: Path, target: str, *columns: str, **options: object) -> TrainClassifierConfig:
    config = tiny.classifier_config(out, folder, heldout=folder, **options)
    return replace(config, data=tiny.data(folder, labels=Path("table.csv")), target=target, columns=columns)


def lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_real_value_is_learned_and_measured_in_its_own_unit_and_its_training_resumes(tmp_path, folder):
    config = target_config(tmp_path / "run", folder, "regression", "brightness", iterations=16)
    train_classifier(config)
    train_classifier(replace(config, resume="auto", training=tiny.loop(iterations=20, ema_decays=())))
    *_, observed = lines(config.out)
    brightness = column_values(open_training_set(tiny.data(folder), image_size=8), Path("table.csv"), ["brightness"])
    assert observed["heldout_rmse_t0"] < 0.5 * float(brightness.std())
    assert observed["heldout_correlation_t0"] > 0.95
    assert observed["heldout_log_likelihood"] == -observed["heldout_nll_t0"] > -1
    checkpoint = open_checkpoint(config.out, "regression")
    columns = checkpoint.model["columns"]
    assert (checkpoint.iteration, checkpoint.model["network"]["num_classes"]) == (20, 2)
    assert columns["names"] == ["brightness"]
    assert columns["mean"] == [pytest.approx(float(brightness.mean()))]
    assert (columns["lowest"], columns["highest"]) == ([float(brightness.min())], [float(brightness.max())])
    with pytest.raises(ValueError, match=r"was trained with --target regression and is no classifier; it guides as --"):
        load_classifier(config.out)


def test_attributes_are_learned_in_noise_without_class_folders(tmp_path, folder, diffusion_run):
    flat = tmp_path / "flat"
    flat.mkdir()
    for file in folder.glob("*/*.png"):
        (flat / f"{file.parent.name}{file.name}").write_bytes(file.read_bytes())
    config = target_config(
        tmp_path / "run", write_table(flat), "attributes", "light", iterations=16, diffusion=diffusion_run
    )
    train_classifier(replace(config, heldout_images=8))
    *_, observed = lines(config.out)
    assert observed["heldout_accuracy_light_t0"] == 1
    levels = [observed[f"heldout_nll_t{t}"] for t in (0, 12, 24, 37, 49)]
    assert observed["heldout_log_likelihood"] == pytest.approx(-sum(levels) / 5)


class Constant(nn.Module):
    """The same outputs for every image."""

    def __init__(self, *outputs: float) -> None:
        super().__init__()
        self.outputs = torch.tensor(outputs)

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        return self.outputs.expand(len(x_t), -1)


def test_a_real_value_of_which_nothing_is_known_costs_the_entropy_of_a_standard_gaussian():
    values = torch.tensor([[1.0], [-1.0], [1.0], [-1.0]])
    batch = Batch(torch.zeros(4, 1, 8, 8), values, torch.arange(4))
    losses = TargetObjective(None, TARGETS["regression"], TARGETS["regression"].columns(values, ["v"]))(
        Constant(0.0, math.log(1 - 1e-4)), batch, SeededNoise(0, range(4))
    )
    assert float(losses.total) == pytest.approx(0.5 * math.log(2 * math.pi * math.e))
    assert float(losses.logged["rmse"]) == pytest.approx(1)


def test_attributes_cost_the_sum_of_their_cross_entropies():
    values = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    columns = TARGETS["attributes"].columns(values, ["a", "b"])
    batch = Batch(torch.zeros(3, 1, 8, 8), values, torch.arange(3))
    losses = TargetObjective(None, TARGETS["attributes"], columns)(Constant(2.0, 0.0), batch, SeededNoise(0, range(3)))
    p = torch.tensor(2.0).sigmoid()
    expected = -(2 * p.log() + (1 - p).log()) / 3 + math.log(2)
    assert float(losses.total) == pytest.approx(float(expected))
    assert float(losses.logged["accuracy_a"]) == pytest.approx(2 / 3)


def test_a_table_may_name_other_images_in_any_order_with_composed_or_decomposed_accents(tmp_path):
    folder = tiny.write_class_folder(tmp_path / "data", classes=("e\u0301t\u00e9",), per_class=2)
    table = tmp_path / "table.csv"
    table.write_text("slant,file\n-0.5,\u00e9te\u0301/001.png\n2e3,gone.png\n0.25,e\u0301te\u0301/000.png\n")
    images = open_training_set(tiny.data(folder), image_size=8, is_labelled=False)
    assert column_values(images, table, ["slant"]).tolist() == [[0.25], [-0.5]]
    assert not images.is_labelled


def test_heldout_values_have_the_mean_and_deviation_of_the_training(tmp_path, folder):
    config = target_config(tmp_path / "run", folder, "regression", "brightness", iterations=1)
    train_classifier(config)
    model = from_plain(TargetModelConfig, open_checkpoint(config.out, "regression").model, source="model")
    labels = open_heldout(config.data, model).labels
    assert labels.shape == (20, 1)
    assert float(labels.mean()) == pytest.approx(0, abs=1e-5)
    assert float(labels.std(correction=0)) == pytest.approx(1)
