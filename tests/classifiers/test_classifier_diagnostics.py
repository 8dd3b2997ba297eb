"""The diagnosis of real, tiny classifiers: what is measured, printed, written and refused."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from PIL import Image

from classifiers import diagnosis as diagnostics
from classifiers import probes as measurements
from classifiers.diagnosis import summarize
from classifiers.probes import (
    LevelMeasurement,
    NoisedPredictions,
    Probes,
    correction_ratio,
    measure_levels,
    measure_slopes,
)
from classifiers.trained_model import load_classifier
from classifiers.validation import open_heldout, predictions, read_images
from guided_diffusion.commands.diagnose_classifier import DiagnoseConfig, diagnose_classifier
from guided_diffusion.diffusion.chain import q_sample
from guided_diffusion.diffusion.noise import SeededNoise
from guided_diffusion.diffusion.schedules import make_chain
from guided_diffusion.guidance import classifier_score

CHAIN = make_chain(tiny.CHAIN)


def measurement(log_p: torch.Tensor, *, t: float = 0.0) -> LevelMeasurement:
    ones = torch.ones(len(log_p))
    return LevelMeasurement(t, 0.5, NoisedPredictions(log_p, log_p, 0.1 * ones, ones.double()), slope_error=0.0)


@pytest.mark.parametrize("batch_size", [64, 7])
def test_levels_are_measured_with_the_gradient_and_the_noise_of_each_picture(batch_size, class_folder, classifier_run):
    classifier = load_classifier(classifier_run)
    network, folder = classifier.network, open_heldout(tiny.data(class_folder), classifier.config)
    chosen = list(range(0, 20, 2))
    probes = Probes(images=folder, chosen=chosen, chain=CHAIN, links=(0, 30), seed=3)
    levels = measure_levels(network, probes, batch_size=batch_size)
    x0, y = read_images(folder, chosen)
    eps = SeededNoise(3, range(10))(x0)
    for level, k in zip(levels, (0, 30), strict=True):
        step = CHAIN.at(k, like=x0)
        x_t = q_sample(x0, eps, step)
        ratio = correction_ratio(classifier_score(network.log_prob, y, 1.0)(x_t, step), eps, step)
        assert (level.t, level.alpha_bar) == (k, float(CHAIN.alpha_bar[k]))
        assert torch.allclose(level.predictions.corrections, ratio, rtol=1e-4)  # float32, other batch sizes
        expected = predictions(network.log_prob, CHAIN, x0, k=k, seed=3, device=torch.device("cpu"))
        assert torch.allclose(level.predictions.log_p, expected, rtol=0, atol=1e-5)


def test_a_real_networks_gradient_is_its_slope_and_a_corrupted_one_is_not(class_folder, classifier_run):
    classifier = load_classifier(classifier_run)
    network, folder = classifier.network, open_heldout(tiny.data(class_folder), classifier.config)
    probes = Probes(images=folder, chosen=range(20), chain=CHAIN, links=(0, 25, 49), seed=0)
    sound = measure_slopes(network, probes)
    assert max(sound) < 1e-3  # float32's gradient against float64's slope
    network.head.register_full_backward_hook(lambda module, grad_input, grad_output: (1.2 * grad_input[0],))
    corrupted = measure_slopes(network, probes)
    assert corrupted == pytest.approx([1 - 1 / 1.2] * 3, abs=1e-3)


def test_the_scale_is_pooled_over_the_levels_that_know_something():
    y = torch.tensor([0, 1] * 50)
    right = torch.where(torch.arange(100) < 80, y, 1 - y)  # 80% right at log-odds 2: honest times log(4) / 2
    knowing = torch.nn.functional.one_hot(right, 2).double() * 2
    ignorant = torch.nn.functional.one_hot(torch.zeros_like(y), 2).double() * 50
    levels = [measurement(logits.log_softmax(dim=1), t=float(t)) for t, logits in enumerate((knowing, ignorant))]
    found = summarize(levels, y, classifier="c", data=Path("d"), trained_on_it=False, guides=True)
    assert found.scale == pytest.approx(math.log(4) / 2, rel=1e-9)
    assert (found.chance, found.commonest, found.num_images) == (0.5, 0.5, 100)
    assert [level.accuracy for level in found.levels] == [0.8, 0.5]
    only_ignorant = summarize(levels[1:], y, classifier="c", data=Path("d"), trained_on_it=False, guides=True)
    assert only_ignorant.scale is None


def test_a_constant_answer_on_uneven_classes_is_no_knowledge():
    y = torch.tensor([0] * 90 + [1] * 10)
    constant = torch.tensor([[3.0, 0.0]]).log_softmax(dim=1).expand(100, 2)
    level = measurement(constant)
    found = summarize([level], y, classifier="c", data=Path("d"), trained_on_it=False, guides=True)
    assert (found.commonest, found.levels[0].accuracy, found.scale) == (0.9, 0.9, None)


def test_broken_weights_are_named():
    level = measurement(torch.full((2, 2), math.nan), t=7.0)
    with pytest.raises(
        ValueError, match=r"run/c gives log-probabilities that are not finite at t = 7: its weights are"
    ):
        summarize([level], torch.tensor([0, 1]), classifier="run/c", data=Path("d"), trained_on_it=False, guides=True)


def test_a_diagnosis_is_printed_and_written_with_a_figure(tmp_path, class_folder, classifier_run, capsys):
    out = tmp_path / "new" / "diagnosis.json"
    diagnose_classifier(DiagnoseConfig(classifier=classifier_run, data=tiny.data(class_folder), levels=3, out=out))
    record = json.loads(out.read_text())
    assert (record["num_images"], record["chance"]) == (20, 0.5)
    assert [level["t"] for level in record["levels"]] == [0, 24, 49]
    assert record["levels"][0]["accuracy"] == 1.0
    assert record["levels"][2]["log_likelihood"] < math.log(0.9)  # pure noise tells nothing
    assert record["scale"] > 0
    spent = [level["nats"] for level in record["levels"]]
    assert record["information"]["spent"] == pytest.approx(sum(spent))
    assert record["information"]["ceiling"] == pytest.approx(math.log(2))
    assert [(pair["t"], pair["s"]) for pair in record["pairs"]] == [(24, 0), (49, 24)]
    assert 0 < sum(pair["spent"] for pair in record["pairs"]) <= sum(spent)
    printed = capsys.readouterr().out
    assert "20 images of" in printed
    assert all(sentence in " ".join(printed.split()) for sentence in record["verdict"])
    with Image.open(out.with_suffix(".png")) as figure:
        assert figure.width > 1000


def test_the_training_folder_is_called_what_it_is_and_a_copy_is_not(tmp_path, class_folder, classifier_run):
    for folder, expected in ((class_folder / ".." / class_folder.name, True), (tmp_path / "copy", False)):
        if not expected:
            tiny.write_class_folder(folder)
        out = tmp_path / "diagnosis.json"
        diagnose_classifier(DiagnoseConfig(classifier=classifier_run, data=tiny.data(folder), levels=1, out=out))
        record = json.loads(out.read_text())
        assert record["trained_on_it"] is expected
        assert record["verdict"][0].startswith("These images are not held out") is expected


def test_a_judge_has_one_level_no_figure_and_no_scale_to_start_from(tmp_path, class_folder, judge_run):
    out = tmp_path / "diagnosis.json"
    diagnose_classifier(DiagnoseConfig(classifier=judge_run, data=tiny.data(class_folder), out=out))
    record = json.loads(out.read_text())
    assert [(level["t"], level["alpha_bar"]) for level in record["levels"]] == [(0, 1)]
    assert record["levels"][0]["correction"] == 0
    assert (record["levels"][0]["nats"], record["information"], record["pairs"]) == (None, None, [])
    assert not any("--guidance.scale" in sentence for sentence in record["verdict"])
    assert not out.with_suffix(".png").exists()


def test_images_of_one_class_are_refused(tmp_path, judge_run):
    only_light = tiny.write_class_folder(tmp_path / "light", classes=("light",), per_class=3)
    with pytest.raises(ValueError, match=r"holds images of one class only, where a constant answer is right"):
        diagnose_classifier(DiagnoseConfig(classifier=judge_run, data=tiny.data(only_light), out=tmp_path / "d.json"))
    assert not (tmp_path / "d.json").exists()


def test_an_interrupted_diagnosis_leaves_nothing(tmp_path, class_folder, classifier_run, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(measurements, "measure_slopes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        diagnose_classifier(
            DiagnoseConfig(classifier=classifier_run, data=tiny.data(class_folder), out=tmp_path / "d.json")
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["max_images", "levels", "batch_size"])
def test_counts_below_one_are_refused(name, class_folder):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        DiagnoseConfig(classifier=Path("run"), data=tiny.data(class_folder), **{name: 0})


def test_a_file_that_the_figure_would_replace_is_refused(class_folder):
    with pytest.raises(ValueError, match=r"out is a JSON file, and the figure beside it ends in .png; got d.png"):
        DiagnoseConfig(classifier=Path("run"), data=tiny.data(class_folder), out=Path("d.png"))


def test_a_classifier_of_one_class_is_refused(class_folder, classifier_run):
    classifier = load_classifier(classifier_run)
    network = replace(classifier.config.network, num_classes=1)
    alone = replace(classifier, config=replace(classifier.config, network=network, class_names=("dark",)))
    counts = {"max_images": 4, "num_levels": 1, "batch_size": 4}
    with pytest.raises(ValueError, match='knows one class only, "dark": it is always right and its gradient is 0'):
        diagnostics.diagnosed(alone, tiny.data(class_folder), **counts, seed=0)
