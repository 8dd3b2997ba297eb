"""The demonstration's own parts: the data it writes, the jobs it runs, the report. Commands have their own tests."""

import importlib
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import tiny
from PIL import Image

from guided_diffusion.commands.demo import DemoConfig, Job, demo_stages, run_demo, run_stage, training_progress
from guided_diffusion.commands.demo_report import write_demo_report
from guided_diffusion.commands.make_digits import DigitsConfig, write_digits
from guided_diffusion.commands.sweep_report import Outcome
from guided_diffusion.config import parse

METRICS = {"frechet_distance": 1.25, "precision": 0.5, "recall": 0.75, "accuracy": 1.0}


def test_every_scan_is_written_once_and_every_fifth_is_held_out(tmp_path):
    from sklearn.datasets import load_digits

    write_digits(DigitsConfig(out=tmp_path / "digits"))
    files = sorted((tmp_path / "digits").glob("*/*/*.png"), key=lambda file: file.stem)
    assert [int(file.stem) for file in files] == list(range(1797))
    scans, labels = load_digits(return_X_y=True)
    assert [int(file.parent.name) for file in files] == labels.tolist()
    pixels = np.stack([np.asarray(Image.open(file)) for file in files]).reshape(1797, 64)
    assert np.abs(pixels / 255 - scans / 16).max() <= 0.5 / 255 + 1e-9
    held_out = sum(file.parts[-3] == "test" for file in files)
    assert held_out == sum(-(-count // 5) for count in np.bincount(labels))


def test_digits_that_are_there_are_left_alone_and_other_folders_refused(tmp_path):
    config = DigitsConfig(out=tmp_path / "digits")
    write_digits(config)
    written = (tmp_path / "digits" / "train").stat().st_mtime_ns
    write_digits(config)
    assert (tmp_path / "digits" / "train").stat().st_mtime_ns == written
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="is there, but holds 0 of 1797 scans"):
        write_digits(DigitsConfig(out=tmp_path / "empty"))
    with pytest.raises(ValueError, match="test_every is at least 2"):
        DigitsConfig(out=tmp_path / "none", test_every=1)


def test_every_command_of_the_demonstration_has_the_options_it_is_given(monkeypatch):
    monkeypatch.chdir(tiny.REPOSITORY)
    commands = [c for jobs in demo_stages(DemoConfig(out=Path("a b"))).values() for job in jobs for c in job.commands]
    for script, *options in map(shlex.split, commands):
        module = importlib.import_module(f"guided_diffusion.commands.{Path(script).stem}")
        parse(module.main.args[0], options)
    assert len(commands) == 6 + 2 * (2 * 5 + 2)


def test_a_running_training_shows_its_loss_and_the_time_left(tmp_path):
    config = tmp_path / "a.yaml"
    config.write_text("training: {iterations: 1800, batch: {size: 64}}")
    job = Job("diffusion", (f"scripts/train_diffusion.py --config {config}",), trains=tmp_path)
    assert training_progress(job) is None
    line = '{"iteration": 600, "loss": 0.1514, "images_per_second": 640.0}\n'
    (tmp_path / "metrics.jsonl").write_text(line + '{"iteration": 600, "observed": true}\n{"iter')
    assert training_progress(job) == "diffusion 600/1800, loss 0.151, 02:00 left"
    assert training_progress(Job("floor", ("scripts/evaluate.py",))) is None


def test_the_report_holds_every_number_picture_and_command(tmp_path):
    table = write_demo_report(tmp_path, _outcomes(tmp_path), commands=["scripts/sample.py --out 'a b'"])
    page = (tmp_path / "report.html").read_text()
    assert "python scripts/sample.py --out &#39;a b&#39;" in page
    assert page.count("<figure>") == 4
    assert page.count("data:image/png;base64,") == 4 + 2
    assert "97.5% of held-out real digits" in page
    assert len(re.findall(r"<tr>", page)) == 1 + 4 + 1
    rows = [line.split() for line in table.splitlines()]
    assert rows[0] == ["sampler", "s", "FD", "sFD", "IS-like", "precision", "recall", "accuracy"]
    assert rows[1] == ["ddim", "0", "1.250", "0.500", "0.750", "1.000"]
    assert rows[-1][:3] == ["held-out", "real", "1.250"]


def test_a_job_runs_its_commands_in_order_and_keeps_their_output(tmp_path):
    run_stage("twice", [Job("twice", ("-c \"print('one')\"", "-c \"print('two')\""))], logs=tmp_path)
    lines = (tmp_path / "twice.log").read_text().splitlines()
    assert [line for line in lines if not line.startswith("$")] == ["one", "two"]


def test_a_job_waits_for_the_first_checkpoint_of_another(tmp_path):
    checkpoint = tmp_path / "checkpoint-0000001"
    making = Job("making", (f"-c \"import os, time; time.sleep(0.5); os.mkdir('{checkpoint}')\"",))
    reading = Job("reading", (f"-c \"import os; print(os.listdir('{checkpoint}'))\"",), after=tmp_path)
    run_stage("both", [making, reading], logs=tmp_path)
    assert (tmp_path / "reading.log").read_text().splitlines()[-1] == "[]"


def test_a_failing_command_ends_the_stage_at_once_with_the_end_of_its_output(tmp_path):
    never = tmp_path / "never"
    failing = Job("bad", ("-c \"import sys; print('what went wrong'); sys.exit(3)\"", f"-c \"open('{never}', 'w')\""))
    endless = Job("endless", ('-c "import time; time.sleep(600)"',))
    with pytest.raises(ValueError, match="failed with status 3; (?s:.*)what went wrong"):
        run_stage("both", [failing, endless], logs=tmp_path)
    assert not never.exists()


def test_a_training_that_was_stopped_is_not_used(tmp_path):
    checkpoint = tmp_path / "checkpoint-0000007"
    checkpoint.mkdir()
    record = {"iteration": 7, "run": {"training": {"iterations": 9}}}
    (checkpoint / "config.json").write_text(json.dumps(record))
    training = Job("train", ("-c pass",), trains=tmp_path)
    with pytest.raises(ValueError, match="was stopped at iteration 7 of 9; the same command continues"):
        run_stage("training", [training], logs=tmp_path)
    (checkpoint / "config.json").write_text(json.dumps(record | {"iteration": 9}))
    run_stage("training", [training], logs=tmp_path)


def test_the_demonstration_says_where_it_must_be_started(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="start it where they are"):
        run_demo(DemoConfig(out=tmp_path / "demo"))
    assert not (tmp_path / "demo").exists()


def _outcomes(out: Path) -> list[Outcome]:
    """Two samplers at two scales, and the records that the commands leave beside them."""
    (out / "floor.json").write_text(json.dumps({"metrics": METRICS}))
    levels = [{"t": 0, "accuracy": 1.0}, {"t": 999, "accuracy": 0.1}]
    (out / "classifier_levels.json").write_text(json.dumps({"num_images": 5, "chance": 0.1, "levels": levels}))
    (out / "judge").mkdir()
    (out / "judge" / "metrics.jsonl").write_text('{"iteration": 1}\n{"iteration": 2, "heldout_accuracy_t0": 0.975}\n')
    Image.new("L", (4, 4)).save(out / "grid.png")
    same = {"metrics": METRICS, "display_names": {name: name for name in METRICS}, "grid": out / "grid.png"}
    steps = {"steps": 5, "network_evaluations": 5}
    return [Outcome(sampler=name, scale=scale, **steps, **same) for name in ("ddim", "ddpm") for scale in (0.0, 4.0)]
