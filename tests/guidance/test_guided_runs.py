"""Guidance of sampling runs: each kind reaches the sampler as configured, and what does not fit is refused.

Over 300 lines because every kind of guidance is tested here, on the same tiny runs.
"""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from classifiers.trained_model import load_classifier
from guided_diffusion.data.formats.samples import iterate_shards
from guided_diffusion.diffusion.denoiser import Threshold, clipped
from guided_diffusion.diffusion.model import DiffusionModel, load_diffusion
from guided_diffusion.diffusion.schedules import make_chain
from guided_diffusion.guidance import (
    classifier_score,
    clean_log_density,
    entropy_scaled_score,
    extrapolated,
    guided_at_estimate,
    joint_log_prob,
    summed,
)
from guided_diffusion.guidance.config import (
    AutoguidanceConfig,
    ClassifierFreeConfig,
    CleanClassifierConfig,
    GuidanceConfig,
)
from guided_diffusion.guidance.run import Guidance, load_guidance
from guided_diffusion.samplers import SamplerConfig

CHAIN = make_chain(tiny.CHAIN)
Y = torch.tensor([0, 1, 1])


@pytest.fixture(scope="module")
def free(free_run) -> DiffusionModel:
    return load_diffusion(free_run)


@pytest.fixture(scope="module")
def model(diffusion_run) -> DiffusionModel:
    return load_diffusion(diffusion_run)


@pytest.fixture(scope="module")
def classifier(classifier_run):
    return load_classifier(classifier_run)


def images(model: DiffusionModel, *, seed: int = 0) -> torch.Tensor:
    return torch.randn(len(Y), *model.image_shape, generator=torch.Generator().manual_seed(seed))


def free_of_class(weight: float) -> dict:
    return {"classifier_free": ClassifierFreeConfig(weight=weight)}


def by_weaker(model: str | Path, weight: float) -> dict:
    return {"autoguidance": AutoguidanceConfig(model=str(model), weight=weight)}


def by_judge(run: Path, **settings) -> dict:
    return {"clean_classifier": CleanClassifierConfig(name=f"classifier:{run}", **settings)}


def guidance(model, classifier=None, *, sampler=None, **config) -> Guidance:
    return load_guidance(GuidanceConfig(**config), model=model, classifier=classifier, sampler=sampler)


def estimates(guidance: Guidance, x_t, *, k: int = 20, clip=None):
    return guidance.denoiser(Y, clip=clip)(x_t, CHAIN.at(k, like=x_t)).x0


def made(directory: Path) -> np.ndarray:
    return np.concatenate([shard.images for shard in iterate_shards(directory)])


def test_classifier_free_guidance_extrapolates_from_the_null_class_of_the_same_network(free):
    x_t = images(free)
    step = CHAIN.at(20, like=x_t)
    conditional, null = free.denoiser(Y, clip=None), free.denoiser(torch.full_like(Y, 2), clip=None)
    assert free.config.null_label == 2
    expected = null(x_t, step).x0 + 3 * (conditional(x_t, step).x0 - null(x_t, step).x0)
    assert torch.equal(estimates(guidance(free, **free_of_class(3.0)), x_t), expected)
    assert not torch.allclose(expected, conditional(x_t, step).x0, atol=1e-3)


def test_autoguidance_extrapolates_from_the_weaker_weights(free, free_run):
    x_t = images(free)
    step = CHAIN.at(20, like=x_t)
    weaker = load_diffusion(free_run, weights="network")
    expected = extrapolated(free.denoiser(Y, clip=None), weaker.denoiser(Y, clip=None), 2.0)(x_t, step).x0
    assert torch.equal(estimates(guidance(free, **by_weaker(f"{free_run}:network", 2.0)), x_t), expected)


