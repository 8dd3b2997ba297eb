"""Guidance of sampling runs: who guides reaches the sampler as configured, and what cannot guide is refused.

Over 300 lines because every kind of guidance is held here, on the same tiny runs.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from guided_diffusion.data.formats.samples import iterate_shards
from guided_diffusion.diffusion.denoiser import Threshold, clipped
from guided_diffusion.diffusion.model import DiffusionModel, load_diffusion
from guided_diffusion.diffusion.schedules import make_chain
from guided_diffusion.generation.config import SampleConfig
from guided_diffusion.generation.run import generate
from guided_diffusion.guidance import (
    classifier_score,
    entropy_scaled_score,
    extrapolated,
    guided_at_estimate,
    joint_log_prob,
    sine_schedule,
    summed,
)
from guided_diffusion.guidance.config import GuidanceConfig, OtherGuides
from guided_diffusion.guidance.guides import load_guide, load_other_guides
from guided_diffusion.guidance.run import Guidance, clean_schedule

CHAIN = make_chain(tiny.CHAIN)
Y = torch.tensor([0, 1, 1])


@pytest.fixture(scope="module")
def free(free_run) -> DiffusionModel:
    return load_diffusion(free_run)


@pytest.fixture(scope="module")
def model(diffusion_run) -> DiffusionModel:
    return load_diffusion(diffusion_run)


@pytest.fixture(scope="module")
def guide(classifier_run):
    return load_guide(classifier_run, device="cpu")


def images(model: DiffusionModel, *, seed: int = 0) -> torch.Tensor:
    return torch.randn(len(Y), *model.image_shape, generator=torch.Generator().manual_seed(seed))


def guidance(model, guide=None, others=None, **config) -> Guidance:
    return Guidance(model=model, guide=guide, others=others or OtherGuides(), config=GuidanceConfig(**config))


def estimates(guidance: Guidance, x_t, *, k: int = 20, clip=None):
    return guidance.denoiser(Y, clip=clip)(x_t, CHAIN.at(k, like=x_t)).x0


def made(directory: Path) -> np.ndarray:
    return np.concatenate([shard.images for shard in iterate_shards(directory)])


def test_classifier_free_guidance_extrapolates_from_the_null_class_of_the_same_network(free):
    x_t = images(free)
    step = CHAIN.at(20, like=x_t)
    conditional, null = free.denoiser(Y, clip=None), free.denoiser(torch.full_like(Y, 2), clip=None)
    assert free.null_label == 2
    expected = null(x_t, step).x0 + 3 * (conditional(x_t, step).x0 - null(x_t, step).x0)
    assert torch.equal(estimates(guidance(free, free_weight=3.0), x_t), expected)
    assert not torch.allclose(expected, conditional(x_t, step).x0, atol=1e-3)


def test_autoguidance_extrapolates_from_the_weaker_weights(free, free_run):
    x_t = images(free)
    step = CHAIN.at(20, like=x_t)
    config = GuidanceConfig(weak=f"{free_run}:network", weak_weight=2.0)
    others = load_other_guides(config, device="cpu")
    weak = load_diffusion(free_run, weights="network")
    expected = extrapolated(free.denoiser(Y, clip=None), weak.denoiser(Y, clip=None), 2.0)(x_t, step).x0
    assert torch.equal(estimates(guidance(free, None, others, **vars(config)), x_t), expected)


def test_the_classifier_and_the_null_class_guide_together(free, classifier_run, tmp_path):
    """The classifier is of the noise of `diffusion_run`, whose chain is the same."""
    guide = load_guide(classifier_run, device="cpu")
    config = SampleConfig(
        diffusion=Path("unused"), out=tmp_path / "both", num_samples=4, steps=5,
        guidance=GuidanceConfig(scale=3.0, free_weight=2.0),
    )  # fmt: skip
    generate(config, free, guide)
    for name, changed in {"free": GuidanceConfig(free_weight=2.0), "guide": GuidanceConfig(scale=3.0)}.items():
        alone = replace(config, out=tmp_path / name, guidance=changed)
        generate(alone, free, guide if name == "guide" else None)
        assert not np.array_equal(made(tmp_path / name), made(tmp_path / "both"))


@pytest.mark.parametrize("wanted", [{"free_weight": 3.0}, {"off_the_shelf": "judge"}])
def test_outside_the_interval_only_the_plain_denoiser_is_called(free, judge_run, wanted):
    called = []

    def network(x_t, t, y):
        called.append(y.tolist())
        return free.network(x_t, t, y)

    if "off_the_shelf" in wanted:
        wanted = {"off_the_shelf": f"classifier:{judge_run}"}
    config = GuidanceConfig(**wanted, sigma_min=0.5, sigma_max=2.0)
    others = load_other_guides(config, device="cpu")
    asked = []
    if others.clean is not None:
        logits = others.clean.logits
        others = replace(others, clean=replace(others.clean, logits=lambda x: asked.append(1) or logits(x)))
    guided = Guidance(model=replace(free, network=network), guide=None, others=others, config=config)
    x_t = images(free)
    for k in range(len(CHAIN)):
        called.clear()
        asked.clear()
        x0 = estimates(guided, x_t, k=k)
        inside = 0.5 < (1 / float(CHAIN.alpha_bar[k]) - 1) ** 0.5 <= 2.0
        assert len(called) == 1 + (inside and config.free_weight is not None)
        assert len(asked) == (inside and others.clean is not None)
        if not inside:
            assert torch.equal(x0, free.denoiser(Y, clip=None)(x_t, CHAIN.at(k, like=x_t)).x0)


def test_class_scales_by_name_and_label_leave_other_classes_theirs(model, guide):
    x_t = images(model)
    step = CHAIN.at(20, like=x_t)
    for key in ("light", 1):
        term = guidance(model, guide, scale=0.5, class_scales={key: 4.0}).term(Y)
        by_hand = classifier_score(guide.log_prob, Y, torch.tensor([0.5, 4.0, 4.0]))
        assert torch.equal(term(x_t, step), by_hand(x_t, step))


def test_the_entropy_scales_every_classifier_of_noisy_images(model, guide):
    x_t = images(model)
    step = CHAIN.at(20, like=x_t)
    others = OtherGuides(further=(guide,))
    term = guidance(model, guide, others, scale=2.0, entropy_scaled=True, further={"again": 3.0}).term(Y)
    by_hand = summed(*(entropy_scaled_score(guide.log_prob, Y, scale) for scale in (2.0, 3.0)))
    assert torch.equal(term(x_t, step), by_hand(x_t, step))


def test_a_further_classifier_adds_its_score(model, guide, classifier_run):
    x_t = images(model)
    step = CHAIN.at(20, like=x_t)
    config = GuidanceConfig(scale=2.0, further={str(classifier_run): 3.0})
    both = guidance(model, guide, load_other_guides(config, device="cpu"), **vars(config)).term(Y)
    assert torch.allclose(both(x_t, step), classifier_score(guide.log_prob, Y, 5.0)(x_t, step), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("gradient", ["x_0", "x_t"])
@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_a_judge_of_clean_images_guides_to_the_class_it_is_asked_for(tmp_path, model, judge_run, gradient, sampler):
    """From an unconditional model of dark and light pictures, told by mean brightness."""
    means = {}
    for scale in (0.0, 4.0):
        guiding = GuidanceConfig(
            off_the_shelf=f"classifier:{judge_run}", off_the_shelf_scale=scale, off_the_shelf_gradient=gradient
        )
        config = SampleConfig(
            diffusion=Path("unused"), out=tmp_path / str(scale), num_samples=16, steps=10, sampler=sampler,
            guidance=guiding,
        )  # fmt: skip
        generate(config, model, None, load_other_guides(guiding, device="cpu"))
        brightness = made(config.out).mean(axis=(1, 2, 3))
        means[scale] = brightness[1::2].mean() - brightness[::2].mean()
    assert means[4.0] > means[0.0] + 3


def extrapolating(free, free_run, kind: str) -> Guidance:
    if kind == "free_weight":
        return guidance(free, free_weight=4.0)
    config = GuidanceConfig(weak=f"{free_run}:network", weak_weight=40.0)
    return guidance(free, None, load_other_guides(config, device="cpu"), **vars(config))


@pytest.mark.parametrize("kind", ["free_weight", "weak"])
@pytest.mark.parametrize("clip", [1.0, 0.5, Threshold(0.9)])
def test_a_strongly_extrapolated_estimate_stays_within_the_clip(free, free_run, kind, clip):
    """Extrapolated first and clipped afterwards; clipped on either side of it, it would leave the range."""
    guided, x_t = extrapolating(free, free_run, kind), 3 * images(free)
    unclipped = estimates(guided, x_t, k=40)
    assert float(unclipped.abs().max()) > 2
    assert torch.equal(estimates(guided, x_t, k=40, clip=clip), clipped(unclipped, clip))


def test_a_classifiers_tilt_comes_after_the_clip_as_published(model, judge_run):
    """EluCD's gradient is taken at the clipped estimate, and moves it out of the range again."""
    config = GuidanceConfig(off_the_shelf=f"classifier:{judge_run}", off_the_shelf_scale=20.0)
    guided = guidance(model, None, load_other_guides(config, device="cpu"), **vars(config))
    x_t = images(model)
    assert float(estimates(guided, x_t, k=40, clip=1.0).abs().max()) > 1


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_an_elucd_run_is_the_nesting_of_tempered_logits_and_under_ddpm_of_the_sine_schedule(model, judge_run, sampler):
    config = GuidanceConfig(off_the_shelf=f"classifier:{judge_run}", off_the_shelf_scale=2.0)
    others = load_other_guides(config, device="cpu")
    schedule = clean_schedule(config, CHAIN, sampler=sampler)
    guided = Guidance(model=model, guide=None, others=others, config=config, schedule=schedule)

    def log_prob(x_0):
        return joint_log_prob(others.clean.logits(x_0))

    sine = sine_schedule(CHAIN) if sampler == "ddpm" else None
    by_hand = guided_at_estimate(model.denoiser(Y, clip=1.0), log_prob, Y, 2.0, schedule=sine)
    x_t = images(model)
    for k in (1, 20, 40):
        step = CHAIN.at(k, like=x_t)
        assert torch.equal(estimates(guided, x_t, k=k, clip=1.0), by_hand(x_t, step).x0)
    assert (schedule is None) == (sampler == "ddim")
    assert schedule is None or schedule(CHAIN.at(20, like=x_t)) > 1


