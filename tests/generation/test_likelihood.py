"""The likelihood command: the published terms, an unbiased subset of them, and what is refused."""

import json
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
import tiny
import torch
from oracles import golden
from oracles.mixture import GaussianMixture, draws
from oracles.published import stored_network
from torch import Tensor

from guided_diffusion.commands.likelihood import LikelihoodConfig, format_likelihood, likelihood
from guided_diffusion.commands.train_diffusion import TrainDiffusionConfig, train_diffusion
from guided_diffusion.config import from_plain, to_plain
from guided_diffusion.diffusion.chain import eps_from_x0
from guided_diffusion.diffusion.denoiser import TARGET, NetworkDenoiser, Prediction
from guided_diffusion.diffusion.model import load_diffusion
from guided_diffusion.diffusion.noise import SeededNoise
from guided_diffusion.diffusion.schedules import ChainConfig, make_chain, timestep_subset
from guided_diffusion.generation.input_images import open_inputs
from guided_diffusion.generation.likelihood import Likelihood, bound_terms, measured_likelihood, stretches


class StoredNoise:
    """The draws that a stored run made, one a term."""

    def __init__(self, noise: Sequence[Tensor]) -> None:
        self._noise = iter(noise)

    def __call__(self, like: Tensor) -> Tensor:
        return next(self._noise)

    def uniform(self) -> Tensor:
        return torch.full((2,), 0.5, dtype=torch.float64)


def test_terms_with_one_link_each_are_the_published_ones():
    stored, described = golden.arrays("bpd"), golden.sidecar("bpd")
    whole = make_chain(ChainConfig(schedule="linear", num_steps=described["diffusion"]["T"]))
    chain = whole.shortened(timestep_subset(len(whole), described["diffusion"]["respacing"]))
    denoiser = NetworkDenoiser(partial(stored_network(described), y=stored["y"]), "eps", "learned_range", clip=1.0)
    # Stored from the noisiest link down; here they are measured upwards.
    noise = StoredNoise(list(reversed(list(stored["noise"]))))
    terms = list(bound_terms(denoiser, chain, stored["x_start"], noise, stretches(len(chain), None)))
    golden.assert_near(torch.stack(terms[::-1], dim=1), stored["clip1/vb"], 1e-5)


@pytest.mark.parametrize("num_steps", [2, 5, 50, 1000, 4000])
def test_stretches_hold_every_index_once_and_the_first_by_itself(num_steps):
    for terms in sorted({2, min(3, num_steps), min(50, num_steps), num_steps - 1, num_steps} - {1}):
        cut = stretches(num_steps, terms)
        assert [k for links in cut for k in links] == list(range(num_steps))
        assert len(cut) == terms
        assert len(cut[0]) == 1
        assert all(len(links) for links in cut)


def test_a_drawn_subset_of_the_terms_estimates_their_sum_without_bias():
    chain = make_chain(ChainConfig(schedule="cosine", num_steps=40))
    blob = GaussianMixture(draws(1, 4), torch.eye(4, dtype=torch.float64)[None] / 4, torch.ones(1).double(), chain)
    image = torch.tensor([60, 100, 140, 180], dtype=torch.float64).reshape(1, 1, 2, 2) / 127.5 - 1
    x0 = image.repeat(4000, 1, 1, 1)

    def total(terms: int | None, seed: int) -> Tensor:
        noise = SeededNoise(seed, range(len(x0)))
        return torch.stack(list(bound_terms(blob.denoiser, chain, x0, noise, stretches(40, terms)))).sum(dim=0)

    whole, drawn = total(None, 0), total(6, 1)
    error = (whole.var() / len(x0) + drawn.var() / len(x0)).sqrt()
    assert float(error) < 0.02 * float(whole.mean())
    assert abs(float(whole.mean() - drawn.mean())) < 4 * float(error)


@pytest.mark.parametrize("variance", ["small", "large"])
def test_the_bound_is_the_same_whatever_a_network_predicts(variance):
    chain = make_chain(ChainConfig(schedule="cosine", num_steps=20))
    blob = GaussianMixture(draws(1, 4), torch.eye(4, dtype=torch.float64)[None] / 4, torch.ones(1).double(), chain)
    x0 = torch.arange(0, 192, 8, dtype=torch.float64).reshape(6, 1, 2, 2) / 127.5 - 1

    def total(prediction: Prediction) -> Tensor:
        def network(x_t: Tensor, t: Tensor) -> Tensor:
            step = chain.at(t.long(), like=x_t)
            exact = blob.denoiser(x_t, step).x0
            return TARGET[prediction](exact, eps_from_x0(x_t, exact, step), x_t, step)

        denoiser = NetworkDenoiser(network, prediction, variance, clip=None)
        noise = SeededNoise(0, range(len(x0)))
        return torch.stack(list(bound_terms(denoiser, chain, x0, noise, stretches(20, None)))).sum(dim=0)

    expected = total("x0")
    for prediction in ("eps", "v", "mean"):
        torch.testing.assert_close(total(prediction), expected, rtol=1e-8, atol=0)


