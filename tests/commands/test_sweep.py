"""The sweep: every combination once, from the same seeds, continued where it stopped, and the best of them by name."""

import json
import os
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny

from guided_diffusion.commands import sweep as sweep_run
from guided_diffusion.commands.sweep import SweepConfig, network_evaluations, sampling_runs, sweep
from guided_diffusion.commands.sweep_report import Outcome, best_of, format_outcomes, write_sweep_report
from guided_diffusion.config import parse
from guided_diffusion.data.formats.samples import iterate_shards
from guided_diffusion.diffusion.chain import sigma
from guided_diffusion.diffusion.model import load_diffusion
from guided_diffusion.evaluation.config import EvaluationConfig
from guided_diffusion.generation import run as generation
from guided_diffusion.generation.config import SampleConfig
from guided_diffusion.guidance.config import (
    AutoguidanceConfig,
    ClassifierFreeConfig,
    CleanClassifierConfig,
    GuidanceConfig,
)
from guided_diffusion.guidance.run import Guidance, load_guidance
from guided_diffusion.samplers import SamplerConfig, make_sampler


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


def test_an_evaluation_against_pictures_that_were_replaced_is_not_taken(config, evaluations, tmp_path):
    own = changed(config, real=tiny.write_class_folder(tmp_path / "real"), samplers=("ddim",))
    sweep(own)
    sweep(own)
    assert len(evaluations) == 1
    shutil.copyfile(own.real / "light" / "000.png", own.real / "dark" / "000.png")
    sweep(own)
    assert len(evaluations) == 2


def test_an_evaluation_that_does_not_say_against_which_files_is_not_taken(config, evaluations):
    few = changed(config, samplers=("ddim",))
    sweep(few)
    path = config.out / "samples" / "ddim-4-scale4" / "evaluation.json"
    record = json.loads(path.read_text())
    del record["protocol"]["real"]["files_sha256"]  # as evaluations were written once
    path.write_text(json.dumps(record))
    sweep(few)
    assert len(evaluations) == 2


def test_an_evaluation_of_samples_that_were_made_again_since_is_not_taken(config, evaluations):
    few = changed(config, samplers=("ddim",))
    sweep(few)
    shard = config.out / "samples" / "ddim-4-scale4" / "shard-00000.npz"
    evaluated = (shard.parent / "evaluation.json").stat().st_mtime_ns
    os.utime(shard, ns=(evaluated, evaluated + 1))  # as of a shard that was rewritten under the same manifest
    sweep(few)
    assert len(evaluations) == 2


@pytest.mark.parametrize(
    "content",
    [
        pytest.param("{", id="cut short"),
        pytest.param("[]", id="no record"),
        pytest.param('{"metrics": {}, "display_names": {}}', id="without a protocol"),
        pytest.param('{"metrics": {}, "display_names": {}, "protocol": {"generated": 1}}', id="of other parts"),
    ],
)
def test_an_evaluation_that_is_damaged_is_made_again(config, evaluations, content):
    few = changed(config, samplers=("ddim",))
    sweep(few)
    (config.out / "samples" / "ddim-4-scale4" / "evaluation.json").write_text(content)
    sweep(few)
    assert len(evaluations) == 2


def test_a_sweep_against_pictures_inside_a_zip_goes_on(config, evaluations, tmp_path, class_folder):
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        for picture in sorted(class_folder.rglob("*.png")):
            archive.write(picture, f"train/{picture.relative_to(class_folder)}")
    own = changed(config, real=tmp_path / "data.zip" / "train", samplers=("ddim",))
    sweep(own)
    sweep(own)
    assert len(evaluations) == 1


def test_all_settings_share_their_seeds(config):
    few = changed(config, samplers=("ddim",), scales=(0.0, 1e-9))
    sweep(few)
    images = [
        np.concatenate([shard.images for shard in iterate_shards(run.out)]) for run in sampling_runs(few)
    ]  # fmt: skip
    assert np.array_equal(*images)


def test_a_real_side_that_cannot_be_is_refused_before_any_samples_are_made(config, tmp_path):
    with pytest.raises(FileNotFoundError, match="there is nothing at .*nowhere"):
        sweep(changed(config, real=tmp_path / "nowhere"))
    np.savez(tmp_path / "large.npz", arr_0=np.zeros((9, 16, 16, 1), np.uint8))
    with pytest.raises(ValueError, match=r"large\.npz holds images of 16x16 pixels where 8x8 were expected"):
        sweep(changed(config, real=tmp_path / "large.npz"))
    np.savez(tmp_path / "published.npz", mu=np.zeros(5), sigma=np.eye(5))
    with pytest.raises(ValueError, match="count as the published 2015 Inception's"):
        sweep(changed(config, real=tmp_path / "published.npz"))
    with pytest.raises(ValueError, match="protocol.image_size 16 was asked for, but .* makes images of 8 pixels"):
        sweep(changed(config, protocol=EvaluationConfig(image_size=16)))
    assert not config.out.exists()


