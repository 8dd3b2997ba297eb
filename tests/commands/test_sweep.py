"""The sweep: every combination once, from the same seeds, continued where it stopped, and the best of them by name."""

import json
import os
import shutil
import zipfile
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import tiny

from guided_diffusion.commands import sweep_report
from guided_diffusion.commands.sample import SampleConfig, sample
from guided_diffusion.commands.sweep import SweepConfig, sweep
from guided_diffusion.commands.sweep_settings import sample_configs
from guided_diffusion.config import parse
from guided_diffusion.data.formats.samples import iterate_shards
from guided_diffusion.evaluation import run as evaluation
from guided_diffusion.evaluation.config import EvaluationConfig
from guided_diffusion.evaluation.extractors.config import ExtractorConfig
from guided_diffusion.guidance.config import (
    CleanClassifierConfig,
    GuidanceConfig,
)


def sweep_config(out: Path, diffusion: Path, classifier: Path, judge: Path, real: Path, **options) -> SweepConfig:
    few = {"scales": (4.0,), "samplers": ("ddim", "heun"), "steps": (4,), "num_samples": 8}
    extractor = ExtractorConfig(name=f"classifier:{judge}")
    return SweepConfig(
        out=out, diffusion=diffusion, classifier=classifier, real=real, extractor=extractor, **(few | options)
    )


@pytest.fixture
def config(tmp_path, diffusion_run, classifier_run, judge_run, class_folder) -> SweepConfig:
    out, best = tmp_path / "sweep", tmp_path / "best.yaml"
    return sweep_config(out, diffusion_run, classifier_run, judge_run, class_folder, write_config=best)


def changed(config: SweepConfig, **values) -> SweepConfig:
    return SweepConfig(**(vars(config) | values))


@pytest.fixture
def evaluations(monkeypatch) -> list[Path]:
    """The directories that are evaluated, in order."""
    seen: list[Path] = []
    evaluate = evaluation.evaluate

    def counted(*, generated: Path, **rest):
        seen.append(generated)
        return evaluate(generated=generated, **rest)

    monkeypatch.setattr(evaluation, "evaluate", counted)
    return seen


@pytest.fixture
def without_pictures(monkeypatch) -> None:
    """No figures nor page, which take most of the time of a finished sweep, for tests of what comes before."""
    monkeypatch.setattr(sweep_report, "write_sweep_report", lambda out, _: out / "report.html")


@pytest.fixture(scope="module")
def done(tmp_path_factory, diffusion_run, classifier_run, judge_run, class_folder) -> Path:
    """Directory of a finished sweep of one setting. Nobody changes what is in it."""
    out = tmp_path_factory.mktemp("done") / "sweep"
    sweep(sweep_config(out, diffusion_run, classifier_run, judge_run, class_folder, samplers=("ddim",)))
    return out


@pytest.fixture
def few(config, done) -> SweepConfig:
    """A sweep of one setting, finished."""
    shutil.copytree(done, config.out)
    return changed(config, samplers=("ddim",))


def test_every_combination_is_made_and_evaluated_and_the_best_is_written_down(config, evaluations, capsys):
    sweep(config)
    assert [path.name for path in evaluations] == ["ddim-4-scale4", "heun-4-scale4"]
    settings = json.loads((config.out / "sweep.json").read_text())["settings"]
    assert [(s["sampler"], s["scale"], s["network_evaluations"]) for s in settings] == [
        ("ddim", 4.0, 4), ("heun", 4.0, 7),
    ]  # fmt: skip
    assert settings[0]["measured"]["nats"] > 0
    best = min(settings, key=lambda setting: setting["metrics"]["frechet_distance"])
    assert [setting["is_best"] for setting in settings] == [setting is best for setting in settings]
    assert f"best by FD-8: {best['sampler']}, 4 steps, s = {best['scale']:g}" in capsys.readouterr().out
    read = parse(SampleConfig, ["--config", str(config.write_config), "--out", "x"])
    assert (read.sampler.name, read.sampler.steps, read.guidance.scale) == (best["sampler"], 4, best["scale"])
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


@pytest.mark.usefixtures("without_pictures")
def test_an_evaluation_under_another_protocol_is_not_taken(few, evaluations):
    sweep(few)
    assert not evaluations
    sweep(changed(few, protocol=EvaluationConfig(neighbours=2)))
    assert len(evaluations) == 1


@pytest.mark.usefixtures("without_pictures")
def test_an_evaluation_against_pictures_that_were_replaced_is_not_taken(config, evaluations, tmp_path):
    own = changed(config, real=tiny.write_class_folder(tmp_path / "real"), samplers=("ddim",))
    sweep(own)
    sweep(own)
    assert len(evaluations) == 1
    shutil.copyfile(own.real / "light" / "000.png", own.real / "dark" / "000.png")
    sweep(own)
    assert len(evaluations) == 2


