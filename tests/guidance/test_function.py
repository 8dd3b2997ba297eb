"""Guidance by any differentiable function: its places, options, labels, refusals, and runs that it guides."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from torch import nn

from guided_diffusion import GuidedDiffusion
from guided_diffusion.data.formats.samples import iterate_shards, read_manifest
from guided_diffusion.diffusion.denoiser import bounded
from guided_diffusion.diffusion.model import load_diffusion
from guided_diffusion.diffusion.schedules import make_chain
from guided_diffusion.guidance import (
    Guide,
    at_estimate,
    guided_at_estimate,
    guided_through,
    noisy,
    score_of,
    through_network,
)
from guided_diffusion.guidance.config import CleanClassifierConfig, GuidanceConfig
from guided_diffusion.guidance.guides import GUIDES, guide_of, load_guide
from guided_diffusion.guidance.run import load_guidance

CHAIN = make_chain(tiny.CHAIN)
Y = torch.tensor([0, 1, 1])
IDS = range(7, 10)
OWN = """
import torch
from torch import nn
from guided_diffusion import noisy, through_network

def bright(x_0, target=0.5, *, weight=50.0):
    return -weight * (x_0.mean(dim=(1, 2, 3)) - target) ** 2

@through_network
class Bright(nn.Module):
    def __init__(self, target):
        super().__init__()
        self.pixels, self.target = nn.Linear(64, 1), target

    def forward(self, x_0):
        return -(self.pixels(x_0.flatten(1))[:, 0] - self.target) ** 2

number = 3
"""


@pytest.fixture(scope="module")
def model(diffusion_run):
    return load_diffusion(diffusion_run)


@pytest.fixture
def own(tmp_path, monkeypatch) -> str:
    """The name of a module in the working directory, which is not on Python's path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    name = f"guides_{abs(hash(tmp_path)) % 10**9}"
    (tmp_path / f"{name}.py").write_text(OWN)
    return name


def brightness(x, **_):
    return 20 * x.mean(dim=(1, 2, 3)).tanh()


def guidance(model, function=None, **config):
    guide = None if function is None else guide_of(function, device="cpu")
    return load_guidance(GuidanceConfig(**config), model=model, function=guide)


def images(model, seed=0):
    return torch.randn(len(Y), *model.image_shape, generator=torch.Generator().manual_seed(seed))


def test_a_function_guides_at_the_estimate_through_the_network_or_at_x_t(model):
    x_t = images(model)
    step = CHAIN.at(20, like=x_t)

    def log_density(x, step):
        return brightness(x)

    clipped, unclipped = model.denoiser(Y, clip=1.0), model.denoiser(Y, clip=None)
    at_x_0 = guided_at_estimate(clipped, log_density, 2.0)(x_t, step).x0
    through = bounded(guided_through(unclipped, log_density, 2.0), 1.0)(x_t, step).x0
    for function, expected in ((brightness, at_x_0), (at_estimate(brightness), at_x_0), (noisy(brightness), None),
                               (through_network(brightness), through)):  # fmt: skip
        guided = guidance(model, function, function_scale=2.0)
        expected = clipped(x_t, step).x0 if expected is None else expected
        assert torch.equal(guided.denoiser(Y, clip=1.0)(x_t, step).x0, expected)
        is_noisy = isinstance(function, Guide) and function.place == "x_t"
        assert (guided.term(Y) is not None) == is_noisy == bool(guided.log_densities(Y))
        if is_noisy:
            assert torch.equal(guided.term(Y)(x_t, step), score_of(log_density, 2.0)(x_t, step))
            ((density, scale),) = guided.log_densities(Y)
            assert torch.equal(scale * density(x_t, step), 2 * brightness(x_t))


def test_a_function_gets_step_timesteps_labels_and_ids_by_the_names_of_its_parameters(model):
    step, seen = CHAIN.at(20, like=images(model)), []

    def function(x, t, ids, *, y, step, weight=2.0):
        seen.append((t, ids.tolist(), y, step, weight))
        return brightness(x)

    guide_of(noisy(function), {"weight": 3.0}, device="cpu").log_density(Y, IDS)(images(model), step)
    ((t, ids, y, given, weight),) = seen
    assert (ids, weight, given) == (list(IDS), 3.0, step)
    assert t is step.t
    assert y is Y
    with pytest.raises(ValueError, match="function depends on the samples' ids, which were not given"):
        guide_of(function, device="cpu").log_density(Y)