def through_the_network(model, judge_run, scale: float) -> Guidance:
    config = GuidanceConfig(
        off_the_shelf=f"classifier:{judge_run}", off_the_shelf_scale=scale, off_the_shelf_gradient="x_t"
    )
    return guidance(model, None, load_other_guides(config, device="cpu"), **vars(config))


def test_rounding_at_the_edge_of_the_clip_does_not_decide_over_the_gradient_through_the_network(model, judge_run):
    """A clamp inside the differentiated denoiser would pass the gradient of one of the two and not of the other."""
    step = CHAIN.at(20, like=images(model))
    x_t = images(model).sign() * step.alpha_bar**0.5  # of which x_0 is -1 or 1, where the network finds no noise
    found = []
    for rounding in (-1e-6, 1e-6):
        rounded = replace(model, network=lambda x, t, rounding=rounding: rounding * x.repeat(1, 2, 1, 1))
        found.append(estimates(through_the_network(rounded, judge_run, 50.0), x_t, clip=1.0))
    assert bool((found[0].abs() < 0.9).any())
    assert torch.allclose(found[0], found[1], rtol=0, atol=1e-4)


def test_another_batch_size_moves_samples_guided_through_the_network_by_a_grey_level_at_most(
    tmp_path, model, judge_run
):
    guiding = through_the_network(model, judge_run, 4.0)
    config = SampleConfig(
        diffusion=Path("unused"), out=tmp_path / "many", num_samples=6, steps=10, sampler="ddpm",
        guidance=guiding.config,
    )  # fmt: skip
    generate(config, model, None, guiding.others)
    generate(replace(config, out=tmp_path / "one", batch_size=1), model, None, guiding.others)
    difference = made(tmp_path / "many").astype(int) - made(tmp_path / "one")
    assert abs(difference).max() <= 1


