"""The settings of a sweep: combinations of its axes, what is refused of them, and the written config of one."""

from dataclasses import replace
from pathlib import Path

import pytest

from guided_diffusion.commands.sample import SampleConfig
from guided_diffusion.commands.sweep import SweepConfig
from guided_diffusion.commands.sweep_settings import sample_configs, write_sample_config
from guided_diffusion.config import parse
from guided_diffusion.guidance.config import GuidanceConfig
from guided_diffusion.samplers import SamplerConfig


@pytest.fixture
def config(tmp_path) -> SweepConfig:
    """A sweep of runs that are not there: nothing is loaded to combine settings."""
    return SweepConfig(
        out=tmp_path / "sweep", diffusion=Path("runs/diffusion"), classifier=Path("runs/classifier"),
        real=Path("pictures"), scales=(4.0,), samplers=("ddim", "heun"), steps=(4,), num_samples=8,
        write_config=tmp_path / "best.yaml",
    )  # fmt: skip


def changed(config: SweepConfig, **values) -> SweepConfig:
    return SweepConfig(**(vars(config) | values))


def test_a_samplers_own_options_reach_it_alone(config):
    own = SamplerConfig(name="langevin", snr=0.1, langevin_steps=2, threshold=0.995)
    runs = sample_configs(changed(config, samplers=("ddim", "langevin"), sampler=own))
    assert [run.sampler for run in runs] == [
        SamplerConfig(name="ddim", steps=4, threshold=0.995),
        replace(own, steps=4),
    ]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"scales": ()}, "scales are one or more different values, got \\[\\]"),
        ({"steps": (25, 25)}, "steps are one or more different values, got \\[25, 25\\]"),
        (
            {"sampler": SamplerConfig(eta=0.5), "samplers": ("heun",)},
            "eta 0.5 is for ddim, but the samplers are heun; leave it out",
        ),
        ({"sampler": SamplerConfig(name="langevin", snr=0.1)}, "from --samplers, and langevin is not among them"),
        ({"sampler": SamplerConfig(steps=4)}, "takes its steps from --steps, not from sampler.steps; got 4"),
        ({"classifier": None}, "--scales are those of a classifier; add --classifier RUN, or leave them out"),
        (
            {"classifier": None, "scales": None, "samplers": ("ddim",)},
            "without a classifier there are no scales, and nothing else is swept; add --classifier RUN, or give",
        ),
        ({"axes": {"guidance.sigmamax": [1]}}, "axes: there is no option guidance.sigmamax; did you mean guidance.sig"),
        ({"axes": {"guidance.sigma_max": [1, "a"]}}, "axes: guidance.sigma_max takes a number; got a"),
        ({"axes": {"guidance.score": ["plan"]}}, "axes: guidance.score takes plain, .*; got plan"),
        ({"axes": {"weights": [1]}}, "axes: weights takes a text or null; got 1"),
        ({"axes": {"weights": []}}, "axes: weights takes one or more different values, got \\[\\]"),
        ({"axes": {"seed": [1, 1]}}, "axes: seed takes one or more different values, got \\[1, 1\\]"),
        ({"axes": {"guidance": ["plain"]}}, "axes: guidance is a group of options; name one of them"),
        ({"axes": {"sampler.steps": [5]}}, "axes has sampler.steps, which --steps sweeps; give its values there"),
        ({"axes": {"num_samples": [5]}}, "axes has num_samples, which all settings of a sweep share; leave it out"),
        ({"axes": {"weights": ["network"]}, "weights": "ema_0.9"}, "weights from axes, and ema_0.9 is not among them"),
        ({"axes": {"sampler.eta": [0.5]}}, "setting heun-4-scale4-eta=0.5: sampler.eta 0.5 was given to heun"),
        (
            {"axes": {"guidance.sigma_min": [0, 3], "guidance.sigma_max": [2, 5]}},
            "setting ddim-4-scale4-sigma_max=2-sigma_min=3: guidance acts where guidance.sigma_min < sigma",
        ),
        ({"num_samples": 3}, "--num_samples asks for 3 images, but precision and recall look at 3 neighbours of each"),
        ({"guidance": GuidanceConfig(scale=2.0)}, "takes its scales from --scales, not from guidance.scale; got 2"),
    ],
)
def test_settings_that_make_no_sense_are_refused(config, wrong, message):
    with pytest.raises(ValueError, match=message):
        changed(config, **wrong)


KINDS_OF_AXES = {
    "weights": ["ema_0.9", "network"],
    "classifier": [None, "runs/the other one"],
    "labels": ["all", 1],
    "seed": [0, 1],
    "precision": ["auto", "float32"],
    "guidance.score": ["plain", "entropy_scaled"],
    "guidance.sigma_min": [0, 0.5],
    "guidance.sigma_max": [2, float("inf")],
    "guidance.class_scales": [{}, {"dark": 2.0}],
    "guidance.further": [{}, {"runs/more": 0.5}],
    "guidance.classifier_free.weight": [None, 1.5],
    "guidance.clean_classifier.name": ["classifier:runs/judge"],
    "guidance.clean_classifier.gradient": ["x_0", "x_t"],
    "sampler.eta": [0, 0.5],
    "sampler.clip": [1.0, None, 2.5],
    "sampler.threshold": [None, 0.995],
}


@pytest.mark.parametrize(("option", "values"), KINDS_OF_AXES.items(), ids=str)
def test_the_written_config_of_any_axis_is_its_setting(config, option, values):
    classifier = None if option == "classifier" else config.classifier
    settings = sample_configs(changed(config, classifier=classifier, samplers=("ddim",), axes={option: values}))
    assert len({setting.out for setting in settings}) == len(settings) == len(values)
    for setting in settings:
        write_sample_config(config.write_config, setting, header="best")
        assert parse(SampleConfig, ["--config", str(config.write_config), "--out", str(setting.out)]) == setting


def test_axes_are_combined_in_directories_of_readable_names(config):
    axes = {"weights": [None, "network"], "guidance.sigma_max": [2, float("inf")]}
    settings = sample_configs(changed(config, samplers=("ddim",), axes=axes))
    assert [(s.out.name, s.weights, s.guidance.sigma_max, s.guidance.scale) for s in settings] == [
        ("ddim-4-scale4-sigma_max=2", None, 2.0, 4.0),
        ("ddim-4-scale4", None, float("inf"), 4.0),  # that of a sweep without these axes
        ("ddim-4-scale4-sigma_max=2-weights=network", "network", 2.0, 4.0),
        ("ddim-4-scale4-weights=network", "network", float("inf"), 4.0),
    ]
    paths = {"classifier": ["a/b", "a b"]}
    one, other = sample_configs(changed(config, classifier=None, samplers=("ddim",), axes=paths))
    assert one.out.name != other.out.name
    assert one.out.parent == other.out.parent == config.out / "samples"


def test_settings_that_load_the_same_networks_follow_one_another(config):
    axes = {"guidance.sigma_max": [2, 5], "weights": ["ema_0.9", "network"]}
    settings = sample_configs(changed(config, samplers=("ddim",), axes=axes))
    assert [setting.weights for setting in settings] == ["ema_0.9", "ema_0.9", "network", "network"]
