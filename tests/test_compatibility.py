"""Files of version 0.1 still open, continue and compare; tests/golden/version_0_1/make.py had it write them."""

import json
import tarfile
from pathlib import Path

import pytest
import tiny

from guided_diffusion.commands import evaluate, sample, train_diffusion

ARCHIVE = Path(__file__).parent / "golden" / "version_0_1" / "files.tar.xz"


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with all files in it."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def last_entry(run: str) -> dict[str, float]:
    return json.loads(Path(run, "metrics.jsonl").read_text().splitlines()[-1])


def test_sampling_continues_to_the_same_bytes(files):
    shard = files / "samples" / "shard-00001.npz"
    before = shard.read_bytes()
    shard.unlink()
    sample.main(
        ["--diffusion=diffusion", "--classifier=classifier", "--guidance.scale=2", "--sampler.steps=3",
         "--num_samples=6", "--shard_size=2", "--batch_size=2", "--sampler.clip=null", "--out=samples"]
    )  # fmt: skip
    assert shard.read_bytes() == before


def test_training_resumes_on_prepared_data(caplog):
    options = [option for option in tiny.DIFFUSION_OPTIONS if not option.startswith("--training.batch.size")]
    train_diffusion.main(
        ["--data.path=prepared", "--out=diffusion", "--resume=auto", *options, "--training.iterations=3",
         "--training.batch.size=4"]
    )  # fmt: skip
    expected = last_entry("resumed")
    resumed = last_entry("diffusion")
    assert resumed["iteration"] == expected["iteration"] == 3
    assert resumed["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    assert resumed["grad_norm"] == pytest.approx(expected["grad_norm"], rel=1e-4)
    assert "absent there, null now" not in caplog.text  # an option younger than the run, at its default


@pytest.mark.parametrize("real", ["prepared", "reference.npz"])
def test_a_report_compares_with_a_fresh_one(real, capsys):
    evaluate.main(["--generated=samples", f"--real={real}", "--extractor.name=classifier:judge", "--out=fresh.json"])
    stored, fresh = (json.loads(Path(name).read_text()) for name in ("report.json", "fresh.json"))
    assert fresh["metrics"] == pytest.approx(stored["metrics"], rel=1e-4, abs=1e-7)
    assert fresh["per_class_accuracy"] == stored["per_class_accuracy"]
    capsys.readouterr()
    evaluate.main(["--compare", "report.json", "fresh.json"])
    assert "NOT comparable" not in capsys.readouterr().out