@pytest.mark.usefixtures("without_pictures")
def test_an_evaluation_that_does_not_say_against_which_files_is_not_taken(few, evaluations):
    path = few.out / "samples" / "ddim-4-scale4" / "evaluation.json"
    record = json.loads(path.read_text())
    del record["protocol"]["real"]["files_sha256"]  # as evaluations were written once
    path.write_text(json.dumps(record))
    sweep(few)
    assert len(evaluations) == 1


@pytest.mark.usefixtures("without_pictures")
def test_an_evaluation_of_samples_that_were_made_again_since_is_not_taken(few, evaluations):
    shard = few.out / "samples" / "ddim-4-scale4" / "shard-00000.npz"
    evaluated = (shard.parent / "evaluation.json").stat().st_mtime_ns
    os.utime(shard, ns=(evaluated, evaluated + 1))  # as of a shard that was rewritten under the same manifest
    sweep(few)
    assert len(evaluations) == 1


@pytest.mark.usefixtures("without_pictures")
@pytest.mark.parametrize(
    "content",
    [
        pytest.param("{", id="cut short"),
        pytest.param("[]", id="no record"),
        pytest.param('{"metrics": {}, "display_names": {}}', id="without a protocol"),
        pytest.param("without its metrics", id="without metrics"),
        pytest.param('{"metrics": {}, "display_names": {}, "protocol": {"generated": 1}}', id="of other parts"),
    ],
)
def test_an_evaluation_that_is_damaged_is_made_again(few, evaluations, content):
    path = few.out / "samples" / "ddim-4-scale4" / "evaluation.json"
    if content == "without its metrics":
        content = json.dumps(json.loads(path.read_text()) | {"metrics": {}})
    path.write_text(content)
    sweep(few)
    assert len(evaluations) == 1


def test_names_in_a_stored_evaluation_are_text_on_the_page(few, evaluations):
    path = few.out / "samples" / "ddim-4-scale4" / "evaluation.json"
    record = json.loads(path.read_text())
    names = {key: f"<script>{name}" for key, name in record["display_names"].items()}
    path.write_text(json.dumps(record | {"display_names": names}))
    sweep(few)
    assert evaluations == []
    page = (few.out / "report.html").read_text()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


@pytest.mark.usefixtures("without_pictures")
def test_a_sweep_against_pictures_inside_a_zip_goes_on(config, evaluations, tmp_path, class_folder):
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        for picture in sorted(class_folder.rglob("*.png")):
            archive.write(picture, f"train/{picture.relative_to(class_folder)}")
    own = changed(config, real=tmp_path / "data.zip" / "train", samplers=("ddim",))
    sweep(own)
    sweep(own)
    assert len(evaluations) == 1


@pytest.mark.usefixtures("without_pictures")
def test_all_settings_share_their_seeds(config):
    few = changed(config, samplers=("ddim",), scales=(0.0, 1e-9))
    sweep(few)
    assert np.array_equal(*(_pixels(run.out) for run in sample_configs(few)))


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


def test_a_setting_that_cannot_be_is_refused_before_any_is_made(config):
    with pytest.raises(ValueError, match="steps"):
        sweep(changed(config, steps=(4, 51)))
    assert not config.out.exists()


@pytest.mark.usefixtures("without_pictures")
def test_without_a_classifier_other_options_are_swept_and_each_setting_samples_as_sample_does(
    config, judge_run, capsys
):
    # The networks of a setting are loaded when their turn comes; those that are there already may be another's.
    clean = GuidanceConfig(clean_classifier=CleanClassifierConfig(name=f"classifier:{judge_run}"))
    axes = {"guidance.clean_classifier.gradient": ["x_0", "x_t"], "weights": [None, "network"]}
    few = changed(config, classifier=None, scales=None, samplers=("ddim",), steps=(2,), guidance=clean, axes=axes)
    sweep(few)
    settings = json.loads((few.out / "sweep.json").read_text())["settings"]
    assert [(s["scale"], s["axes"]["guidance.clean_classifier.gradient"], s["axes"]["weights"]) for s in settings] == [
        (None, "x_0", None), (None, "x_0", "network"), (None, "x_t", None), (None, "x_t", "network"),
    ]  # fmt: skip
    made = [_pixels(setting.out) for setting in sample_configs(few)]
    assert all((one != other).any() for one, other in combinations(made, 2))
    for setting, pixels in zip(sample_configs(few), made, strict=True):
        shutil.rmtree(setting.out)
        sample(setting)
        assert np.array_equal(_pixels(setting.out), pixels)
    printed = capsys.readouterr().out
    assert "clean_classifier.gradient  weights  evaluations" in printed
    assert "s = " not in printed


@pytest.mark.usefixtures("without_pictures")
def test_an_infinite_value_is_a_text_in_the_record(few):
    sweep(changed(few, axes={"guidance.sigma_max": [float("inf")]}))
    (setting,) = json.loads((few.out / "sweep.json").read_text())["settings"]
    assert setting["axes"] == {"guidance.sigma_max": "Infinity"}


def _pixels(samples: Path) -> np.ndarray:
    return np.concatenate([shard.images for shard in iterate_shards(samples)])
