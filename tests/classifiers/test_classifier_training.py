"""Training classifiers: what the objective is, that it learns, and that it cannot disagree with its diffusion model."""

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from classifiers.calibration import log_likelihood
from classifiers.classifier_objective import ClassifierObjective
from classifiers.off_the_shelf import clean_classifier
from classifiers.trained_model import load_classifier
from classifiers.validation import open_heldout, predictions, read_images
from guided_diffusion.checkpoint import open_checkpoint
from guided_diffusion.commands.train_classifier import train_classifier
from guided_diffusion.commands.train_diffusion import train_diffusion
from guided_diffusion.data.batches import Batch
from guided_diffusion.data.subset import evenly_spaced
from guided_diffusion.diffusion.chain import q_sample
from guided_diffusion.diffusion.noise import SeededNoise
from guided_diffusion.diffusion.schedules import make_chain
from guided_diffusion.pipeline import GuidedDiffusion

COUNT = 6
CHAIN = make_chain(tiny.CHAIN)


def batch() -> Batch:
    x0 = torch.randn(COUNT, 1, 8, 8, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    return Batch(x0, torch.arange(COUNT) % 2, torch.arange(COUNT))


def noise() -> SeededNoise:
    return SeededNoise(0, range(COUNT))


class Constant(nn.Module):
    """The same logits for every picture."""

    def __init__(self, *logits: float, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.logits = torch.tensor(logits, dtype=dtype)

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        self.seen = (x_t, t)
        return self.logits.expand(len(x_t), -1)


def test_knowing_nothing_costs_the_logarithm_of_the_number_of_classes():
    losses = ClassifierObjective(CHAIN)(Constant(0.0, 0.0), batch(), noise())
    assert float(losses.total) == pytest.approx(math.log(2))


def test_the_loss_is_cross_entropy_and_half_of_two_classes_is_right_by_constancy():
    losses = ClassifierObjective(CHAIN)(Constant(1.0, 0.0), batch(), noise())
    assert float(losses.total) == pytest.approx(float(F.softplus(torch.tensor([-1.0, 1.0])).mean()))
    assert float(losses.logged["accuracy"]) == 0.5


def test_a_prediction_pays_for_being_sure_by_its_divergence_from_the_uniform_one():
    losses = ClassifierObjective(CHAIN, entropy_weight=0.3)(Constant(1.0, 0.0), batch(), noise())
    p = torch.tensor([1.0, 0.0]).softmax(dim=0)
    certainty = math.log(2) + float((p * p.log()).sum())
    cross_entropy = -float(p.log().mean())  # both classes are equally frequent
    assert float(losses.logged["kl_to_uniform"]) == pytest.approx(certainty)
    assert float(losses.logged["cross_entropy"]) == pytest.approx(cross_entropy)
    assert float(losses.total) == pytest.approx(cross_entropy + 0.3 * certainty)


@pytest.mark.parametrize("weight", [0.0, 0.1, 2.0])
def test_the_entropy_constraint_has_its_gradient_in_closed_form(weight):
    """Of the logits: softmax - onehot for cross-entropy, and p (log p + H) for log C - H."""
    network = Constant(1.5, -0.5, 0.25)
    network.logits.requires_grad_()
    losses = ClassifierObjective(CHAIN, entropy_weight=weight)(network, batch(), noise())
    losses.total.backward()
    p = network.logits.detach().softmax(dim=0)
    entropy = -(p * p.log()).sum()
    frequency = torch.tensor([0.5, 0.5, 0.0])
    expected = p - frequency + weight * p * (p.log() + entropy)
    assert torch.allclose(network.logits.grad, expected, rtol=0, atol=1e-6)


def test_the_loss_is_float32_where_the_network_is_bfloat16():
    losses = ClassifierObjective(CHAIN)(Constant(1.0, 0.0, dtype=torch.bfloat16), batch(), noise())
    assert {losses.total.dtype, *(value.dtype for value in losses.logged.values())} == {torch.float32}


def test_pictures_are_noised_to_the_timesteps_that_the_network_is_told():
    network = Constant(0.0, 0.0)
    ClassifierObjective(CHAIN)(network, batch(), noise())
    x_t, t = network.seen
    drawn = noise()
    u, eps = drawn.uniform(), drawn(x_t)
    assert torch.equal(t, (u * 50).floor().float())
    assert torch.allclose(x_t, q_sample(batch().x0, eps, CHAIN.at(t.long(), like=x_t)), rtol=0, atol=1e-6)
    assert len(t.unique()) > 1


def test_without_a_chain_pictures_are_as_they_are_at_timestep_zero():
    network = Constant(0.0, 0.0)
    ClassifierObjective(None)(network, batch(), noise())
    x_t, t = network.seen
    assert torch.equal(x_t, batch().x0)
    assert torch.equal(t, torch.zeros(COUNT))


def test_an_easy_problem_is_learned(classifier_run, judge_run):
    for run, best_loss in ((classifier_run, 0.6 * math.log(2)), (judge_run, 0.2 * math.log(2))):
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        losses = [line["loss"] for line in lines if "loss" in line]
        assert losses[-1] < best_loss, f"{run.name} did not learn to tell dark from light"


def test_heldout_accuracy_and_log_likelihood_are_logged(judge_run, class_folder):
    lines = [json.loads(line) for line in (judge_run / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["heldout_accuracy_t0"] == 1.0
    classifier = load_classifier(judge_run)
    heldout = open_heldout(tiny.data(class_folder), classifier.config)
    images, labels = read_images(heldout, range(20))
    log_p = classifier.network.log_prob(images, torch.zeros(20))
    expected = float(log_p.gather(1, labels[:, None]).mean())
    assert lines[-1]["heldout_log_likelihood"] == pytest.approx(expected, rel=1e-5)


def test_the_heldout_log_likelihood_is_the_mean_over_noise_levels(tmp_path, class_folder, diffusion_run):
    config = tiny.classifier_config(
        tmp_path / "run", class_folder, diffusion=diffusion_run, heldout=class_folder, iterations=1
    )
    train_classifier(replace(config, heldout_images=6))
    (*_, line) = (json.loads(line) for line in (config.out / "metrics.jsonl").read_text().splitlines())
    assert [name for name in line if name.startswith("heldout_accuracy")] == [
        f"heldout_accuracy_t{t}" for t in (0, 12, 24, 37, 49)
    ]
    network = load_classifier(config.out).network
    images, labels = read_images(
        open_heldout(tiny.data(class_folder), load_classifier(config.out).config), evenly_spaced(20, most=6)
    )
    likelihoods = [
        log_likelihood(predictions(network.log_prob, CHAIN, images, k=k, seed=0, device=torch.device("cpu")), labels)
        for k in (0, 12, 24, 37, 49)
    ]
    assert line["heldout_log_likelihood"] == pytest.approx(sum(likelihoods) / 5, rel=1e-5)


def test_stopping_when_heldout_pictures_grow_less_likely_needs_some(tmp_path, class_folder):
    with pytest.raises(ValueError, match=r"grow less likely, and there are none: give --heldout PATH"):
        tiny.classifier_config(tmp_path / "run", class_folder, iterations=1, stop_after_worse=3)
    config = tiny.classifier_config(
        tmp_path / "run", class_folder, heldout=class_folder, iterations=2, stop_after_worse=3
    )
    train_classifier(config)
    assert load_classifier(config.out).network


@pytest.mark.parametrize("weight", [-0.1, math.inf, math.nan])
def test_an_entropy_weight_that_is_none_is_refused(tmp_path, class_folder, weight):
    config = tiny.classifier_config(tmp_path / "run", class_folder, iterations=1)
    with pytest.raises(ValueError, match=r"entropy_weight weighs a penalty: 0 or more, as published 0.1; got"):
        replace(config, entropy_weight=weight)


def test_the_entropy_weight_reaches_the_loss(tmp_path, class_folder):
    config = tiny.classifier_config(tmp_path / "run", class_folder, iterations=1, log_every_iterations=1)
    train_classifier(replace(config, entropy_weight=0.5))
    line = json.loads((config.out / "metrics.jsonl").read_text().splitlines()[0])
    assert line["loss"] == pytest.approx(line["cross_entropy"] + 0.5 * line["kl_to_uniform"], rel=1e-6)
    assert line["kl_to_uniform"] > 0


def test_noise_levels_classes_and_channels_come_from_the_diffusion_model_and_the_data(classifier_run, judge_run):
    guide, judge = load_classifier(classifier_run).config, load_classifier(judge_run).config
    assert guide.chain == tiny.CHAIN
    assert judge.chain is None
    for config in (guide, judge):
        assert config.class_names == ("dark", "light")
        assert (config.network.num_classes, config.network.in_channels) == (2, 1)


def test_a_loaded_classifier_is_frozen_and_ready(classifier_run):
    classifier = load_classifier(classifier_run)
    assert not classifier.network.training
    assert not any(parameter.requires_grad for parameter in classifier.network.parameters())
    assert classifier.weights == "network"
    assert classifier.image_shape == (1, 8, 8)


def test_a_loaded_classifier_gives_the_networks_log_probabilities_and_where_they_came_from(classifier_run):
    classifier = load_classifier(classifier_run)
    x_t, t = batch().x0, torch.full((COUNT,), 3.0)
    assert torch.equal(classifier.log_prob(x_t, t), classifier.network.log_prob(x_t, t))
    assert (classifier.config.chain, classifier.class_names) == (tiny.CHAIN, ("dark", "light"))
    assert classifier.name == "classifier/checkpoint-0000040"


def test_a_diffusion_model_of_other_pictures_is_refused(tmp_path, class_folder, diffusion_run):
    larger = tiny.classifier_config(
        tmp_path / "run", class_folder, network=tiny.encoder(image_size=16), diffusion=diffusion_run, iterations=1
    )
    with pytest.raises(
        ValueError, match="trained on L images of 8 pixels, but this .* L images of 16 pixels .*--network.image_size 8"
    ):
        train_classifier(larger)
    colour = tiny.write_class_folder(tmp_path / "colour", mode="RGB", per_class=2)
    with pytest.raises(
        ValueError, match="trained on L images of 8 pixels, but this classifier would see RGB images .*--data.mode L"
    ):
        train_classifier(tiny.classifier_config(tmp_path / "run", colour, diffusion=diffusion_run, iterations=1))
    assert not (tmp_path / "run").exists()


def test_a_conditional_diffusion_model_of_other_classes_is_refused_before_training(tmp_path, conditional_run):
    others = tiny.write_class_folder(tmp_path / "others", classes=("dark", "purple"), per_class=2)
    with pytest.raises(ValueError, match='label 1 is "purple" to the classifier, but "light" to the diffusion model'):
        train_classifier(tiny.classifier_config(tmp_path / "run", others, diffusion=conditional_run, iterations=1))
    assert not (tmp_path / "run").exists()


def test_a_run_whose_names_have_decomposed_accents_and_blanks_goes_on_and_fits_new_classifiers(tmp_path):
    names = ["e\u0301cole", "fin "]  # in this order where they are sorted decomposed
    folder = tiny.write_class_folder(tmp_path / "data", classes=names, per_class=2)
    run = tmp_path / "diffusion"
    config = tiny.diffusion_config(run, folder, iterations=1, class_conditional=True)
    train_diffusion(config)
    file = open_checkpoint(run, "diffusion").path / "config.json"
    record = json.loads(file.read_text())
    assert record["model"]["class_names"] == ["fin", "\xe9cole"]
    record["model"]["class_names"] = names
    file.write_text(json.dumps(record))
    train_diffusion(replace(config, resume="auto", training=tiny.loop(iterations=2)))
    assert open_checkpoint(run, "diffusion").iteration == 2
    train_classifier(tiny.classifier_config(tmp_path / "classifier", folder, diffusion=run, iterations=1))
    model = GuidedDiffusion.load(run, classifier=tmp_path / "classifier", device="cpu")
    assert list(model.class_names) == names
    assert model.sample(["fin", "\xe9cole"], scale=1.0, steps=2).shape[0] == 2
    own = clean_classifier(nn.Identity(), class_names=("fin", "\xe9cole"))
    assert own.labels_of(model.class_names) == (1, 0)


def test_a_classifier_of_another_value_window_than_its_diffusion_model_is_doubted(tmp_path, caplog):
    for name, level in (("dark", 0), ("light", 4000)):
        (tmp_path / "data" / name).mkdir(parents=True)
        Image.fromarray(np.full((8, 8), level, np.uint16)).save(tmp_path / "data" / name / "0.png")
    run = tiny.diffusion_config(tmp_path / "diffusion", tmp_path / "data", iterations=1)
    classifier = tiny.classifier_config(tmp_path / "classifier", tmp_path / "data", diffusion=run.out, iterations=1)
    windows = [replace(run.data, mode="L", window=(0, white)) for white in (4095, 65535)]
    train_diffusion(replace(run, data=windows[0]))
    for window in windows:
        train_classifier(replace(classifier, out=tmp_path / str(window.window), data=window))
        said = "was trained with --data.window [0, 4095], this classifier with [0, 65535]"
        assert (said in caplog.text) == (window is windows[1])


def test_a_classifier_is_no_diffusion_model(tmp_path, class_folder, judge_run):
    with pytest.raises(ValueError, match='kind "classifier", but kind "diffusion" is needed here'):
        train_classifier(tiny.classifier_config(tmp_path, class_folder, diffusion=judge_run, iterations=1))


def test_heldout_pictures_of_an_unknown_class_are_refused_before_training(tmp_path, class_folder):
    heldout = tiny.write_class_folder(tmp_path / "heldout", classes=("dark", "purple"), per_class=1)
    config = tiny.classifier_config(tmp_path / "run", class_folder, heldout=heldout, iterations=1)
    with pytest.raises(ValueError, match=r"'purple' for one, that are not among the 2 asked for \(dark, light\)"):
        train_classifier(config)
    assert not (tmp_path / "run").exists()


def test_a_single_class_is_refused(tmp_path):
    folder = tiny.write_class_folder(tmp_path / "data", classes=("dark",))
    with pytest.raises(
        ValueError, match="all images of .*data are of one class, 'dark', and a classifier of one class"
    ):
        train_classifier(tiny.classifier_config(tmp_path / "run", folder, iterations=1))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("held_out", ["the same files", "a copy", "a link", "others"])
def test_held_out_images_that_training_sees_are_doubted(tmp_path, class_folder, caplog, held_out):
    heldout = tmp_path / "heldout"
    if held_out == "the same files":
        heldout = class_folder
    elif held_out == "a copy":
        shutil.copytree(class_folder, heldout)
    elif held_out == "a link":
        heldout.symlink_to(class_folder)
    else:
        tiny.write_class_folder(heldout, per_class=3)
    train_classifier(tiny.classifier_config(tmp_path / "run", class_folder, iterations=1, heldout=heldout))
    assert ("are among the training images of" in caplog.text) == (held_out != "others")