@pytest.fixture(scope="module")
def config(diffusion_run, class_folder) -> LikelihoodConfig:
    return LikelihoodConfig(diffusion=diffusion_run, data=tiny.data(class_folder), batch_size=8)


def changed(config: LikelihoodConfig, **values) -> LikelihoodConfig:
    return LikelihoodConfig(**(vars(config) | values))


def measured(config: LikelihoodConfig, **options) -> Likelihood:
    model = load_diffusion(config.diffusion)
    inputs = open_inputs(config.data, model, most=config.max_images, class_names=None)
    return measured_likelihood(model, inputs, **options)


def test_training_images_are_doubted_and_copies_of_them_elsewhere_are_not(config, tmp_path, caplog):
    likelihood(changed(config, max_images=1, terms=2, out=tmp_path / "bound.json"))
    assert "was trained on" in caplog.text
    assert "which flatters it; give held-out images" in caplog.text
    caplog.clear()
    elsewhere = shutil.copytree(config.data.path, tmp_path / "elsewhere")
    likelihood(changed(config, max_images=1, terms=2, data=tiny.data(elsewhere), out=tmp_path / "other.json"))
    assert "was trained on" not in caplog.text


def test_the_parts_add_up_and_the_record_holds_them(config, tmp_path, capsys):
    likelihood(changed(config, out=tmp_path / "bound.json"))
    printed = capsys.readouterr().out
    record = json.loads((tmp_path / "bound.json").read_text())
    parts = sum(record[name]["mean"] for name in ("prior", "reconstruction", "transitions"))
    assert record["total"]["mean"] == pytest.approx(parts, rel=1e-12)
    terms = [part["share"]["mean"] for part in record["stretches"]]
    assert len(terms) == record["num_steps"] == 50
    assert sum(terms) + record["prior"]["mean"] == pytest.approx(record["total"]["mean"], rel=1e-12)
    assert terms[0] == record["reconstruction"]["mean"]
    assert "on 20 images" in printed
    assert "all 50 terms" in printed
    assert (tmp_path / "bound.png").stat().st_size > 0


def test_an_images_bound_does_not_depend_on_the_batch(config):
    whole, halves = (measured(config, batch_size=size, terms=7) for size in (20, 3))
    assert whole.total.mean == pytest.approx(halves.total.mean, rel=1e-5)
    assert whole.num_images == halves.num_images == 20
    assert "7 of 50 terms of each, drawn; the standard errors include that" in format_likelihood(
        whole, diffusion="run", data="pictures"
    )


def test_a_single_image_has_no_standard_error(config):
    found = measured(changed(config, max_images=1), terms=2)
    assert found.total.std_error is None
    assert "unknown" in format_likelihood(found, diffusion="run", data="pictures")


def test_more_terms_than_links_are_refused(config):
    with pytest.raises(ValueError, match="asked for 51 terms, but the chain has only 50 links; ask for fewer"):
        measured(config, terms=51)


def test_a_model_in_continuous_time_is_refused_with_the_reason(tmp_path, class_folder):
    plain = to_plain(tiny.diffusion_config(tmp_path / "run", class_folder, iterations=1))
    plain |= {"chain": {"schedule": "offset_cosine"}, "variance": "small", "prediction": "v", "loss": "simple"}
    train_diffusion(from_plain(TrainDiffusionConfig, plain, source="test"))
    config = LikelihoodConfig(diffusion=tmp_path / "run", data=tiny.data(class_folder))
    with pytest.raises(ValueError, match="continuous time.* has no numbered links, of which the bound is the sum"):
        likelihood(config)
    assert not list(tmp_path.glob("run/likelihood*"))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"terms": 1}, "terms are L_0 and at least one of the others, so 2 or more; got 1"),
        ({"max_images": 0}, "max_images must be at least 1, got 0"),
        ({"clip": 0.0}, "clip is a bound above 0, or null; got 0.0"),
        ({"out": Path("bound.txt")}, "out is a JSON file.*got bound.txt"),
    ],
)
def test_settings_that_make_no_sense_are_refused(config, wrong, message):
    with pytest.raises(ValueError, match=message):
        changed(config, **wrong)


def test_images_in_colour_are_refused_by_a_model_of_grey_ones(config, tmp_path):
    folder = tiny.write_class_folder(tmp_path / "colour", per_class=2, mode="RGB")
    with pytest.raises(ValueError, match="images of 3 channels, but .* makes images of 1; --data.mode L converts"):
        likelihood(changed(config, data=tiny.data(folder)))
