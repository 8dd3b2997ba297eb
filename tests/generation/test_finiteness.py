"""Samples that are not finite: refused everywhere, with the ids, the step and the likeliest cause."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from torch import Tensor

from classifiers.trained_model import Classifier
from guided_diffusion import GuidedDiffusion
from guided_diffusion.commands.inpaint import InpaintConfig, write_inpainted
from guided_diffusion.diffusion.images import to_uint8
from guided_diffusion.diffusion.model import DiffusionModel, UpsamplerModel, UpsamplerModelConfig
from guided_diffusion.diffusion.noise import SeededNoise
from guided_diffusion.generation.cascade import Base, UpsamplingRun
from guided_diffusion.generation.config import SamplingConfig
from guided_diffusion.generation.encoding import Codec
from guided_diffusion.generation.finiteness import finite_samples, likeliest_cause, warn_without_content
from guided_diffusion.generation.input_images import open_inputs
from guided_diffusion.generation.likelihood import measured_likelihood
from guided_diffusion.generation.plan import SampleBatch
from guided_diffusion.guidance.config import CleanClassifierConfig, GuidanceConfig
from guided_diffusion.models.upsampler import Upsampler, UpsamplerConfig
from guided_diffusion.samplers import SamplerConfig

BY_WEIGHTS = r"not finite from step 1 on: the weights in .*{}.* are not finite; take an earlier checkpoint"


def with_nan(loaded: Any) -> Any:
    """A loaded model or classifier of which one weight is not a number, as after a diverged training."""
    network = copy.deepcopy(loaded.network)
    with torch.no_grad():
        next(network.parameters()).flatten()[0] = torch.nan
    return replace(loaded, network=network)


def with_steep_gradient(loaded: Classifier) -> Classifier:
    """A classifier of finite weights whose gradient, times a large scale, is beyond float32."""
    network = copy.deepcopy(loaded.network)
    with torch.no_grad():
        network.head.weight.mul_(1e34)
    return replace(loaded, network=network)


def config(out: Path, **options: Any) -> Any:
    return tiny.sample_config(out, **({"num_samples": 10, "batch_size": 10, "steps": 5} | options))


def refused(out: Path, model: DiffusionModel, guide: Classifier | None = None, *, match: str, **options: Any) -> None:
    with pytest.raises(ValueError, match=match):
        tiny.generate(config(out, **options), model, guide)
    assert not list(out.glob("shard-*"))


def test_weights_that_are_not_finite_are_named_and_nothing_is_written(tmp_path, model, guide):
    found = r"^10 of 10 samples \(ids 0, 1, 2, 3, 4, 5, 6, 7 and 2 more\) are "
    refused(tmp_path / "1", with_nan(model), match=found + BY_WEIGHTS.format(r"ema_0.9.safetensors"))
    refused(tmp_path / "2", model, with_nan(guide), match=BY_WEIGHTS.format(r"network.safetensors"))


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        ({"guidance": GuidanceConfig(scale=1e6)}, r"guidance.scale 1e\+06"),
        (
            {"sampler": "langevin", "snr": 1e20, "langevin_steps": 100, "steps": 2, "num_samples": 1},
            r"sampler.snr 1e\+20",
        ),
    ],
)
def test_settings_that_leave_the_range_of_numbers_are_named(tmp_path, model, guide, options, cause):
    guide = with_steep_gradient(guide) if "guidance" in options else None
    refused(tmp_path, model, guide, match=f"the likeliest cause is {cause}; take values nearer", **options)


def test_float16_is_a_likelier_cause_than_any_setting():
    cause = likeliest_cause([], SamplerConfig(), {"guidance.scale": 1e6}, precision="float16")
    assert cause == "the likeliest cause is --precision float16, which has no number above 65,504; take bfloat16"


def test_a_function_that_guides_is_a_likelier_cause_than_the_training():
    cause = likeliest_cause([], SamplerConfig(), {"guidance.function_scale": 1.0}, function="mine:bright")
    assert cause == "the likeliest cause is guidance.function mine:bright, not finite itself or in its gradient"


def test_after_a_refusal_other_settings_may_take_the_directory(tmp_path, model):
    refused(tmp_path, model, match="sampler.snr", sampler="langevin", snr=1e20, steps=2, num_samples=1)
    tiny.generate(config(tmp_path), model)
    with pytest.raises(ValueError, match="already holds samples made with other settings"):
        tiny.generate(config(tmp_path, steps=6), model)


def test_the_samples_and_the_first_step_are_named_where_only_some_fail():
    calls = []

    def sampled(on_step: Any) -> Tensor:
        x = torch.zeros(3, 1, 2, 2)
        for k in reversed(range(4)):
            x = x.clone()
            if k == 1:
                x[1, 0, 0, 0] = torch.inf
            on_step(k, x, None)
        return x

    with pytest.raises(ValueError, match=r"^1 of 3 samples \(ids 8\) are not finite from step 3 on: why$"):
        finite_samples(sampled, range(7, 10), cause=lambda: "why", on_step=lambda k, x, estimate: calls.append(k))
    assert calls == [3, 2, 1, 0]


@pytest.mark.parametrize(("scale", "warnings"), [(1.0, 0), (1e4, 1)])
@pytest.mark.parametrize("option", ["guidance.clean_classifier.scale", "guidance.scale"])
@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_guidance_that_leads_out_of_the_range_of_training_is_said_once_a_run(
    tmp_path, model, guide, judge_run, caplog, scale, warnings, option, sampler
):
    guidance, guide = GuidanceConfig(scale=scale), guide if option == "guidance.scale" else None
    if guide is None:
        judge = CleanClassifierConfig(name=f"classifier:{judge_run}", scale=scale)
        guidance = GuidanceConfig(clean_classifier=judge)
    options = {"num_samples": 4, "batch_size": 2, "sampler": sampler}
    tiny.generate(config(tmp_path / "out", guidance=guidance, **options), model, guide)
    said = [record.getMessage() for record in caplog.records if "out of range" in record.getMessage()]
    assert len(said) == warnings
    for message in said:
        assert "in training it is 1 at most" in message
        assert f"lower --{option}, or leave high noise unguided by --guidance.sigma_max" in message


def test_the_noise_that_langevin_has_yet_to_remove_is_not_laid_on_guidance(tmp_path, model, guide, caplog):
    # Its state, scaled to the next level of 5, has a root mean square of 3 there without any guidance.
    options = {"sampler": "langevin", "steps": 5, "langevin_steps": 30}
    tiny.generate(config(tmp_path, num_samples=4, guidance=GuidanceConfig(scale=0.0), **options), model, guide)
    assert "out of range" not in caplog.text


@pytest.mark.parametrize(("scale", "times"), [(-2.0, 1), (2.0, 0)])
def test_guidance_away_from_the_class_is_said_once_a_run(tmp_path, model, guide, caplog, scale, times):
    guidance = GuidanceConfig(class_scales={0: scale})
    tiny.generate(config(tmp_path, num_samples=4, batch_size=1, guidance=guidance), model, guide)
    assert caplog.text.count("--guidance.class_scales of 0 -2: guidance of negative strength leads away") == times


def test_settings_at_their_defaults_are_no_likely_cause(tmp_path, model, guide):
    broken = replace(model, network=tiny.Watched(model.network, lambda *inputs: None))
    broken.network.forward = lambda x_t, t: x_t.new_full((len(x_t), 2, 8, 8), torch.nan)
    options = {"guidance": GuidanceConfig(scale=1.0, sigma_max=1000.0)}
    refused(tmp_path, broken, guide, match="all weights are finite, but training may have diverged", **options)


@pytest.mark.parametrize(("size", "told"), [(1.4, []), (1.6, [1.6])])
def test_the_size_of_states_is_that_of_the_largest_on_the_way(size, told):
    found = []

    def sampled(on_step: Any) -> Tensor:
        for k, rms in enumerate((1.0, size, 0.5)):
            on_step(k, torch.full((2, 1, 2, 2), rms), None)
        return torch.zeros(2, 1, 2, 2)

    finite_samples(sampled, range(2), cause=lambda: "why", out_of_range=found.append)
    assert found == pytest.approx(told)


def test_python_refuses_as_the_command_does(model):
    with pytest.raises(ValueError, match=BY_WEIGHTS.format("ema_0.9.safetensors")):
        GuidedDiffusion(with_nan(model)).sample(num_samples=2, steps=2)


def test_inpainting_refuses(tmp_path, model, class_folder):
    white = np.zeros((8, 8), np.uint8)
    white[4:] = 255
    Image.fromarray(white).save(tmp_path / "mask.png")
    task = {"diffusion": Path("unused"), "data": tiny.data(class_folder), "mask": tmp_path / "mask.png"}
    settings = InpaintConfig(out=tmp_path / "out", **task, max_images=2, **tiny.sampling(sampler="ddpm", steps=2))
    with pytest.raises(ValueError, match=BY_WEIGHTS.format("ema_0.9.safetensors")):
        write_inpainted(tiny.sampling_run(cast(Any, settings), with_nan(model)), settings)


def test_an_upsampler_refuses(model):
    network = UpsamplerConfig(low_res_size=4, **vars(model.config.network) | {"in_channels": 1})
    described = UpsamplerModelConfig(**vars(model.config) | {"network": network})
    upsampler = with_nan(UpsamplerModel(described, Upsampler(network), model.checkpoint, "ema_0.9"))
    base = Base(name="", num_samples=2, image_shape=(1, 4, 4), class_names=None, labels=None, record={})
    run = UpsamplingRun(settings=SamplingConfig(sampler=SamplerConfig(steps=2)), upsampler=upsampler, base=base)
    batch = SampleBatch(range(2), torch.tensor([-1, -1]), SeededNoise(0, range(2)))
    with pytest.raises(ValueError, match=BY_WEIGHTS.format("ema_0.9.safetensors")):
        run.x0(batch, torch.zeros(2, 1, 4, 4))


def test_encoding_and_the_likelihood_refuse(model, class_folder):
    broken = with_nan(model)
    inputs = open_inputs(tiny.data(class_folder), model, most=3, class_names=None)
    images, labels = inputs.read()
    codec = Codec(model=broken, sampler=SamplerConfig(steps=2))
    with pytest.raises(ValueError, match=BY_WEIGHTS.format("ema_0.9.safetensors")):
        codec.encode(images, labels)
    with pytest.raises(ValueError, match=BY_WEIGHTS.format("ema_0.9.safetensors")):
        codec.decode(torch.zeros(3, 1, 8, 8), labels)
    with pytest.raises(ValueError, match=r"the bound is not finite: the weights in .*ema_0.9.safetensors are not"):
        measured_likelihood(broken, inputs, terms=2)


def test_numbers_that_are_not_finite_never_become_pixels():
    for value in (torch.nan, torch.inf):
        with pytest.raises(ValueError, match="not finite"):
            to_uint8(torch.tensor([0.0, value]))


def test_pictures_without_content_are_doubted(caplog):
    noisy = torch.randint(1, 255, (200, 3, 4, 4), dtype=torch.uint8)
    assert not warn_without_content(noisy, name="out")
    noisy[0] = 7
    assert not warn_without_content(noisy, name="out")  # one black picture may be real
    noisy[1] = torch.tensor([0, 255], dtype=torch.uint8).repeat(3, 4, 2)
    noisy[2, 1] = 9
    noisy[2, 0], noisy[2, 2] = 0, 200
    assert warn_without_content(noisy, name="out")
    assert "out: 3 of 200 samples are of one colour or have only pixels at the ends of the range" in caplog.text


def test_sampling_doubts_samples_without_content(tmp_path, model, caplog):
    black = replace(model, network=tiny.Watched(model.network, lambda *inputs: None))
    black.network.forward = lambda x_t, t: x_t.new_full((len(x_t), 2, 8, 8), 1e6)
    tiny.generate(config(tmp_path, shard_size=5, num_samples=10), black)
    assert caplog.text.count("samples are of one colour") == 1


def test_a_sampler_of_too_few_steps_is_warned_of_before_it_runs(tmp_path, model, caplog):
    tiny.generate(config(tmp_path, num_samples=2, sampler="langevin", steps=5, langevin_steps=2), model)
    assert "5 levels of 2 steps of snr 0.224 leave " in caplog.text
    caplog.clear()
    GuidedDiffusion(model).sample(num_samples=1, sampler="langevin", steps=5, langevin_steps=2)
    assert "5 levels of 2 steps of snr 0.224 leave " in caplog.text