def test_sample_i_guided_by_a_clean_classifier_does_not_depend_on_its_batch(model, judge_run):
    config = GuidanceConfig(off_the_shelf=f"classifier:{judge_run}", off_the_shelf_scale=3.0)
    guided = guidance(model, None, load_other_guides(config, device="cpu"), **vars(config))
    x_t = images(model)
    together = estimates(guided, x_t)
    alone = guided.denoiser(Y[1:2], clip=None)(x_t[1:2], CHAIN.at(20, like=x_t[1:2])).x0
    assert torch.allclose(together[1:2], alone, rtol=1e-4, atol=1e-5)


def test_the_manifest_says_who_guided_and_how(tmp_path, free, free_run, classifier_run, judge_run):
    config = SampleConfig(
        diffusion=free_run, out=tmp_path, num_samples=2, steps=5, sampler="ddpm",
        guidance=GuidanceConfig(
            scale=2.0, class_scales={"light": 3.0, 0: 1.5}, entropy_scaled=True, gradient_at="mean",
            further={str(classifier_run): 0.5}, weak=f"{free_run}:network", weak_weight=1.5, sigma_max=9.0,
            off_the_shelf=f"classifier:{judge_run}", off_the_shelf_gradient="x_t",
        ),
    )  # fmt: skip
    guide = load_guide(classifier_run, device="cpu")
    generate(config, free, guide, load_other_guides(config.guidance, device="cpu"))
    record = json.loads((tmp_path / "manifest.json").read_text())["guidance"]
    judge = record.pop("off_the_shelf")
    assert (judge["scale"], judge["gradient"], len(judge["sha256"])) == (1.0, "x_t", 64)
    assert record.pop("further") == [{"name": guide.name, "sha256": guide.sha256, "scale": 0.5}]
    weak = record.pop("weak")
    assert (weak["weights"], weak["weight"]) == ("network", 1.5)
    assert record == {
        "scale": 2.0, "class_scales": {"0": 1.5, "1": 3.0}, "entropy_scaled": True, "gradient_at": "mean",
        "sigma_max": 9.0,
    }  # fmt: skip