def test_the_classifier_and_the_null_class_guide_together(free, classifier_run, tmp_path):
    """The classifier is of the noise of `diffusion_run`, whose chain is the same."""
    classifier = load_classifier(classifier_run)
    config = tiny.sample_config(
        tmp_path / "both", num_samples=4, steps=5,
        guidance=GuidanceConfig(scale=3.0, **free_of_class(2.0)),
    )  # fmt: skip
    tiny.generate(config, free, classifier)
    alone = {"free": GuidanceConfig(**free_of_class(2.0)), "guide": GuidanceConfig(scale=3.0)}
    for name, changed in alone.items():
        changed = replace(config, out=tmp_path / name, guidance=changed)
        tiny.generate(changed, free, classifier if name == "guide" else None)
        assert not np.array_equal(made(tmp_path / name), made(tmp_path / "both"))


@pytest.mark.parametrize("kind", ["classifier_free", "clean_classifier"])
def test_outside_the_interval_only_the_plain_denoiser_is_called(free, judge_run, kind):
    called = []

    def network(x_t, t, y):
        called.append(y.tolist())
        return free.network(x_t, t, y)

    wanted = by_judge(judge_run) if kind == "clean_classifier" else free_of_class(3.0)
    guided = replace(guidance(free, **wanted, sigma_min=0.5, sigma_max=2.0), model=replace(free, network=network))
    asked, clean = [], guided.clean
    if clean is not None:
        watched = replace(clean, network=lambda x: asked.append(1) or clean.network(x))
        guided = replace(guided, clean=watched)
    x_t = images(free)
    for k in range(len(CHAIN)):
        called.clear()
        asked.clear()
        x0 = estimates(guided, x_t, k=k)
        inside = 0.5 < (1 / float(CHAIN.alpha_bar[k]) - 1) ** 0.5 <= 2.0
        assert len(called) == 1 + (inside and clean is None)
        assert len(asked) == (inside and clean is not None)
        if not inside:
            assert torch.equal(x0, free.denoiser(Y, clip=None)(x_t, CHAIN.at(k, like=x_t)).x0)


def test_class_scales_by_name_and_label_leave_other_classes_theirs(model, classifier):
    x_t = images(model)
    step = CHAIN.at(20, like=x_t)
    for key in ("light", 1):
        term = guidance(model, classifier, scale=0.5, class_scales={key: 4.0}).term(Y)
        by_hand = classifier_score(classifier.log_prob, Y, torch.tensor([0.5, 4.0, 4.0]))
        assert torch.equal(term(x_t, step), by_hand(x_t, step))


def test_the_entropy_scales_every_classifier_of_noisy_images(model, classifier, classifier_run):
    x_t = images(model)
    step = CHAIN.at(20, like=x_t)
    term = guidance(model, classifier, scale=2.0, score="entropy_scaled", further={str(classifier_run): 3.0}).term(Y)
    by_hand = summed(*(entropy_scaled_score(classifier.log_prob, Y, scale) for scale in (2.0, 3.0)))
    assert torch.equal(term(x_t, step), by_hand(x_t, step))


def test_a_further_classifier_adds_its_score(model, classifier, classifier_run):
    x_t = images(model)
    step = CHAIN.at(20, like=x_t)
    both = guidance(model, classifier, scale=2.0, further={str(classifier_run): 3.0}).term(Y)
    assert torch.allclose(
        both(x_t, step), classifier_score(classifier.log_prob, Y, 5.0)(x_t, step), rtol=1e-5, atol=1e-7
    )


@pytest.mark.parametrize(("k", "scale"), [(2, 3.0), (45, 1.0)])
def test_outside_the_interval_classifiers_have_the_scale_for_there(model, classifier, classifier_run, k, scale):
    x_t, step = images(model), CHAIN.at(k, like=images(model))
    limits = {"sigma_max": 1.0, "scale_outside": 1.0, "cap": 1e6}
    guided = guidance(model, classifier, scale=3.0, further={str(classifier_run): 3.0}, **limits)
    by_hand = summed(*(classifier_score(classifier.log_prob, Y, scale) for _ in range(2)))
    assert torch.equal(guided.term(Y)(x_t, step), by_hand(x_t, step))
    assert guided.strengths["guidance.scale_outside"] == guided.record()["scale_outside"] == 1.0
    assert guided.record()["cap"] == 1e6


