"""The sweep: every combination once, from the same seeds, continued where it stopped, and the best of them by name."""

import json
from pathlib import Path

import numpy as np
import pytest

from guided_diffusion.config import parse
from guided_diffusion.data.shards import iterate_shards
from guided_diffusion.evaluation.run import EvaluationConfig
from guided_diffusion.generation.config import SampleConfig
from guided_diffusion.guide import GuidanceConfig
from guided_diffusion.sampling import SamplerConfig, make_sampler
from guided_diffusion.schedules import ChainConfig
from guided_diffusion.sweep import run as sweep_run
from guided_diffusion.sweep.report import Outcome, best_of, format_outcomes, write_sweep_report
from guided_diffusion.sweep.run import SweepConfig, network_evaluations, sampling_runs, sweep


@pytest.fixture
def config(tmp_path, diffusion_run, classifier_run, judge_run, class_folder) -> SweepConfig:
    return SweepConfig(
        out=tmp_path / "sweep", diffusion=diffusion_run, classifier=classifier_run, real=class_folder,
        extractor=f"classifier:{judge_run}", scales=(4.0,), samplers=("ddim", "heun"), steps=(4,), num_samples=8,
        write_config=tmp_path / "best.yaml",
    )  # fmt: skip


def changed(config: SweepConfig, **values) -> SweepConfig:
    return SweepConfig(**(vars(config) | values))


@pytest.fixture
def evaluations(monkeypatch) -> list[Path]:
    """The directories that are evaluated, in order."""
    seen: list[Path] = []
    evaluate = sweep_run.evaluate

    def counted(*, generated: Path, **rest):
        seen.append(generated)
        return evaluate(generated=generated, **rest)

    monkeypatch.setattr(sweep_run, "evaluate", counted)
    return seen


def test_every_combination_is_made_and_evaluated_and_the_best_is_written_down(config, evaluations, capsys):
    sweep(config)
    assert [path.name for path in evaluations] == ["ddim-4-scale4", "heun-4-scale4"]
    settings = json.loads((config.out / "sweep.json").read_text())["settings"]
    assert [(s["sampler"], s["scale"], s["network_evaluations"]) for s in settings] == [
        ("ddim", 4.0, 4), ("heun", 4.0, 7),
    ]  # fmt: skip
    best = min(settings, key=lambda setting: setting["metrics"]["frechet_distance"])
    assert [setting["is_best"] for setting in settings] == [setting is best for setting in settings]
    assert f"best by FD-8: {best['sampler']}, 4 steps, s = {best['scale']:g}" in capsys.readouterr().out
    read = parse(SampleConfig, ["--config", str(config.write_config), "--out", "x"])
    assert (read.sampler, read.steps, read.guidance.scale) == (best["sampler"], 4, best["scale"])
    assert (read.diffusion, read.classifier, read.num_samples) == (config.diffusion, config.classifier, 8)


def test_what_is_there_is_not_made_again_but_what_is_missing_is(config, evaluations):
    sweep(config)
    evaluations.clear()
    samples = config.out / "samples"
    kept = (samples / "ddim-4-scale4" / "shard-00000.npz").stat().st_mtime_ns
    (samples / "heun-4-scale4" / "evaluation.json").unlink()  # killed while that was measured
    (config.out / "report.html").unlink()
    sweep(config)
    assert [path.name for path in evaluations] == ["heun-4-scale4"]
    assert (samples / "ddim-4-scale4" / "shard-00000.npz").stat().st_mtime_ns == kept
    assert (config.out / "report.html").is_file()


def test_an_evaluation_under_another_protocol_is_not_taken(config, evaluations):
    sweep(config)
    evaluations.clear()
    sweep(changed(config, protocol=EvaluationConfig(neighbours=2)))
    assert len(evaluations) == 2


def test_all_settings_share_their_seeds(config):
    few = changed(config, samplers=("ddim",), scales=(0.0, 1e-9))
    sweep(few)
    images = [
        np.concatenate([shard.images for shard in iterate_shards(run.out)]) for run in sampling_runs(few)
    ]  # fmt: skip
    assert np.array_equal(*images)


def test_a_setting_that_cannot_be_is_refused_before_any_is_made(config):
    with pytest.raises(ValueError, match="steps"):
        sweep(changed(config, steps=(4, 51)))
    assert not config.out.exists()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"scales": ()}, "scales are one or more different values, got \\[\\]"),
        ({"steps": (25, 25)}, "steps are one or more different values, got \\[25, 25\\]"),
        ({"guidance": GuidanceConfig(scale=2.0)}, "takes its scales from --scales, not from guidance.scale; got 2"),
    ],
)
def test_settings_that_make_no_sense_are_refused(config, wrong, message):
    with pytest.raises(ValueError, match=message):
        changed(config, **wrong)


@pytest.mark.parametrize(("name", "asked"), [("ddim", 10), ("ddpm", 10), ("heun", 19), ("unipc", 10)])
def test_the_cost_of_a_sampler_is_counted(name, asked):
    config = SamplerConfig(name=name, steps=10)
    levels = config.levels(ChainConfig(schedule="linear", num_steps=1000))
    assert network_evaluations(make_sampler(config), levels) == asked


def outcome(scale: float, distance: float, grid: Path, **changes) -> Outcome:
    names = {"frechet_distance": "FD-9", "accuracy": "accuracy"}
    plain = {"sampler": "ddim", "steps": 5, "network_evaluations": 5, "grid": grid, "display_names": names}
    return Outcome(scale=scale, metrics={"frechet_distance": distance, "accuracy": 0.5}, **(plain | changes))


def test_the_report_shows_the_best_and_its_pictures(tmp_path):
    (tmp_path / "grid.png").write_bytes(b"picture")
    grid = tmp_path / "grid.png"
    outcomes = [outcome(0, 3.0, grid), outcome(2, 1.5, grid), outcome(2, 2.0, grid, sampler="<heun>")]
    assert best_of(outcomes) is outcomes[1]
    starred = [line for line in format_outcomes(outcomes).splitlines() if line.startswith("*")]
    assert len(starred) == 1
    assert "1.500" in starred[0]
    page = write_sweep_report(tmp_path, outcomes).read_text()
    assert "ddim, 5 steps, s = 2" in page
    assert page.count("<figcaption>") == 2
    assert "&lt;heun&gt;" in page
    assert "<heun>" not in page
    assert {"scales.png", "cost.png"} <= {file.name for file in tmp_path.iterdir()}