def test_class_scales_and_a_judge_from_the_command_line(tmp_path, free_run, classifier_run, judge_run):
    process = tiny.start(
        "sample.py", f"--diffusion={free_run}", f"--classifier={classifier_run}", f"--out={tmp_path / 'out'}",
        "--num_samples=2", "--steps=5", "--guidance.class_scales={dark: 2, 1: 0.5}", "--guidance.free_weight=1.5",
        f"--guidance.off_the_shelf=classifier:{judge_run}", f"--guidance.further={{{classifier_run}: 2}}",
    )  # fmt: skip
    status, output = tiny.finish(process)
    assert status == 0, output
    record = json.loads((tmp_path / "out" / "manifest.json").read_text())["guidance"]
    assert record["class_scales"] == {"0": 2.0, "1": 0.5}
    assert record["free_weight"] == 1.5
    assert record["further"][0]["scale"] == 2.0
    assert record["off_the_shelf"]["name"].startswith("classifier:")


REFUSED_CONFIGS = {
    "the weight to extrapolate by go together; got guidance.weak run and guidance.weak_weight None": {"weak": "run"},
    "go together; got guidance.weak None and guidance.weak_weight 2.0": {"weak_weight": 2.0},
    "both extrapolate, each away from another model; give one": {"weak": "run", "weak_weight": 2.0, "free_weight": 2.0},
    "guidance.off_the_shelf_. were given, but no classifier": {"off_the_shelf_scale": 2.0},
    "add --guidance.off_the_shelf NAME": {"off_the_shelf_gradient": "x_t"},
    "guidance.scale must be a number, got nan": {"scale": float("nan")},
    "guidance.class_scales must be a number, got inf": {"class_scales": {"cat": float("inf")}},
}


@pytest.mark.parametrize("message", REFUSED_CONFIGS)
def test_settings_of_guidance_that_contradict_one_another_are_refused(message):
    with pytest.raises(ValueError, match=message):
        GuidanceConfig(**REFUSED_CONFIGS[message])


REFUSED_WITHOUT_CLASSIFIER = {
    r"guidance \(scale 4\) was asked for without a classifier; add --classifier RUN": {"scale": 4.0},
    r"guidance \(class_scales {'dark': 2.0}\) was asked": {"class_scales": {"dark": 2.0}},
    r"guidance \(entropy_scaled True\) was asked": {"entropy_scaled": True, "free_weight": 2.0},
    r"guidance \(gradient_at mean\) was asked": {"gradient_at": "mean"},
    r"guidance \(further {'runs/b': 2.0}\) was asked": {"further": {"runs/b": 2.0}},
    r"guidance \(sigma_min 0.5\) was asked": {"sigma_min": 0.5},
}


@pytest.mark.parametrize("message", REFUSED_WITHOUT_CLASSIFIER)
def test_what_is_said_of_classifiers_without_one_is_refused(free, message):
    with pytest.raises(ValueError, match=message):
        guidance(free, **REFUSED_WITHOUT_CLASSIFIER[message])