def test_a_samplers_own_options_reach_it_alone(config):
    own = {"eta": 0.5, "snr": 0.1, "langevin_steps": 2, "threshold": 0.995}
    runs = sampling_runs(changed(config, samplers=("ddim", "heun", "langevin"), **own))
    assert [(run.eta, run.snr, run.langevin_steps) for run in runs] == [
        (0.5, None, None),
        (None, None, None),
        (None, 0.1, 2),
    ]
    assert {run.threshold for run in runs} == {0.995}


def test_a_setting_that_cannot_be_is_refused_before_any_is_made(config):
    with pytest.raises(ValueError, match="steps"):
        sweep(changed(config, steps=(4, 51)))
    assert not config.out.exists()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"scales": ()}, "scales are one or more different values, got \\[\\]"),
        ({"steps": (25, 25)}, "steps are one or more different values, got \\[25, 25\\]"),
        ({"eta": 0.5, "samplers": ("heun",)}, "eta 0.5 is for ddim, but the samplers are heun; leave it out"),
        ({"snr": 0.1}, "snr 0.1 is for langevin and predictor_corrector, but the samplers are ddim, heun"),
        ({"num_samples": 3}, "look at 3 neighbours of each sample, so num_samples must be more; got 3"),
        ({"guidance": GuidanceConfig(scale=2.0)}, "takes its scales from --scales, not from guidance.scale; got 2"),
    ],
)
def test_settings_that_make_no_sense_are_refused(config, wrong, message):
    with pytest.raises(ValueError, match=message):
        changed(config, **wrong)


def cost(guidance: Guidance, **sampler) -> int:
    config = SamplerConfig(steps=10, **sampler)
    return network_evaluations(guidance, make_sampler(config), config.levels(tiny.CHAIN))


@pytest.mark.parametrize(
    ("sampler", "asked"),
    [
        ({"name": "ddim"}, 10),
        ({"name": "ddpm"}, 10),
        ({"name": "heun"}, 19),
        ({"name": "unipc"}, 10),
        ({"name": "langevin", "langevin_steps": 3}, 31),
    ],
)
def test_the_cost_of_a_sampler_is_counted(sampler, asked, diffusion_run, classifier_run):
    guidance = load_guidance(GuidanceConfig(), model=load_diffusion(diffusion_run), classifier=classifier_run)
    assert cost(guidance, **sampler) == asked


def test_the_cost_of_guidance_by_denoising_networks_is_counted(diffusion_run, free_run, judge_run):
    # The sampler's calls alone, as once counted here, are 10 in each case.
    free, plain = load_diffusion(free_run), load_diffusion(diffusion_run)
    twice = GuidanceConfig(classifier_free=ClassifierFreeConfig(weight=2.0))
    assert cost(load_guidance(twice, model=free)) == 20
    within = replace(twice, sigma_max=1.0)
    links = SamplerConfig(steps=10).levels(tiny.CHAIN)
    quiet = sum(sigma(float(links.alpha_bar[k])) <= 1.0 for k in range(10))
    assert 0 < quiet < 10
    assert cost(load_guidance(within, model=free)) == 10 + quiet
    weaker = GuidanceConfig(autoguidance=AutoguidanceConfig(model=f"{diffusion_run}:network", weight=2.0))
    assert cost(load_guidance(weaker, model=plain)) == 20
    judge = GuidanceConfig(clean_classifier=CleanClassifierConfig(name=f"classifier:{judge_run}"))
    assert cost(load_guidance(judge, model=plain)) == 10


def test_the_count_without_networks_is_the_runs_own(tmp_path, free_run, monkeypatch):
    model = load_diffusion(free_run)
    config = GuidanceConfig(classifier_free=ClassifierFreeConfig(weight=2.0), sigma_max=1.0)
    run = SampleConfig(out=tmp_path, diffusion=free_run, num_samples=4, steps=10, guidance=config)
    seen = {}
    make_shards = generation.make_shards

    def kept(config, plan, manifest, make_images, evaluations):
        make_shards(config, plan, manifest, make_images, evaluations)
        seen.update(evaluations)

    monkeypatch.setattr(generation, "make_shards", kept)
    generation.generate(run, model, None)
    assert seen == {"network": 4 * cost(load_guidance(config, model=model))}


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