def test_two_functions_of_x_0_guide_by_the_sum_of_their_gradients(model, judge_run):
    clean = CleanClassifierConfig(name=f"classifier:{judge_run}", gradient="x_t", scale=2.0)
    x_t = images(model)
    step, moves = CHAIN.at(20, like=x_t), []
    plain = model.denoiser(Y, clip=None)(x_t, step).x0
    function = through_network(brightness)
    for guided in (guidance(model, clean_classifier=clean), guidance(model, function),
                   guidance(model, function, clean_classifier=clean)):  # fmt: skip
        moves.append(guided.denoiser(Y, clip=None)(x_t, step).x0 - plain)
    torch.testing.assert_close(moves[0] + moves[1], moves[2], rtol=1e-3, atol=1e-4)
    nothing = guidance(model, function, clean_classifier=clean, function_scale=0.0)
    assert torch.equal(nothing.denoiser(Y, clip=None)(x_t, step).x0 - plain, moves[0])


def test_a_function_and_a_class_of_ones_own_file_take_their_options(own, model):
    function = load_guide(f"{own}:bright", {"target": 0.3}, model=model)
    x_0 = images(model)
    values = function.log_density(Y)(x_0, CHAIN.at(0, like=x_0))
    torch.testing.assert_close(values, -50 * (x_0.mean(dim=(1, 2, 3)) - 0.3) ** 2)
    assert function.manifest() == {"code": f"{own}:bright", "evaluated_at": "x_0", "options": {"target": 0.3}}
    by_class = load_guide(f"{own}:Bright", {"target": 0.3}, model=model)
    assert by_class.place == "network"
    assert not by_class.function.training
    assert not any(one.requires_grad for one in by_class.function.parameters())
    again = guide_of(by_class.function, device="cpu").manifest()["sha256"]
    assert by_class.manifest() == {
        "code": f"{own}:Bright", "evaluated_at": "network", "options": {"target": 0.3}, "sha256": again,
    }  # fmt: skip


def mixes(x):
    return x.mean(dim=(1, 2, 3)) - x.mean()