@pytest.mark.parametrize("gradient", ["x_0", "x_t"])
@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_a_judge_of_clean_images_guides_to_the_class_it_is_asked_for(tmp_path, model, judge_run, gradient, sampler):
    """From an unconditional model of dark and light pictures, told by mean brightness."""
    means = {}
    for scale in (0.0, 4.0):
        guiding = GuidanceConfig(**by_judge(judge_run, scale=scale, gradient=gradient))
        config = tiny.sample_config(
            tmp_path / str(scale), num_samples=16, steps=10, sampler=sampler,
            guidance=guiding,
        )  # fmt: skip
        tiny.generate(config, model)
        brightness = made(config.out).mean(axis=(1, 2, 3))
        means[scale] = brightness[1::2].mean() - brightness[::2].mean()
    assert means[4.0] > means[0.0] + 3


def extrapolating(free, free_run, kind: str) -> Guidance:
    wanted = free_of_class(4.0) if kind == "classifier_free" else by_weaker(f"{free_run}:network", 40.0)
    return guidance(free, **wanted)


@pytest.mark.parametrize("kind", ["classifier_free", "autoguidance"])
@pytest.mark.parametrize("clip", [1.0, 0.5, Threshold(0.9)])
def test_a_strongly_extrapolated_estimate_stays_within_the_clip(free, free_run, kind, clip):
    """Extrapolated first and clipped afterwards; clipped on either side of it, it would leave the range."""
    guided, x_t = extrapolating(free, free_run, kind), 3 * images(free)
    unclipped = estimates(guided, x_t, k=40)
    assert float(unclipped.abs().max()) > 2
    assert torch.equal(estimates(guided, x_t, k=40, clip=clip), clipped(unclipped, clip))


def test_a_classifiers_tilt_comes_after_the_clip_as_published(model, judge_run):
    """EluCD's gradient is taken at the clipped estimate, and moves it out of the range again."""
    guided, x_t = guidance(model, **by_judge(judge_run, scale=20.0)), images(model)
    assert float(estimates(guided, x_t, k=40, clip=1.0).abs().max()) > 1


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_a_run_guided_at_the_estimate_is_the_nesting_with_tempered_logits(model, judge_run, sampler):
    guided = guidance(model, sampler=SamplerConfig(name=sampler, steps=""), **by_judge(judge_run, scale=2.0))

    def log_prob(x_0):
        return joint_log_prob(guided.clean.network(x_0))

    by_hand = guided_at_estimate(model.denoiser(Y, clip=1.0), clean_log_density(log_prob, Y), 2.0)
    x_t = images(model)
    for k in (1, 20, 40):
        step = CHAIN.at(k, like=x_t)
        assert torch.equal(estimates(guided, x_t, k=k, clip=1.0), by_hand(x_t, step).x0)


def through_the_network(model, judge_run, scale: float) -> Guidance:
    return guidance(model, **by_judge(judge_run, scale=scale, gradient="x_t"))


def test_rounding_at_the_edge_of_the_clip_does_not_decide_over_the_gradient_through_the_network(model, judge_run):
    """A clamp inside the differentiated denoiser would pass the gradient of one of the two and not of the other."""
    step = CHAIN.at(20, like=images(model))
    x_t = images(model).sign() * step.alpha_bar**0.5  # of which x_0 is -1 or 1, where the network finds no noise
    found = []
    for rounding in (-1e-6, 1e-6):
        rounded = replace(model, network=lambda x, t, rounding=rounding: rounding * x.repeat(1, 2, 1, 1))
        guided = replace(through_the_network(model, judge_run, 50.0), model=rounded)
        found.append(estimates(guided, x_t, clip=1.0))
    assert bool((found[0].abs() < 0.9).any())
    assert torch.allclose(found[0], found[1], rtol=0, atol=1e-4)


