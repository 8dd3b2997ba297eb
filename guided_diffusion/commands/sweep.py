"""Sweep scales, samplers, options: python scripts/sweep.py --diffusion RUN --classifier RUN --real DIR --out DIR"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..config import run_command, to_plain
from ..data.config import refuse_among
from ..data.formats.samples import MEASURED, complete_shards, read_manifest
from ..diffusion.chain import Step
from ..diffusion.denoiser import Estimate
from ..diffusion.noise import SeededNoise
from ..distributed import free_cached_memory, locked_for_run, this_process
from ..evaluation.config import EvaluationConfig
from ..evaluation.extractors.config import ExtractorConfig
from ..files import write_json
from ..generation.config import SampleSetConfig
from ..generation.run import SamplingRun
from ..samplers import SamplerConfig, SamplerName
from ..samplers.config import OPTIONS, owners
from .sample import SampleConfig, write_samples
from .sweep_settings import checked_axes, loaded_by, naming, sample_configs, write_sample_config

if TYPE_CHECKING:
    from ..evaluation.extractors.features import FeatureExtractor
    from ..evaluation.inputs import RealInput
    from ..evaluation.report import Report
    from ..evaluation.run import MeasuredReal
    from .sweep_report import Outcome

EVALUATION_NAME = "evaluation.json"


@dataclass(frozen=True, kw_only=True)
class SweepConfig(SampleSetConfig):
    """Sample at every combination of scales, samplers, steps and further axes from the same seeds, evaluate, and name
    the best."""

    real: Path
    """Images to compare samples with: folder of pictures, npz batch, or npz of reference statistics."""
    scales: tuple[float, ...] | None = None
    """Guidance scales s of the classifier, in place of guidance.scale; null: 0 1 2 4 8, and none without a
    classifier."""
    samplers: tuple[SamplerName, ...] = (SamplerConfig.name,)
    """Samplers. Their options are those of --sampler, each sampler's own for it alone; options that the default sampler
    does not have need --sampler.name as well."""
    steps: tuple[int | str, ...] = (SamplerConfig.steps,)
    """Numbers of timesteps, or timesteps, in place of sampler.steps."""
    axes: dict[str, list[Any]] = field(default_factory=dict[str, list[Any]])
    """Values of further options of scripts/sample.py, by name: '{weights: [ema_0.999, ema_0.9999], guidance.sigma_max:
    [2, 5, .inf]}'."""
    num_samples: int = 1000
    """Samples of each setting. Few make Fréchet distances larger, of all settings alike."""
    extractor: ExtractorConfig = ExtractorConfig()
    """Network whose features are compared."""
    protocol: EvaluationConfig = EvaluationConfig()
    """Settings of the metrics."""
    write_config: Path | None = None
    """YAML file for scripts/sample.py --config, with the best setting."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("scales", "samplers", "steps"):
            values = getattr(self, name)
            if values is not None and (not values or len(set(values)) < len(values)):
                raise ValueError(f"{name} are one or more different values, got {list(values)}")
        if self.guidance.scale is not None:
            raise ValueError(
                f"a sweep takes its scales from --scales, not from guidance.scale; got {self.guidance.scale:g}"
            )
        self.protocol.check_num_images(self.num_samples, "--num_samples asks for")
        plain = SamplerConfig()
        if self.sampler.steps != plain.steps:
            raise ValueError(f"a sweep takes its steps from --steps, not from sampler.steps; got {self.sampler.steps}")
        if self.sampler.name not in (plain.name, *self.samplers):
            raise ValueError(
                f"a sweep takes its samplers from --samplers, and {self.sampler.name} is not among them; add it, or "
                f"leave out sampler.name"
            )
        for option in OPTIONS:
            given = getattr(self.sampler, option)
            if given is not None and not set(owners(option)) & set(self.samplers):
                raise ValueError(
                    f"{option} {given} is for {' and '.join(owners(option))}, but the samplers are "
                    f"{', '.join(self.samplers)}; leave it out"
                )
        object.__setattr__(self, "axes", checked_axes(self))
        settings = sample_configs(self)
        if all(setting.classifier is None for setting in settings):
            if self.scales is not None:
                raise ValueError("--scales are those of a classifier; add --classifier RUN, or leave them out")
            if len(settings) == 1:
                raise ValueError(
                    "without a classifier there are no scales, and nothing else is swept; add --classifier RUN, or "
                    "give several --samplers, --steps or values of --axes"
                )


def sweep(config: SweepConfig) -> None:
    """Make and evaluate what is missing, write sweep.json and report.html, and print the table and the best.

    An interrupted sweep continues: samples and evaluations of the same weights, data and protocol are kept. Wrong
    settings and real images that cannot be used are refused before any samples are made.
    """
    from ..evaluation.run import cache_directory  # with SciPy, which is slow to import

    refuse_among(config.real, config.out)
    settings = sample_configs(config)
    networks = Networks(tuple(setting.out for setting in settings))
    with naming(settings[0].out):
        networks.run(settings[0])
    evaluator = Evaluator.open(config, networks.run(settings[0]))
    for setting in settings:
        with naming(setting.out):
            networks.run(setting).plan(setting)  # refuses labels before anything is made
    with locked_for_run(config.out, work="sweep"):
        outcomes = [_outcome(networks, setting, evaluator) for setting in settings]
        if this_process().is_main:
            conclude(config, settings, outcomes)
            shutil.rmtree(cache_directory(config.out / EVALUATION_NAME), ignore_errors=True)


@dataclass
class Networks:
    """The networks of one setting at a time, shared with those that load the same ones."""

    directories: tuple[Path, ...]
    """Of all settings' samples."""
    loaded: str = ""
    opened: SamplingRun | None = None

    def run(self, setting: SampleConfig) -> SamplingRun:
        """The run of a setting; networks that it does not need are freed before its own are loaded."""
        if self.opened is None or loaded_by(setting) != self.loaded:
            self.opened = None
            free_cached_memory()
            self.opened, self.loaded = SamplingRun.open(setting, *self.directories), loaded_by(setting)
        return self.opened.reconfigured(setting, setting.guidance)


