"""GuidedDiffusion: the pixels of scripts/sample.py, and its refusals."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from torch import nn

from guided_diffusion import GuidedDiffusion
from guided_diffusion.data.formats.samples import iterate_shards
from guided_diffusion.guidance.config import CleanClassifierConfig, GuidanceConfig
from guided_diffusion.guidance.function import through_network


@pytest.fixture(scope="module")
def guided(diffusion_run, classifier_run) -> GuidedDiffusion:
    return GuidedDiffusion.load(diffusion_run, classifier=str(classifier_run), device="cpu")


def sampled(out: Path, *options: str) -> np.ndarray:
    """Samples that scripts/sample.py writes."""
    status, output = tiny.finish(tiny.start("sample.py", "--out", str(out), *options))
    assert status == 0, output
    return np.concatenate([shard.images for shard in iterate_shards(out)])


def test_the_pixels_are_those_of_the_sampling_script(tmp_path, diffusion_run, classifier_run, guided):
    runs = ("--diffusion", str(diffusion_run), "--classifier", str(classifier_run))
    options = (
        "--labels", "light,0,light", "--num_samples", "3", "--guidance.scale", "4", "--guidance.sigma_max", "20",
        "--sampler.name", "ddpm", "--sampler.steps", "5", "--seed", "7", "--batch_size", "2",
    )  # fmt: skip
    made = guided.sample(
        ["light", 0, "1"], scale=4.0, guidance=GuidanceConfig(sigma_max=20), sampler="ddpm", steps=5, seed=7,
        batch_size=2,
    )  # fmt: skip
    assert made.dtype == np.uint8
    assert made.shape == (3, 8, 8, 1)
    assert np.array_equal(made, sampled(tmp_path, *runs, *options))


def test_a_rule_of_labels_makes_one_sample_a_class_unless_told_how_many(guided):
    assert guided.class_names == ("dark", "light")
    assert np.array_equal(guided.sample(steps=3), guided.sample([0, 1], steps=3))
    assert np.array_equal(guided.sample("light", num_samples=3, steps=3), guided.sample([1, 1, 1], steps=3))
    assert np.array_equal(guided.sample([0, 1], num_samples=3, steps=3), guided.sample([0, 1, 0], steps=3))


def test_the_scale_acts(guided):
    weak, strong = (guided.sample([1] * 4, scale=scale, steps=5).astype(float).mean() for scale in (0.0, 20.0))
    assert strong > weak + 5


def test_inference_mode_around_loading_or_sampling_changes_nothing(diffusion_run, classifier_run, guided):
    expected = guided.sample(scale=2.0, steps=3)
    with torch.inference_mode():
        assert np.array_equal(guided.sample(scale=2.0, steps=3), expected)
        loaded = GuidedDiffusion.load(diffusion_run, classifier=classifier_run, device="cpu")
        assert np.array_equal(loaded.sample(scale=2.0, steps=3), expected)


def test_inference_mode_around_a_function_that_guides_through_the_network_changes_nothing(diffusion_run):
    def made(labels: Sequence[int]) -> np.ndarray:
        dim = through_network(lambda x, y, t: -(t * y * x.square().flatten(1).sum(dim=1)))
        return GuidedDiffusion.load(diffusion_run, function=dim, device="cpu").sample(labels, steps=3)

    expected = made([1, 1])
    with torch.inference_mode():
        assert np.array_equal(made([1, 1]), expected)


def test_without_a_classifier_it_samples_unguided(diffusion_run, guided):
    alone = GuidedDiffusion.load(diffusion_run, device="cpu")
    assert np.array_equal(alone.sample(num_samples=2, steps=3), guided.sample([0, 1], scale=0.0, steps=3))
    assert len(alone.sample(steps=3)) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": ["cat"]}, 'there is no label "cat": the model has 2 classes'),
        ({"labels": [2]}, 'there is no label "2"'),
        ({"labels": []}, 'labels are empty; give at least one, or "all"'),
        ({"sampler": "euler"}, 'there is no sampler "euler"; there are ddim, ddpm'),
        ({"steps": 51}, "steps"),
        ({"scale": 1.0, "guidance": GuidanceConfig(scale=2.0)}, "scale 1 and guidance.scale 2 were given; leave one"),
        ({"num_samples": 0}, "num_samples must be at least 1, got 0"),
        ({"seed": 2**64}, "seed is a whole number of 64 bits, got 18446744073709551616"),  # it drew the noise of 0
        ({"clip": float("nan")}, "clip is a bound above 0, or null; got nan"),
        ({"precision": "fp16"}, 'there is no precision "fp16"; there are auto, float32'),
        ({"compile": "maybe"}, 'compile is auto, on or off; got "maybe"'),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
    ],
)
def test_what_the_script_refuses_is_refused(guided, options, message):
    with pytest.raises(ValueError, match=message):
        guided.sample(**options)


def test_sampling_in_memory_joins_no_other_processes(guided, monkeypatch):
    # One process of a user's own run may sample alone; it used to wait for the others here.
    monkeypatch.setattr("accelerate.PartialState.__init__", pytest.fail)
    assert guided.sample(steps=2, compile="auto").shape[0] == 2


def test_labels_keep_their_order_in_any_array_and_a_set_has_none(guided):
    listed = guided.sample([1, 0], steps=2)
    for labels in (torch.tensor([1, 0]), np.array(["light", "dark"]), range(1, -1, -1)):
        assert np.array_equal(guided.sample(labels, steps=2), listed)
    for unordered in ({"dark", "light"}, {"dark": 3}, 1):
        with pytest.raises(TypeError, match='labels are a list, or a rule such as "all"; got'):
            guided.sample(unordered)


def test_options_that_samples_in_memory_have_not_are_refused_by_name(guided):
    with pytest.raises(TypeError, match="sample\\(\\) has no option stepz; besides the sampler it has steps, eta"):
        guided.sample(stepz=3)
    with pytest.raises(TypeError, match="no option shard_size"):
        guided.sample(shard_size=3)


def test_labels_and_scales_need_somebody_to_be_told(diffusion_run):
    alone = GuidedDiffusion.load(diffusion_run, device="cpu")
    with pytest.raises(ValueError, match="is not conditioned on the class and there is no classifier"):
        alone.sample([1])
    with pytest.raises(ValueError, match="asked for without a classifier \\(guidance.scale 4\\)"):
        alone.sample(scale=4.0)


def test_a_classifier_of_clean_images_is_refused_when_it_is_loaded(diffusion_run, judge_run):
    with pytest.raises(ValueError, match="was trained on clean images only and cannot guide"):
        GuidedDiffusion.load(diffusion_run, classifier=judge_run)


def test_a_misspelt_name_of_the_pipeline_is_refused():
    import guided_diffusion

    with pytest.raises(AttributeError, match="has no attribute 'GuidedDifusion'"):
        _ = guided_diffusion.GuidedDifusion


def test_a_function_of_ones_own_guides_by_the_scale_given(diffusion_run):
    """To dark or light pictures, told by mean brightness; the model is unconditional."""

    def by_brightness(images):
        mean = 20 * images.mean(dim=(1, 2, 3))
        return torch.stack([-mean, mean], dim=1)

    pipeline = GuidedDiffusion.load(diffusion_run, clean_classifier=by_brightness)
    assert pipeline.class_names == ("dark", "light")
    brightness = {}
    for scale in (0.0, 4.0):
        images = pipeline.sample("all", num_samples=8, steps=10, scale=scale)
        brightness[scale] = images[1::2].mean() - images[::2].mean()
    assert brightness[4.0] > brightness[0.0] + 3
    settings = GuidanceConfig(clean_classifier=CleanClassifierConfig(scale=2.0))
    with pytest.raises(ValueError, match="scale 4 and guidance.clean_classifier.scale 2 were given; leave one of them"):
        pipeline.sample("all", steps=10, scale=4.0, guidance=settings)


def test_a_classifier_of_other_classes_is_refused_when_it_is_loaded(diffusion_run):
    with pytest.raises(ValueError, match="Sequential gives 3 logits, but there are 2 classes in the model"):
        GuidedDiffusion.load(diffusion_run, clean_classifier=nn.Sequential(nn.Flatten(), nn.Linear(64, 3)))