def test_another_batch_size_moves_samples_guided_through_the_network_by_a_grey_level_at_most(
    tmp_path, model, judge_run
):
    guiding = through_the_network(model, judge_run, 4.0)
    config = tiny.sample_config(
        tmp_path / "many", num_samples=6, steps=10, sampler="ddpm",
        guidance=guiding.config,
    )  # fmt: skip
    tiny.generate(config, model)
    tiny.generate(replace(config, out=tmp_path / "one", batch_size=1), model)
    difference = made(tmp_path / "many").astype(int) - made(tmp_path / "one")
    assert abs(difference).max() <= 1


def test_sample_i_guided_by_a_clean_classifier_does_not_depend_on_its_batch(model, judge_run):
    guided, x_t = guidance(model, **by_judge(judge_run, scale=3.0)), images(model)
    together = estimates(guided, x_t)
    alone = guided.denoiser(Y[1:2], clip=None)(x_t[1:2], CHAIN.at(20, like=x_t[1:2])).x0
    assert torch.allclose(together[1:2], alone, rtol=1e-4, atol=1e-5)


def test_the_manifest_says_who_guided_and_how(tmp_path, free, free_run, classifier_run, judge_run):
    config = tiny.sample_config(
        tmp_path, num_samples=2, steps=5, sampler="ddpm", gradient_at="mean",
        guidance=GuidanceConfig(
            scale=2.0, class_scales={"light": 3.0, 0: 1.5}, score="entropy_scaled", sigma_max=9.0,
            further={str(classifier_run): 0.5}, **by_weaker(f"{free_run}:network", 1.5),
            **by_judge(judge_run, gradient="x_t"),
        ),
    )  # fmt: skip
    classifier = load_classifier(classifier_run)
    tiny.generate(config, free, classifier)
    record = json.loads((tmp_path / "manifest.json").read_text())["guidance"]
    judge = record.pop("off_the_shelf")
    assert (judge["scale"], judge["gradient"], len(judge["sha256"])) == (1.0, "x_t", 64)
    assert record.pop("further") == [{"name": classifier.name, "sha256": classifier.sha256, "scale": 0.5}]
    weak = record.pop("weak")
    assert (weak["weights"], weak["weight"]) == ("network", 1.5)
    assert record == {
        "scale": 2.0, "class_scales": {"0": 1.5, "1": 3.0}, "entropy_scaled": True, "gradient_at": "mean",
        "sigma_max": 9.0,
    }  # fmt: skip


def test_class_scales_and_a_judge_from_the_command_line(tmp_path, free_run, classifier_run, judge_run):
    process = tiny.start(
        "sample.py", f"--diffusion={free_run}", f"--classifier={classifier_run}", f"--out={tmp_path / 'out'}",
        "--num_samples=2", "--sampler.steps=5", "--guidance.class_scales={dark: 2, 1: 0.5}",
        "--guidance.classifier_free.weight=1.5", f"--guidance.clean_classifier.name=classifier:{judge_run}",
        f"--guidance.further={{{classifier_run}: 2}}",
    )  # fmt: skip
    status, output = tiny.finish(process)
    assert status == 0, output
    record = json.loads((tmp_path / "out" / "manifest.json").read_text())["guidance"]
    assert record["class_scales"] == {"0": 2.0, "1": 0.5}
    assert record["free_weight"] == 1.5
    assert record["further"][0]["scale"] == 2.0
    assert record["off_the_shelf"]["name"].startswith("classifier:")


