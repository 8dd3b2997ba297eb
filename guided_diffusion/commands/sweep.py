"""The sweep command: which settings there are, each sampled and evaluated once, and the best of them."""

import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, asdict, dataclass, fields, is_dataclass, replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from classifiers.trained_model import load_classifier

from ..config import run_command, to_plain
from ..data.formats.samples import complete_shards, read_manifest
from ..diffusion.chain import DiffusionChain, Step
from ..diffusion.denoiser import Estimate
from ..diffusion.model import DiffusionModel, load_diffusion
from ..diffusion.noise import SeededNoise
from ..distributed import this_process
from ..evaluation.config import EvaluationConfig
from ..evaluation.extractors.config import ExtractorConfig, open_extractor
from ..evaluation.extractors.features import FeatureExtractor
from ..evaluation.inputs import RealInput, open_real
from ..evaluation.run import MeasuredReal, cache_directory, evaluate, measure_real
from ..files import atomic_write, write_json
from ..generation.config import SampleConfig, sampler_and_chain
from ..generation.run import generate, guidance_of, sample_plan
from ..guidance.config import GuidanceConfig
from ..guidance.run import Guidance
from ..models.precision import Precision
from ..samplers import Sampler, SamplerName
from ..samplers.config import OPTIONS, owners
from ..samplers.ddpm import GradientAt
from .sweep_report import DISTANCE, Outcome, best_of, format_outcomes, write_sweep_report