def _outcome(networks: Networks, setting: SampleConfig, evaluator: "Evaluator") -> "Outcome":
    """Sample at a setting and evaluate, as far as that is not done yet."""
    from .sweep_report import Outcome

    run = networks.run(setting)
    write_samples(run, setting)
    record = evaluator.evaluation(setting.out)
    return Outcome(
        sampler=setting.sampler.name,
        steps=setting.sampler.steps,
        scale=None if setting.classifier is None else setting.guidance.scale,
        axes={name: attrgetter(name)(setting) for name in evaluator.config.axes},
        network_evaluations=network_evaluations(run),
        measured=read_manifest(setting.out).get(MEASURED) or {},
        metrics=record.metrics,
        display_names=record.display_names,
        grid=setting.out / "grid.png",
    )


@dataclass(frozen=True)
class Evaluator:
    """Evaluation of every setting's samples against the same real images."""

    config: SweepConfig
    shape: tuple[int, int, int]
    """(H, W, C) of the samples."""
    extractor: "FeatureExtractor"
    real: "RealInput"

    @classmethod
    def open(cls, config: SweepConfig, run: SamplingRun) -> "Evaluator":
        """Open the extractor and the real images for the samples of a run.

        Raises:
            ValueError: another image size asked for than the model's.
        """
        from ..evaluation.extractors.config import open_extractor
        from ..evaluation.inputs import open_real

        channels, height, width = run.model.image_shape
        if config.protocol.image_size not in (None, height):
            raise ValueError(
                f"protocol.image_size {config.protocol.image_size} was asked for, but {run.model.checkpoint.path} "
                f"makes images of {height} pixels, which are not resized; leave it out"
            )
        extractor, shape = open_extractor(config.extractor, device=run.device), (height, width, channels)
        real = open_real(config.real, shape=shape, extractor=extractor, config=config.protocol)
        return cls(config, shape, extractor, real)

    @cached_property
    def measured(self) -> "MeasuredReal":
        """Statistics of the real images, computed if a setting is not evaluated yet."""
        from ..evaluation.run import cache_directory, measure_real

        cache, protocol = cache_directory(self.config.out / EVALUATION_NAME), self.config.protocol
        return measure_real(self.config.real, shape=self.shape, extractor=self.extractor, config=protocol, cache=cache)

    def evaluation(self, samples: Path) -> "Report":
        """The stored evaluation of a directory of samples if it is still valid, else a new one."""
        from ..evaluation.run import evaluate

        stored = self._stored(samples)
        if stored is not None:
            return stored
        how = {"extractor": self.extractor, "config": self.config.protocol, "out": samples / EVALUATION_NAME}
        return evaluate(generated=samples, real=self.measured, **how)

    def _stored(self, samples: Path) -> "Report | None":
        """The evaluation in a directory of samples, if it is of these samples, by this protocol, against the same
        files; None for one that is older than a shard, damaged, or without these records."""
        from ..evaluation.metrics import RANKING
        from ..evaluation.report import read_report

        path = samples / EVALUATION_NAME
        written = [shard.stat().st_mtime_ns for shard in complete_shards(samples)]
        if not path.is_file() or path.stat().st_mtime_ns < max(written):
            return None
        try:
            report = read_report(path)
            measured = report.protocol
            is_valid = (
                RANKING.key in report.metrics.keys() & report.display_names.keys()
                and measured["generated"]["manifest"] == read_manifest(samples)
                and measured["extractor"]["sha256"] == self.extractor.sha256
                and measured["real"]["path"] == str(self.real.path)
                and measured["real"]["files_sha256"] == self.real.files_sha256
                and measured["settings"] == self.config.protocol.record()
                and (self.real.images is None or measured["real"]["resize"] == self.real.images.resize)
            )
        except (ValueError, KeyError):
            return None
        return report if is_valid else None


