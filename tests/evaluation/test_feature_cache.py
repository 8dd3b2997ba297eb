"""The feature cache: an interrupted evaluation leaves it behind, and the next one resumes to the same numbers."""

import json
import shutil
import signal
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import programs
import pytest
import torch
from evaluation.pixel_extractor import PixelExtractor
from torch import Tensor

from guided_diffusion.data.image_set import open_image_set
from guided_diffusion.distributed import Process
from guided_diffusion.evaluation import run
from guided_diffusion.evaluation.config import EvaluationConfig
from guided_diffusion.evaluation.extractors.features import Features
from guided_diffusion.evaluation.feature_cache import FeatureCache, Row
from guided_diffusion.evaluation.measure import MeasuredSet, measure
from guided_diffusion.evaluation.run import cache_directory, evaluate

CPU = torch.device("cpu")
ALONE = Process(CPU, rank=0, world_size=1)


@dataclass
class Counting:
    """Another extractor, which counts its images and fails after some."""

    inner: PixelExtractor = field(default_factory=PixelExtractor)
    fails_after: int = 1000
    seen: int = 0
    name: str = "classifier:runs/judge"
    sha256: str = "0" * 64
    published: None = None
    resize: str = "none"
    class_names: tuple[str, ...] | None = None

    def __call__(self, images_uint8: Tensor) -> Features:
        if self.seen + len(images_uint8) > self.fails_after:
            raise KeyboardInterrupt
        self.seen += len(images_uint8)
        return self.inner(images_uint8)


def measured(
    samples: Path, extractor: Counting | PixelExtractor, cache: FeatureCache | None, process: Process = ALONE
) -> MeasuredSet:
    return measure(
        open_image_set(samples), extractor, batch_size=10, manifold_size=50, process=process, name="x", cache=cache
    )  # fmt: skip


def assert_same(found: MeasuredSet, expected: MeasuredSet) -> None:
    for name in ("pooled", "spatial"):
        one, other = getattr(found, name), getattr(expected, name)
        assert torch.equal(one.mean, other.mean)
        assert torch.equal(one.cov, other.cov)
    for name in ("features", "probabilities", "labels", "fingerprints"):
        assert torch.equal(getattr(found, name), getattr(expected, name))


@pytest.mark.parametrize("most_images", [10, 25, 8192])
def test_an_interrupted_measurement_goes_on_to_the_same_bits(samples: Path, tmp_path: Path, most_images: int) -> None:
    def cache() -> FeatureCache:
        return FeatureCache(tmp_path / "parts", every_seconds=0 if most_images == 10 else 1000, most_images=most_images)

    with pytest.raises(KeyboardInterrupt):
        measured(samples, Counting(fails_after=75), cache())
    left = {10: 70, 25: 60, 8192: 0}[most_images]  # whole parts: of one batch, of three, none
    extractor = Counting()
    found = measured(samples, extractor, cache())
    assert extractor.seen == 1 + 120 - left  # 1: the first image, for the shapes
    assert_same(found, measured(samples, PixelExtractor(), None))


def test_other_numbers_of_processes_take_the_parts_that_fit(samples: Path, tmp_path: Path) -> None:
    def cache() -> FeatureCache:
        return FeatureCache(tmp_path / "parts", every_seconds=0)

    # Of two processes the first measured all its batches, 0 to 5, the second 6 to 8 before it was killed.
    measured(samples, PixelExtractor(), cache(), Process(CPU, rank=0, world_size=2))
    with pytest.raises(KeyboardInterrupt):
        measured(samples, Counting(fails_after=35), cache(), Process(CPU, rank=1, world_size=2))
    alone = Counting()
    assert_same(measured(samples, alone, cache()), measured(samples, PixelExtractor(), None))
    assert alone.seen == 1 + 30


@pytest.mark.parametrize("damage", ["junk", "cut", "one bit"])
def test_a_damaged_part_is_measured_anew(samples: Path, tmp_path: Path, damage: str) -> None:
    measured(samples, PixelExtractor(), FeatureCache(tmp_path, every_seconds=0))
    (part,) = tmp_path.glob("part-0000003.*")
    content = bytearray(part.read_bytes())
    content[-5] ^= 1 << 6  # the exponent of a feature: 1e38 times as large, or as small
    part.write_bytes({"junk": b"junk", "cut": content[:-4], "one bit": content}[damage])
    extractor = Counting()
    assert_same(
        measured(samples, extractor, FeatureCache(tmp_path, every_seconds=0)), measured(samples, PixelExtractor(), None)
    )
    assert extractor.seen == 1 + 10