EVALUATION_NAME = "evaluation.json"
SHARED = (
    "diffusion", "classifier", "num_samples", "labels", "clip", "threshold", "weights", "seed", "precision",
    "batch_size", "cpu_threads", "shard_size",
)  # fmt: skip
"""Fields of `SampleConfig` that are the same in all settings."""


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """Sample at every combination of scales, samplers and steps from the same seeds, evaluate, and name the best."""

    out: Path
    """Directory for the samples of each setting, sweep.json, curves and report.html; it continues what is there."""
    diffusion: Path
    """Run directory or checkpoint of the diffusion model."""
    classifier: Path
    """Run directory or checkpoint of a classifier trained on that model's noise."""
    real: Path
    """What samples are compared with: folder of pictures, npz batch, or npz of reference statistics."""
    scales: tuple[float, ...] = (0.0, 1.0, 2.0, 4.0, 8.0)
    """Guidance scales s."""
    samplers: tuple[SamplerName, ...] = (SampleConfig.sampler,)
    """Samplers, as in scripts/sample.py."""
    steps: tuple[int | str, ...] = (SampleConfig.steps,)
    """Numbers of timesteps, as in scripts/sample.py."""
    eta: float | None = SampleConfig.eta
    """Share of ancestral noise in ddim, 0..1; other samplers go without."""
    snr: float | None = SampleConfig.snr
    """Of langevin and predictor_corrector alone, as in scripts/sample.py."""
    gradient_at: GradientAt | None = SampleConfig.gradient_at
    """Of ddpm alone, as in scripts/sample.py."""
    langevin_steps: int | None = SampleConfig.langevin_steps
    """Of langevin and predictor_corrector alone, as in scripts/sample.py."""
    guidance: GuidanceConfig = GuidanceConfig()
    """All of the guidance but its scale."""
    extractor: ExtractorConfig = ExtractorConfig()
    """Network whose features are compared."""
    protocol: EvaluationConfig = EvaluationConfig()
    """Settings of the metrics."""
    num_samples: int = 1000
    """Samples of each setting. Few make Fréchet distances larger, of all settings alike."""
    labels: int | str = SampleConfig.labels
    """Classes asked for, as in scripts/sample.py."""
    clip: float | None = SampleConfig.clip
    """Estimates of x_0 are clamped to [-clip, clip]; null leaves them."""
    threshold: float | None = SampleConfig.threshold
    """In place of clip, dynamic thresholding by this quantile, as in scripts/sample.py; null: no."""
    weights: str | None = SampleConfig.weights
    """Weights of the checkpoint sampled from; null: its slowest average."""
    seed: int = SampleConfig.seed
    """Of the noise of every sample, the same in all settings."""
    precision: Precision = SampleConfig.precision
    """Of arithmetic inside the networks."""
    batch_size: int = SampleConfig.batch_size
    """Images sampled at a time."""
    cpu_threads: int = SampleConfig.cpu_threads
    """Threads where there is no GPU; another number may change a pixel by one grey level."""
    shard_size: int = SampleConfig.shard_size
    """Images in each file: what an interruption can cost at most, and what several processes share a setting by."""
    write_config: Path | None = None
    """YAML file for scripts/sample.py --config, with the best setting."""

    def __post_init__(self) -> None:
        for name in ("scales", "samplers", "steps"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ValueError(f"{name} are one or more different values, got {list(values)}")
        if self.guidance.scale is not None:
            raise ValueError(
                f"a sweep takes its scales from --scales, not from guidance.scale; got {self.guidance.scale:g}"
            )
        for option in OPTIONS:
            if getattr(self, option) is not None and not set(owners(option)) & set(self.samplers):
                raise ValueError(
                    f"{option} {getattr(self, option)} is for {' and '.join(owners(option))}, but the samplers are "
                    f"{', '.join(self.samplers)}; leave it out"
                )
        self.protocol.check_num_images(self.num_samples, "--num_samples asks for")


def sweep(config: SweepConfig) -> None:
    """Make and evaluate whatever is missing, write sweep.json and report.html, and print the table and the best.

    Settings whose samples and evaluation are there, of the same weights, data and protocol, are taken as they are, so
    an interrupted sweep continues.

    Raises:
        FileNotFoundError, ValueError: as `generate` and `evaluate`; what the settings or the real side have wrong is
            found before any samples are made.
    """
    device = this_process().device
    model = load_diffusion(config.diffusion, weights=config.weights, device=device)
    classifier = load_classifier(config.classifier, device=device)
    extractor = open_extractor(config.extractor, device=device)
    side = _opened_real(config, model, extractor)

    @cache
    def real() -> MeasuredReal:  # once, and only if a setting is not evaluated yet
        return measure_real(
            config.real, shape=_image_shape(model), extractor=extractor, config=config.protocol,
            cache=cache_directory(config.out / EVALUATION_NAME),
        )  # fmt: skip

    runs = sampling_runs(config)
    costs: list[int] = []
    for run in runs:
        sampler, chain = sampler_and_chain(run, model.config.chain)
        guidance = guidance_of(run, model, classifier, Counter())
        sample_plan(run, guidance)
        costs.append(network_evaluations(guidance, sampler, chain))
    outcomes: list[Outcome] = []
    for run, cost in zip(runs, costs, strict=True):
        generate(run, model, classifier)
        record = stored_evaluation(run.out, extractor, real=side, protocol=config.protocol)
        if record is None:
            path = run.out / EVALUATION_NAME
            record = asdict(
                evaluate(generated=run.out, real=real(), extractor=extractor, config=config.protocol, out=path)
            )
        outcomes.append(_outcome(run, record, network_evaluations=cost))
    if this_process().is_main:
        _conclude(config, runs, outcomes)
        shutil.rmtree(cache_directory(config.out / EVALUATION_NAME), ignore_errors=True)


def _opened_real(config: SweepConfig, model: DiffusionModel, extractor: FeatureExtractor) -> RealInput:
    shape = _image_shape(model)
    if config.protocol.image_size not in (None, shape[0]):
        raise ValueError(
            f"protocol.image_size {config.protocol.image_size} was asked for, but {model.checkpoint.path} makes images "
            f"of {shape[0]} pixels, which are not resized; leave it out"
        )
    return open_real(config.real, shape=shape, extractor=extractor, config=config.protocol)


def _image_shape(model: DiffusionModel) -> tuple[int, int, int]:
    channels, height, width = model.image_shape
    return height, width, channels


def _conclude(config: SweepConfig, runs: Sequence[SampleConfig], outcomes: Sequence[Outcome]) -> None:
    best = best_of(outcomes)
    rows = [to_plain(outcome) | {"is_best": outcome is best} for outcome in outcomes]
    record = {"real": str(config.real), "extractor": config.extractor.name, "settings": rows}
    write_json(config.out / "sweep.json", record)
    report = write_sweep_report(config.out, outcomes)
    print(f"{format_outcomes(outcomes)}\n\nbest by {best.distance_name}: {best.name}\ncurves and pictures: {report}")
    if config.write_config is not None:
        write_sample_config(config.write_config, runs[outcomes.index(best)], best)
        print(f"for scripts/sample.py --config: {config.write_config}")


def sampling_runs(config: SweepConfig) -> list[SampleConfig]:
    """The sampling run of each combination, in a directory of its own."""
    shared = {field.name: getattr(config, field.name) for field in fields(SampleConfig) if field.name in SHARED}
    return [
        SampleConfig(
            out=config.out / "samples" / f"{sampler}-{str(steps).replace(',', '_')}-scale{scale:g}",
            sampler=sampler,
            steps=steps,
            guidance=replace(config.guidance, scale=scale),
            **shared,
            **{option: getattr(config, option) for option in OPTIONS if sampler in owners(option)},
        )
        for sampler, steps, scale in product(config.samplers, config.steps, config.scales)
    ]


def network_evaluations(guidance: Guidance, sampler: Sampler, chain: DiffusionChain) -> int:
    """How often a run asks denoising networks for each sample: counted, on an image of one pixel."""
    evaluations: list[int] = []

    def denoiser(x_t: Tensor, step: Step) -> Estimate:
        evaluations.append(guidance.network_evaluations(step))
        return Estimate(x_t, step.log_var_max)

    sampler(denoiser, chain, torch.ones(1, 1, 1, 1), SeededNoise(0, [0]))
    return sum(evaluations)


def stored_evaluation(
    samples: Path, extractor: FeatureExtractor, *, real: RealInput, protocol: EvaluationConfig
) -> Mapping[str, Any] | None:
    """The evaluation that lies in a directory of samples, if it is of these samples and this protocol, against the same
    files; None for one that is older than a shard, that is damaged, or that does not say these things."""
    path = samples / EVALUATION_NAME
    written = [shard.stat().st_mtime_ns for shard in complete_shards(samples)]
    if not path.is_file() or path.stat().st_mtime_ns < max(written):
        return None
    try:
        record = json.loads(path.read_text())
        measured = record["protocol"]
        current = (
            {"metrics", "display_names"} <= record.keys()
            and measured["generated"]["manifest"] == read_manifest(samples)
            and measured["extractor"]["sha256"] == extractor.sha256
            and measured["real"]["path"] == str(real.path)
            and measured["real"]["files_sha256"] == real.files_sha256
            and measured["settings"] == asdict(protocol)
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return record if current else None


def write_sample_config(path: Path, run: SampleConfig, best: Outcome) -> None:
    """Write a run for scripts/sample.py --config, all but where its samples go; what is left out is at its default."""
    lines = [
        f"# The best of a sweep: {best.distance_name} {best.metrics[DISTANCE]:.4g}",
        f"#   python scripts/sample.py --config {path} --out runs/samples",
    ]
    chosen = {"diffusion": str(run.diffusion), "classifier": str(run.classifier), "sampler": run.sampler}
    values = chosen | {"steps": run.steps, "seed": run.seed} | _unlike_defaults(run)
    # A JSON value is a YAML value too.
    lines += [f"{name}: {json.dumps(value)}" for name, value in values.items() if name != "out"]
    with atomic_write(path) as file:
        file.write("\n".join([*lines, ""]).encode())


def _unlike_defaults(config: Any) -> dict[str, Any]:  # any config, and those within it
    """Plain values of the fields that are not at their defaults."""
    values = {field.name: getattr(config, field.name) for field in fields(config)}
    changed = {field.name for field in fields(config) if values[field.name] != _default(field)}
    return {
        name: _unlike_defaults(value) if is_dataclass(value) else to_plain(value)
        for name, value in values.items()
        if name in changed
    }


def _default(field: Field[Any]) -> Any:  # of any type
    return field.default if field.default_factory is MISSING else field.default_factory()


def _outcome(run: SampleConfig, record: Mapping[str, Any], *, network_evaluations: int) -> Outcome:
    return Outcome(
        sampler=run.sampler,
        steps=run.steps,
        scale=run.guidance.scale or 0.0,
        network_evaluations=network_evaluations,
        metrics=record["metrics"],
        display_names=record["display_names"],
        grid=run.out / "grid.png",
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; argv: None takes the process's own arguments."""
    run_command(SweepConfig, sweep, argv)