def test_classifier_free_guidance_needs_a_null_class_and_says_why(model, conditional_run):
    with pytest.raises(ValueError, match="free_weight .* is not told the class at all; train one with"):
        guidance(model, free_weight=2.0)
    with pytest.raises(ValueError, match="trained without label_dropout and has no null class; .*label_dropout 0.1"):
        guidance(load_diffusion(conditional_run), free_weight=2.0)


def test_a_weaker_model_that_does_not_fit_is_refused_naming_the_difference(free, model, conditional_run):
    def weak(other: DiffusionModel) -> Guidance:
        return guidance(free, None, OtherGuides(weak=other), weak="run", weak_weight=2.0)

    other = load_diffusion(conditional_run)
    weak(other)
    weak(model)  # unconditional
    with pytest.raises(ValueError, match="with its weights ema_0.9, the very model that is guided"):
        weak(free)
    longer = replace(tiny.CHAIN, num_steps=60)
    with pytest.raises(ValueError, match="has the chain .*num_steps=60.*, but .*num_steps=50"):
        weak(replace(other, config=replace(other.config, chain=longer)))
    with pytest.raises(ValueError, match='label 1 is "bright" to the weaker model, but "light" to the diffusion model'):
        weak(replace(other, config=replace(other.config, class_names=("dark", "bright"))))
    with pytest.raises(ValueError, match="is told the class, but .* is not: extrapolating would lead away"):
        guidance(model, None, OtherGuides(weak=other), weak="run", weak_weight=2.0)


def test_guides_that_are_named_must_be_handed_in(free):
    with pytest.raises(ValueError, match="guidance.weak and the guides handed in do not agree"):
        guidance(free, weak="run", weak_weight=2.0)


def test_those_who_guide_a_model_without_class_names_must_agree_among_themselves(model, guide, judge_run):
    nameless = replace(model, config=replace(model.config, class_names=()))
    swapped = replace(guide, class_names=("light", "dark"))
    with pytest.raises(ValueError, match='cannot guide beside .*: label 0 is "light" to the classifier, but "dark" to'):
        guidance(nameless, guide, OtherGuides(further=(swapped,)), further={"runs/b": 1.0})
    config = GuidanceConfig(off_the_shelf=f"classifier:{judge_run}")
    others, x_t = load_other_guides(config, device="cpu"), images(model)
    by_guide, alone = (guidance(nameless, who, others, **vars(config)) for who in (swapped, None))
    assert (by_guide.class_names, alone.class_names) == (("light", "dark"), ("dark", "light"))
    step = CHAIN.at(20, like=x_t)
    assert torch.equal(by_guide.denoiser(1 - Y, clip=1.0)(x_t, step).x0, alone.denoiser(Y, clip=1.0)(x_t, step).x0)


def test_a_scale_for_a_class_that_is_not_there_is_refused(model, guide):
    with pytest.raises(ValueError, match='there is no label "cat": the model has 2 classes'):
        guidance(model, guide, class_scales={"cat": 2.0})


def test_two_scales_for_one_class_are_refused_naming_both(model, guide):
    with pytest.raises(ValueError, match='two scales for class 0, "dark": under "dark" and "0"; give one'):
        guidance(model, guide, class_scales={"dark": 4.0, 0: 1.0})
    with pytest.raises(ValueError, match='two scales for class 1, "light": under "1" and "1"; give one'):
        guidance(model, guide, class_scales={"1": 4.0, 1: 4.0})


def test_a_manifest_does_not_depend_on_how_classes_were_called_or_ordered(model, guide):
    ways = ({"light": 4.0, "dark": 2.0}, {0: 2.0, 1: 4.0}, {"1": 4.0, "dark": 2.0})
    records = [guidance(model, guide, class_scales=scales).record() for scales in ways]
    assert records == [{"scale": 1.0, "class_scales": {"0": 2.0, "1": 4.0}}] * 3
    assert [list(record["class_scales"]) for record in records] == [["0", "1"]] * 3


def test_gradients_at_the_mean_are_refused_for_ddim_before_anything_is_written(tmp_path, model, guide):
    config = SampleConfig(diffusion=Path("unused"), out=tmp_path / "out", guidance=GuidanceConfig(gradient_at="mean"))
    with pytest.raises(ValueError, match="only ddpm shifts a mean"):
        generate(config, model, guide)
    assert not (tmp_path / "out").exists()