REFUSED_CONFIGS = {
    "go together; got guidance.autoguidance.model run and guidance.autoguidance.weight None": {
        "autoguidance": AutoguidanceConfig(model="run")
    },
    "go together; got guidance.autoguidance.model None and guidance.autoguidance.weight 2.0": {
        "autoguidance": AutoguidanceConfig(weight=2.0)
    },
    "scale_outside 1 acts outside an interval of noise levels, and there is none": {"scale_outside": 1.0},
    "guidance.cap is a distance above 0, or null; got 0": {"cap": 0.0},
    "both extrapolate, each from another model; give one": by_weaker("run", 2.0) | free_of_class(2.0),
    "guidance.scale must be a number between -1e\\+06 and 1e\\+06, got nan": {"scale": math.nan},
    "guidance.scale must be .*, got 1e\\+30": {"scale": 1e30},
    "guidance.class_scales of cat must be .*, got inf": {"class_scales": {"cat": math.inf}},
    "guidance.class_scales of 3 must be .*, got nan": {"class_scales": {3: math.nan}},
    "guidance.further of runs/b must be .*, got -inf": {"further": {"runs/b": -math.inf}},
    "guidance.clean_classifier.scale must be .*, got -1e\\+07": {"clean_classifier": CleanClassifierConfig(scale=-1e7)},
    "where guidance.sigma_min < sigma <= guidance.sigma_max; got 5 and 2": {"sigma_min": 5.0, "sigma_max": 2.0},
    "guidance.sigma_max; got 0 and nan": {"sigma_max": math.nan},
}


@pytest.mark.parametrize("message", REFUSED_CONFIGS)
def test_settings_of_guidance_that_contradict_one_another_are_refused(message):
    with pytest.raises(ValueError, match=message):
        GuidanceConfig(**REFUSED_CONFIGS[message])


REFUSED_WITHOUT_CLASSIFIER = {
    r"guidance was asked for without a classifier \(guidance.scale 4\); add --classifier RUN": {"scale": 4.0},
    r"without a classifier \(guidance.class_scales {'dark': 2.0}\)": {"class_scales": {"dark": 2.0}},
    r"\(guidance.score entropy_scaled\)": {"score": "entropy_scaled"} | free_of_class(2.0),
    r"\(sampler.gradient_at mean\)": {"sampler": SamplerConfig(name="ddpm", gradient_at="mean")},
    r"\(guidance.sigma_min 0.5, guidance.sigma_max inf\)": {"sigma_min": 0.5},
    "guidance.clean_classifier has settings but no classifier": {"clean_classifier": CleanClassifierConfig(scale=2.0)},
    "add --guidance.clean_classifier.name NAME": {"clean_classifier": CleanClassifierConfig(gradient="x_t")},
}


@pytest.mark.parametrize("message", REFUSED_WITHOUT_CLASSIFIER)
def test_what_is_said_of_classifiers_without_one_is_refused(free, message):
    with pytest.raises(ValueError, match=message):
        guidance(free, **REFUSED_WITHOUT_CLASSIFIER[message])


def test_a_classifier_of_one_class_guides_nothing_and_is_refused(model, classifier):
    network = replace(classifier.config.network, num_classes=1)
    alone = replace(classifier, config=replace(classifier.config, network=network, class_names=("dark",)))
    nameless = replace(model, config=replace(model.config, class_names=()))
    with pytest.raises(ValueError, match='knows one class only, "dark": its gradient is 0 and guides nothing'):
        guidance(nameless, alone)


def test_classifier_free_guidance_needs_a_null_class_and_says_why(model, conditional_run):
    with pytest.raises(
        ValueError, match="classifier_free.weight .* is not conditioned on the class at all; train one with"
    ):
        guidance(model, **free_of_class(2.0))
    with pytest.raises(ValueError, match="trained without label_dropout and has no null class; .*label_dropout 0.1"):
        guidance(load_diffusion(conditional_run), **free_of_class(2.0))