def test_a_part_that_ends_beyond_the_share_is_not_taken(samples: Path, tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, every_seconds=1000)
    rows = [Row(PixelExtractor()(torch.zeros(10, 3, 6, 6, dtype=torch.uint8)))] * 4
    for batch, row in enumerate(rows):
        cache.add(batch, row)
    cache.flush()
    assert cache.stored(0, 3) == []
    assert len(cache.stored(0, 4)) == 4
    assert cache.stored(1, 4) == []


def test_where_parts_cannot_be_written_the_work_goes_on_with_a_warning(samples, tmp_path, caplog) -> None:
    (tmp_path / "file").touch()
    found = measured(samples, PixelExtractor(), FeatureCache(tmp_path / "file" / "parts", every_seconds=0))
    assert_same(found, measured(samples, PixelExtractor(), None))
    assert caplog.text.count("an interrupted evaluation will start over") == 1


def test_a_set_that_is_soon_measured_leaves_no_parts(samples: Path, real: Path) -> None:
    evaluate(generated=samples, real=real, extractor=PixelExtractor())
    assert sorted(path.name for path in samples.iterdir()) == [
        "evaluation-classifier-runs-judge.json", "manifest.json", *(f"shard-0000{n}.npz" for n in range(3))
    ]  # fmt: skip


def test_an_interrupted_evaluation_goes_on_and_leaves_nothing_behind(samples, real, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(run, "FeatureCache", partial(FeatureCache, every_seconds=0))
    config, out = EvaluationConfig(batch_size=10), tmp_path / "report.json"
    with pytest.raises(KeyboardInterrupt):
        evaluate(generated=samples, real=real, extractor=Counting(fails_after=150), config=config, out=out)
    assert not out.exists()
    assert cache_directory(out).is_dir()
    extractor = Counting()
    found = evaluate(generated=samples, real=real, extractor=extractor, config=config, out=out)
    assert extractor.seen == 2 + 240 - 140
    assert not cache_directory(out).exists()
    again = evaluate(generated=samples, real=real, extractor=Counting(), config=config, out=tmp_path / "again.json")
    assert found.metrics == again.metrics


def test_parts_of_other_files_are_not_taken(samples: Path, real: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(run, "FeatureCache", partial(FeatureCache, every_seconds=0))
    config, out = EvaluationConfig(batch_size=10), tmp_path / "report.json"
    with pytest.raises(KeyboardInterrupt):
        evaluate(generated=samples, real=real, extractor=Counting(fails_after=235), config=config, out=out)
    shutil.copyfile(real / "light" / "080.png", real / "dark" / "000.png")
    extractor = Counting()
    evaluate(generated=samples, real=real, extractor=extractor, config=config, out=out)
    assert extractor.seen == 2 + 120 + 10  # the real images again, and the last batch of the generated ones


def test_kill_9_costs_what_was_not_yet_written(samples: Path, real: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.json"
    command = (Path(__file__).with_name("slow_evaluation.py"), str(samples), str(real), str(out))
    program = programs.start(*command, "0.1")
    deadline = time.monotonic() + 100
    while len(list(cache_directory(out).rglob("part-*.features"))) < 3:
        assert program.poll() is None, program.finish()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    program.send_signal(signal.SIGKILL)
    assert program.wait() == -signal.SIGKILL
    assert not out.exists()
    left = len(list(cache_directory(out).rglob("part-*.features")))
    status, output = programs.start(*command, "0").finish()
    assert status == 0, output
    assert int(output.splitlines()[-1]) == 2 + 240 - 10 * left
    evaluate(
        generated=samples, real=real, extractor=PixelExtractor(), config=EvaluationConfig(batch_size=10),
        out=tmp_path / "whole.json",
    )  # fmt: skip
    found, expected = (json.loads(path.read_text())["metrics"] for path in (out, tmp_path / "whole.json"))
    assert found == expected