def conclude(config: SweepConfig, settings: Sequence[SampleConfig], outcomes: Sequence["Outcome"]) -> None:
    """Write sweep.json, report.html and the config of the best; print the table and the best."""
    from ..evaluation.metrics import RANKING
    from .sweep_report import best_of, format_outcomes, grid_edges, write_sweep_report

    best = best_of(outcomes)
    measure = best.display_names[RANKING.key]
    rows: list[dict[str, Any]] = []
    for outcome in outcomes:
        axes = json.loads(json.dumps(to_plain(outcome.axes)), parse_constant=str)  # JSON has no infinity
        rows.append(to_plain(outcome) | {"axes": axes, "is_best": outcome is best})
    names = {"real": str(config.real), "extractor": config.extractor.name}
    write_json(config.out / "sweep.json", names | {"settings": rows})
    report = write_sweep_report(config.out, outcomes)
    told = "\n".join([f"best by {measure}: {best.name}", *grid_edges(outcomes), f"curves and pictures: {report}"])
    print(f"{format_outcomes(outcomes)}\n\n{told}")
    if config.write_config is not None:
        header = f"The best of a sweep: {measure} {best.rank:.4g}"
        write_sample_config(config.write_config, settings[outcomes.index(best)], header=header)
        print(f"for scripts/sample.py --config: {config.write_config}")


def network_evaluations(run: SamplingRun) -> int:
    """Evaluations of denoising networks for each sample, counted on an image of one pixel without the networks."""
    evaluations: list[int] = []

    def denoiser(x_t: Tensor, step: Step) -> Estimate:
        evaluations.append(run.guidance.network_evaluations(step))
        return Estimate(x0=x_t, log_var=0.0)

    run.sampler(denoiser, run.chain, torch.ones(1, 1, 1, 1), SeededNoise(0, [0]))
    return sum(evaluations) * run.guidance.config.particles


main = partial(run_command, SweepConfig, sweep)