def test_a_weaker_model_that_does_not_fit_is_refused_naming_the_difference(free, model, conditional_run):
    config = GuidanceConfig(**by_weaker("run", 2.0))

    def weak(other: DiffusionModel) -> Guidance:
        return Guidance(model=free, weaker=other, config=config)

    other = load_diffusion(conditional_run)
    weak(other)
    weak(model)  # unconditional
    with pytest.raises(ValueError, match="with its weights ema_0.9, the very model that is guided"):
        weak(free)
    longer = replace(tiny.CHAIN, num_steps=60)
    with pytest.raises(ValueError, match="chain.num_steps is 50 to the diffusion model, but 60 to the weaker model"):
        weak(replace(other, config=replace(other.config, chain=longer)))
    with pytest.raises(ValueError, match='label 1 is "bright" to the weaker model, but "light" to the diffusion model'):
        weak(replace(other, config=replace(other.config, class_names=("dark", "bright"))))
    with pytest.raises(ValueError, match="is conditioned on the class, but .* is not: extrapolating would lead away"):
        Guidance(model=model, weaker=other, config=config)


def test_those_who_guide_a_model_without_class_names_must_agree_among_themselves(model, classifier, judge_run):
    nameless = replace(model, config=replace(model.config, class_names=()))
    swapped = replace(classifier, config=replace(classifier.config, class_names=("light", "dark")))
    with pytest.raises(ValueError, match='cannot guide .*: label 0 is "light" to the classifier, but "dark" to'):
        Guidance(model=nameless, classifier=classifier, further=(swapped,), config=GuidanceConfig(further={"b": 1.0}))
    x_t = images(model)
    by_guide, alone = (guidance(nameless, who, **by_judge(judge_run)) for who in (swapped, None))
    assert (by_guide.class_names, alone.class_names) == (("light", "dark"), ("dark", "light"))
    step = CHAIN.at(20, like=x_t)
    assert torch.equal(by_guide.denoiser(1 - Y, clip=1.0)(x_t, step).x0, alone.denoiser(Y, clip=1.0)(x_t, step).x0)


@pytest.mark.parametrize("interval", [{"sigma_max": 1e-6}, {"sigma_min": 1e6}])
def test_an_interval_without_a_noise_level_of_the_sampler_is_refused(model, classifier, interval):
    with pytest.raises(
        ValueError, match="none of the sampler's noise levels, 0.0.* to .*, so that nothing would be guided"
    ):
        guidance(model, classifier, **interval)


def test_a_scale_for_a_class_that_is_not_there_is_refused(model, classifier):
    with pytest.raises(ValueError, match='there is no label "cat": the model has 2 classes'):
        guidance(model, classifier, class_scales={"cat": 2.0})


def test_two_scales_for_one_class_are_refused_naming_both(model, classifier):
    with pytest.raises(ValueError, match='two scales for class 0, "dark": under "dark" and "0"; give one'):
        guidance(model, classifier, class_scales={"dark": 4.0, 0: 1.0})
    with pytest.raises(ValueError, match='two scales for class 1, "light": under "1" and "1"; give one'):
        guidance(model, classifier, class_scales={"1": 4.0, 1: 4.0})


def test_a_manifest_does_not_depend_on_how_classes_were_called_or_ordered(model, classifier):
    ways = ({"light": 4.0, "dark": 2.0}, {0: 2.0, 1: 4.0}, {"1": 4.0, "dark": 2.0})
    records = [guidance(model, classifier, class_scales=scales).record() for scales in ways]
    assert records == [{"scale": 1.0, "class_scales": {"0": 2.0, "1": 4.0}}] * 3
    assert [list(record["class_scales"]) for record in records] == [["0", "1"]] * 3


def test_gradients_at_the_mean_are_refused_for_ddim():
    with pytest.raises(ValueError, match="sampler.gradient_at mean was given to ddim; it is for ddpm: leave it out"):
        SamplerConfig(gradient_at="mean")
