"""The printed cost of a training that is not started."""

from dataclasses import replace

import pytest
import tiny

from guided_diffusion.commands.train_classifier import train_classifier
from guided_diffusion.commands.train_diffusion import train_diffusion
from guided_diffusion.run_directory import latest
from guided_diffusion.training import dry_run


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(dry_run, "MEASURED_SECONDS", 0.0)


def rows(text: str) -> dict[str, str]:
    return {line[:12].strip(): line[13:] for line in text.splitlines() if line[12:13] == " "}


def test_a_dry_run_says_what_a_training_would_cost_and_writes_nothing(tmp_path, class_folder, capsys):
    config = tiny.diffusion_config(tmp_path / "run", class_folder, iterations=100, batch_size=8, per_process=3)
    train_diffusion(replace(config, dry_run=True))
    assert not (tmp_path / "run").exists()
    said = rows(capsys.readouterr().out)
    assert said["batch"] == "8 images an iteration = 1 process x 3 micro-batches of at most 3"
    assert said["budget"] == "100 iterations = 800 images = 40 epochs"
    assert said["compares to"].startswith(
        "improved DDPM's CIFAR-10: 52.5 M parameters, 500,000 iterations of 128 = 64,000,000"
    )
    assert said["compares to"].endswith("this budget is 1.3e-05 of them")
    assert "for the 100 iterations to go" in said["time"]
    assert "images/s" in said["speed"]
    assert "measured peak" not in said["memory"]  # known on GPUs alone
    megabytes = float(said["memory"].split()[0])  # weights, gradients, two moments and one average, of float32
    assert megabytes == pytest.approx(5 * 4 * float(said["network"].split()[0]), rel=0.01)
    train_diffusion(replace(config, training=tiny.loop(iterations=1)))
    weights = (latest(tmp_path / "run") / "network.safetensors").stat().st_size
    assert float(said["network"].split()[0]) == pytest.approx(weights / 4e6, rel=0.02)  # a header beside float32


def test_a_dry_run_of_a_resumed_training_counts_what_is_left(tmp_path, class_folder, capsys):
    config = tiny.diffusion_config(tmp_path, class_folder, iterations=2, resume="auto")
    train_diffusion(config)
    before = sorted(tmp_path.rglob("*"))
    train_diffusion(replace(config, training=tiny.loop(iterations=7), dry_run=True))
    assert "for the 5 iterations to go" in capsys.readouterr().out
    assert sorted(tmp_path.rglob("*")) == before


def test_a_dry_run_refuses_what_the_training_would(tmp_path, class_folder):
    config = tiny.diffusion_config(tmp_path, class_folder, iterations=1)
    train_diffusion(config)
    with pytest.raises(ValueError, match="is there already"):
        train_diffusion(replace(config, dry_run=True))


def test_a_classifier_is_compared_with_a_published_classifier(tmp_path, class_folder, capsys):
    config = tiny.classifier_config(tmp_path / "run", class_folder, iterations=1)
    train_classifier(replace(config, dry_run=True))
    assert "ADM's ImageNet 64 classifier" in rows(capsys.readouterr().out)["compares to"]


def test_a_disk_too_small_for_the_checkpoints_is_said_beforehand(tmp_path, class_folder, capsys, monkeypatch):
    usage = type("Usage", (), {"free": 10**5})
    monkeypatch.setattr(dry_run.shutil, "disk_usage", lambda path: usage)
    train_diffusion(replace(tiny.diffusion_config(tmp_path / "run", class_folder, iterations=1), dry_run=True))
    assert rows(capsys.readouterr().out)["checkpoints"].endswith("100 kB free on their disk: TOO LITTLE")


@pytest.mark.parametrize(("nearer", "further"), [(5.5, 11.8), (11.7, 5.4)])  # 8 is nearest in octaves
def test_the_published_training_to_compare_with_is_nearest_in_octaves(
    tmp_path, class_folder, capsys, monkeypatch, nearer, further
):
    table = {nearer: ("this one", 1, 1, 1), further: ("not this one", 1, 1, 1)}
    monkeypatch.setitem(dry_run.PUBLISHED, "diffusion", table)
    train_diffusion(replace(tiny.diffusion_config(tmp_path / "run", class_folder, iterations=1), dry_run=True))
    assert rows(capsys.readouterr().out)["compares to"].startswith("this one: 1 M parameters")
