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

from classifiers.model import NoisyClassifier
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
from guided_diffusion.diffusion.model import load_diffusion, load_network
from guided_diffusion.diffusion.noise import SeededNoise
from guided_diffusion.diffusion.schedules import make_chain
from guided_diffusion.guidance.guides import load_guide


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


@pytest.fixture(scope="module")
def regression_run(tmp_path_factory, folder) -> Path:
    """A regression of brightness on clean images, stopped and resumed."""
    config = target_config(
        tmp_path_factory.mktemp("targets") / "run", folder, "regression", "brightness", iterations=16
    )
    train_classifier(config)
    train_classifier(replace(config, resume="auto", training=tiny.loop(iterations=20, ema_decays=())))
    return config.out


@pytest.fixture(scope="module")
def attributes_run(tmp_path_factory, folder, diffusion_run) -> Path:
    """An attribute of noisy images that lie in no class folders."""
    directory = tmp_path_factory.mktemp("attributes")
    flat = directory / "flat"
    flat.mkdir()
    for file in folder.glob("*/*.png"):
        (flat / f"{file.parent.name}{file.name}").write_bytes(file.read_bytes())
    config = target_config(
        directory / "run", write_table(flat), "attributes", "light", iterations=16, diffusion=diffusion_run
    )
    train_classifier(replace(config, heldout_images=8))
    return config.out


def test_a_real_value_is_learned_and_measured_in_its_own_unit_and_its_training_resumes(regression_run, folder):
    *_, observed = lines(regression_run)
    brightness = column_values(open_training_set(tiny.data(folder), image_size=8), Path("table.csv"), ["brightness"])
    assert observed["heldout_rmse_t0"] < 0.5 * float(brightness.std())
    assert observed["heldout_correlation_t0"] > 0.95
    assert observed["heldout_log_likelihood"] == -observed["heldout_nll_t0"] > -1
    checkpoint = open_checkpoint(regression_run, "regression")
    columns = checkpoint.model["columns"]
    assert (checkpoint.iteration, checkpoint.model["network"]["num_classes"]) == (20, 2)
    assert columns["names"] == ["brightness"]
    assert columns["mean"] == [pytest.approx(float(brightness.mean()))]
    assert (columns["lowest"], columns["highest"]) == ([float(brightness.min())], [float(brightness.max())])
    with pytest.raises(ValueError, match=r"was trained with --target regression and is no classifier; it guides as --"):
        load_classifier(regression_run)


def test_attributes_are_learned_in_noise_without_class_folders(attributes_run):
    *_, observed = lines(attributes_run)
    assert observed["heldout_accuracy_light_t0"] == 1
    levels = [observed[f"heldout_nll_t{t}"] for t in (0, 12, 24, 37, 49)]
    assert observed["heldout_log_likelihood"] == pytest.approx(-sum(levels) / 5)


def test_a_trained_regression_guides_by_its_density_in_the_unit_of_the_table(regression_run, diffusion_run, caplog):
    model = load_diffusion(diffusion_run)
    guide = load_guide("regression", {"run": str(regression_run), "target": 300}, model=model)
    assert "the target 300 lies outside the range that" in caplog.text
    assert guide.place == "x_0"  # a network of clean images is evaluated at the estimate
    x_0 = torch.linspace(-1, 1, 3).reshape(3, 1, 1, 1).expand(3, 1, 8, 8)
    config, network, *_ = load_network(
        regression_run, "regression", TargetModelConfig, NoisyClassifier, weights=None, device="cpu"
    )
    outputs = network(x_0, torch.zeros(3))
    mean, std = config.columns.mean[0], config.columns.std[0]
    var = std**2 * (outputs[:, 1].exp() + 1e-4)
    expected = torch.distributions.Normal(mean + std * outputs[:, 0], var.sqrt()).log_prob(torch.tensor(300.0))
    step = make_chain(model.config.chain).at(9, like=x_0)
    assert torch.allclose(guide.log_density(torch.zeros(3))(x_0, step), expected, rtol=1e-4)


def test_trained_attributes_guide_by_their_log_probability_at_the_noise_of_the_model(attributes_run, diffusion_run):
    model, options = load_diffusion(diffusion_run), {"run": str(attributes_run), "wanted": {"light": False}}
    guide = load_guide("attributes", options, model=model)
    assert guide.place == "x_t"
    x_t, step = torch.zeros(2, 1, 8, 8), make_chain(model.config.chain).at(9, like=torch.zeros(2))
    _, network, *_ = load_network(
        attributes_run, "attributes", TargetModelConfig, NoisyClassifier, weights=None, device="cpu"
    )
    log_p = torch.nn.functional.logsigmoid(-network(x_t, step.t))[:, 0]
    assert torch.allclose(guide.log_density(torch.zeros(2))(x_t, step), log_p)
    other = replace(model, config=replace(model.config, chain=replace(model.config.chain, num_steps=40)))
    with pytest.raises(ValueError, match=r"chain.num_steps is 40 to the diffusion model, but 50 to the guide"):
        load_guide("attributes", options, model=other)


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


def test_heldout_values_have_the_mean_and_deviation_of_the_training(regression_run, folder):
    plain = open_checkpoint(regression_run, "regression").model
    model = from_plain(TargetModelConfig, plain, source="model")
    labels = open_heldout(tiny.data(folder, labels=Path("table.csv")), model).labels
    assert labels.shape == (20, 1)
    assert float(labels.mean()) == pytest.approx(0, abs=1e-5)
    assert float(labels.std(correction=0)) == pytest.approx(1)