UNFIT = {
    "mixes the images of a batch: the value of one depends on another": mixes,
    r"must give one value for each image, \(4,\), got \(4, 1, 8, 8\)": lambda x: x,
    "got NoneType": lambda x: None,
    r"got \(\); sum over": lambda x: x.mean(),
    "is not differentiable: its values have no gradient": lambda x: (x > 0).float().mean(dim=(1, 2, 3)),
    "guides nothing: its gradient is 0 at all images tried": lambda x: (x.round() + 0 * x).mean(dim=(1, 2, 3)),
    "gives values that are not finite for images": lambda x: x.mean(dim=(1, 2, 3)).log(),
    "has a gradient that is not finite": lambda x: (x * 0).sum(dim=(1, 2, 3)).sqrt(),
    r"fails on images .* \(4, 1, 8, 8\): ZeroDivisionError": lambda x: x.mean(dim=(1, 2, 3)) / (1 // 0),
    "Linear fails on images": nn.Linear(3, 1),
    "function .*<lambda> needs the option target; it takes target": lambda x, target: brightness(x),
    "is int, and no function of images": 3,
}


@pytest.mark.parametrize("message", UNFIT)
def test_a_function_that_cannot_guide_is_refused_before_the_run(model, message):
    with pytest.raises(ValueError, match=message):
        guidance(model, UNFIT[message])


REFUSED: dict[str, tuple[str, dict]] = {
    "has no option radius; it takes target, weight: --guidance.function_options": ("OWN:bright", {"radius": 1}),
    "Bright needs the option target": ("OWN:Bright", {}),
    "gives no function .AttributeError: .*; MODULE must be installed or lie in this directory": ("OWN:dark", {}),
    "no guidance.function brightness; give MODULE:NAME of your own, or .*measurement": ("brightness", {}),
    "OWN:number is int, and no function of images": ("OWN:number", {}),
    "measurement takes one of the options blur, pool, mask; got none of them": ("measurement", {"images": "here"}),
    "pool of guidance.function measurement must divide the 8 pixels .* 3": ("measurement", {"images": "", "pool": 3}),
    "blur of .* is a number above 0; got -1": ("measurement", {"images": "here", "blur": -1}),
    "measurement needs the option images": ("measurement", {"blur": 1}),
    "images of guidance.function measurement is text; got 7; put it in quotes": ("measurement", {"images": 7}),
    "run of guidance.function regression is text; got None": ("regression", {"run": None, "target": 1}),
    "rule of guidance.function measurement is dps or .*; got mps": ("measurement", {"images": "", "rule": "mps"}),
    "measured holds images of 8x8 pixels, but measurements of this operator have 4x4": (
        "measurement", {"images": "measured", "pool": 2},
    ),
}  # fmt: skip


@pytest.mark.parametrize("message", REFUSED)
def test_names_and_options_that_mean_no_function_are_refused(own, model, message):
    name, options = REFUSED[message]
    Path("measured").mkdir()
    Image.fromarray(np.full((8, 8), 99, np.uint8)).save("measured/0.png")
    with pytest.raises(ValueError, match=message.replace("OWN", own)):
        load_guide(name.replace("OWN", own), options, model=model)


def test_options_or_a_scale_without_a_function_are_refused(model):
    for config in ({"function_options": {"target": 1}}, {"function_scale": 2.0}):
        with pytest.raises(ValueError, match="guidance.function has options or a scale, but no function; add"):
            guidance(model, **config)
    with pytest.raises(ValueError, match="guidance.function_scale must be a number between"):
        GuidanceConfig(function_scale=1e9)


def sampled(out: Path, model, *, sampler="ddim", **config):
    options = {"num_samples": 5, "steps": 4, "sampler": sampler, "shard_size": 3, "precision": "float32"} | config
    tiny.generate(tiny.sample_config(out, **options), model)
    return np.concatenate([shard.images for shard in iterate_shards(out)])


@pytest.mark.parametrize("sampler", ["ddpm", "unipc"])
def test_runs_are_guided_and_scale_zero_evaluates_nothing(tmp_path, own, model, sampler):
    by = {"function": f"{own}:bright"}
    plain, guided, nothing = (
        sampled(tmp_path / str(i), model, sampler=sampler, guidance=GuidanceConfig(**config))
        for i, config in enumerate(({}, by, by | {"function_scale": 0.0}))
    )
    assert guided.mean() > plain.mean() + 5
    assert np.array_equal(nothing, plain)


def test_a_run_is_resumed_by_the_same_function_alone_and_does_not_depend_on_its_batches(tmp_path, own, model):
    guiding = GuidanceConfig(function=f"{own}:bright", function_options={"target": 0.3}, function_scale=2.0)
    whole = sampled(tmp_path / "out", model, guidance=guiding, batch_size=5)
    assert read_manifest(tmp_path / "out")["guidance"]["function"]["scale"] == 2.0
    next((tmp_path / "out").glob("shard-00001*")).unlink()
    assert abs(sampled(tmp_path / "out", model, guidance=guiding, batch_size=2).astype(int) - whole).max() <= 1
    for changed in ({"function_options": {"target": 0.4}}, {"function_scale": 3.0}, {"function": f"{own}:Bright"}):
        with pytest.raises(ValueError, match="guidance.function"):
            sampled(tmp_path / "out", model, guidance=replace(guiding, **changed))


def test_a_measurement_guides_sample_i_to_image_i(tmp_path, model, monkeypatch):
    monkeypatch.chdir(tmp_path)
    levels = (40, 210, 90)
    Path("measured").mkdir()
    for i, level in enumerate(levels):
        Image.fromarray(np.full((4, 4), level, np.uint8)).save(f"measured/{i}.png")
    options = {"images": "measured", "pool": 2}
    guiding = GuidanceConfig(function="measurement", function_options=options)
    made = sampled(tmp_path / "out", model, guidance=guiding, steps=10, batch_size=2).mean(axis=(1, 2, 3))
    assert np.abs(made - np.array(levels + levels[:2])).max() < 30
    record = read_manifest(tmp_path / "out")["guidance"]["function"]
    assert (record["code"], record["options"]["pool"], len(record["options"]["images"])) == ("measurement", 2, 64)
    assert "measurement" in GUIDES


def test_a_function_guides_from_python_and_gets_the_labels_asked_for(diffusion_run):
    def to_class(x_0, y):
        return (2 * y - 1) * brightness(x_0)

    pipeline = GuidedDiffusion.load(diffusion_run, function=to_class)
    pictures = pipeline.sample(["light", "dark"] * 3, steps=5, scale=4.0)
    assert pictures[::2].mean() > pictures[1::2].mean() + 10
    with pytest.raises(ValueError, match="scale 4 and guidance.function_scale 2 were given; leave one of them out"):
        pipeline.sample(steps=5, scale=4.0, guidance=GuidanceConfig(function_scale=2.0))
