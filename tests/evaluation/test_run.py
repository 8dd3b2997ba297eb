"""The driver: what it reports, refuses and warns of, on an extractor that is simple enough to know the answers."""

import json
import logging
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluation.pixel_extractor import CLASS_NAMES, PixelExtractor, noisy_images, save_class_folders, save_samples

from guided_diffusion.data.shards import merged_npz
from guided_diffusion.data.sources import read_images
from guided_diffusion.evaluation.config import EvaluationConfig
from guided_diffusion.evaluation.metrics import frechet_distance, inception_score, precision_recall
from guided_diffusion.evaluation.report import format_report
from guided_diffusion.evaluation.run import evaluate
from guided_diffusion.evaluation.statistics import gaussian, moments, write_reference

ROOT = Path(__file__).parents[2]
LABELS = torch.arange(3).repeat_interleave(40)
# Of 120 images: four batches for two processes; two, one each; one batch, so that the first process has none.
SHARED_BATCH_SIZES = (32, 100, 120)


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    return save_samples(tmp_path / "samples", noisy_images(LABELS, seed=0), LABELS)


@pytest.fixture
def real(tmp_path: Path) -> Path:
    return save_class_folders(tmp_path / "real", noisy_images(LABELS, seed=1, spread=35), LABELS)


def test_the_report_holds_what_the_metrics_give_on_the_features(samples: Path, real: Path) -> None:
    report = evaluate(generated=samples, real=real, extractor=PixelExtractor(), config=EvaluationConfig(split_size=50))
    fake, true = (PixelExtractor()(next(read_images(path, batch_size=120))[0]) for path in (samples, real))
    for metric, ours, theirs in (
        ("frechet_distance", fake.pooled, true.pooled),
        ("spatial_frechet_distance", fake.spatial, true.spatial),
    ):
        first, second = gaussian(moments(ours)), gaussian(moments(theirs))
        expected = frechet_distance(first.mean, first.cov, second.mean, second.cov)
        # Matrix products of another batch size round float32 features differently.
        assert report.metrics[metric] == pytest.approx(expected, rel=1e-5)
    found = report.metrics["inception_score"], report.metrics["inception_score_std"]
    assert found == pytest.approx(inception_score(fake.probabilities, split_size=50), rel=1e-6)
    found = report.metrics["precision"], report.metrics["recall"]
    assert found == precision_recall(real=true.pooled, generated=fake.pooled)
    assert report.absent == {}


def test_samples_against_themselves_are_perfect(samples: Path) -> None:
    metrics = evaluate(generated=samples, real=samples, extractor=PixelExtractor()).metrics
    assert metrics["frechet_distance"] == pytest.approx(0, abs=1e-9)
    assert metrics["spatial_frechet_distance"] == pytest.approx(0, abs=1e-7)  # rank 3 of 6: see the singular case
    assert (metrics["precision"], metrics["recall"]) == (1, 1)


def test_accuracy_is_the_share_in_the_asked_class(tmp_path: Path, real: Path) -> None:
    shown = LABELS.clone()
    shown[:10] = 2  # ten of the forty dark ones are light
    samples = save_samples(tmp_path / "samples", noisy_images(shown, seed=0), LABELS)
    report = evaluate(generated=samples, real=real, extractor=PixelExtractor())
    assert report.metrics["accuracy"] == pytest.approx(110 / 120)
    assert report.per_class_accuracy == {"dark": pytest.approx(30 / 40), "grey": 1, "light": 1}


def test_classes_are_matched_by_name_and_not_by_number(tmp_path: Path, real: Path) -> None:
    samples = save_samples(
        tmp_path / "samples", noisy_images(LABELS, seed=0), 2 - LABELS, class_names=CLASS_NAMES[::-1]
    )
    assert evaluate(generated=samples, real=real, extractor=PixelExtractor()).metrics["accuracy"] == 1


@pytest.mark.parametrize(
    ("manifest", "labels", "extractor", "reason"),
    [
        ({}, LABELS * 0 - 1, PixelExtractor(), "the samples carry no labels"),
        ({"class_names": None}, LABELS, PixelExtractor(), "nothing says which classes"),
        ({}, LABELS, PixelExtractor(class_names=None), "the extractor does not know the names of its classes"),
        ({"class_names": ["dark", "grey", "cat"]}, LABELS, PixelExtractor(), "does not know the class 'cat'"),
    ],
)
def test_accuracy_that_cannot_be_had_is_absent_with_the_reason(
    tmp_path, real, manifest, labels, extractor, reason
) -> None:
    samples = save_samples(tmp_path / "samples", noisy_images(LABELS, seed=0), labels, **manifest)
    report = evaluate(generated=samples, real=real, extractor=extractor)
    assert "accuracy" not in report.metrics
    assert reason in report.absent["accuracy"]


def test_a_label_beyond_the_class_names_is_refused(tmp_path: Path, real: Path) -> None:
    samples = save_samples(tmp_path / "samples", noisy_images(LABELS, seed=0), LABELS + 1)
    with pytest.raises(ValueError, match="a sample has label 3, but there are only 3 class names"):
        evaluate(generated=samples, real=real, extractor=PixelExtractor())


def test_the_report_is_written_beside_the_samples_with_its_protocol(samples: Path, real: Path) -> None:
    report = evaluate(generated=samples, real=real, extractor=PixelExtractor())
    stored = json.loads((samples / "evaluation-classifier-runs-judge.json").read_text())
    assert stored["metrics"] == report.metrics
    protocol = stored["protocol"]
    assert protocol["extractor"] == {"name": "classifier:runs/judge", "sha256": "0" * 64, "published": None}
    assert protocol["generated"]["manifest"]["seed"] == 7
    assert (protocol["generated"]["num_images"], protocol["real"]["num_images"]) == (120, 120)
    assert protocol["generated"]["image_size"] == [6, 6]
    assert "centre crop to 6 px" in protocol["real"]["resize"]
    assert protocol["settings"]["neighbours"] == 3
    assert protocol["versions"]["torch"] == torch.__version__.split("+")[0] or torch.__version__


def test_the_protocol_tells_real_pictures_that_were_replaced_under_their_names(samples: Path, real: Path) -> None:
    def files_sha256() -> str:
        return evaluate(generated=samples, real=real, extractor=PixelExtractor()).protocol["real"]["files_sha256"]

    before = files_sha256()
    assert files_sha256() == before
    shutil.copyfile(real / "light" / "080.png", real / "dark" / "000.png")
    assert files_sha256() != before


def test_a_merged_batch_is_measured_as_its_shards_are(samples: Path, real: Path, tmp_path: Path) -> None:
    merged_npz(samples, tmp_path / "batch.npz")
    shards = evaluate(generated=samples, real=real, extractor=PixelExtractor())
    batch = evaluate(generated=tmp_path / "batch.npz", real=real, extractor=PixelExtractor())
    assert (tmp_path / "batch-evaluation-classifier-runs-judge.json").is_file()
    same = [metric for metric in shards.metrics if metric != "accuracy"]  # a batch does not name its classes
    assert [batch.metrics[metric] for metric in same] == [shards.metrics[metric] for metric in same]


def test_pictures_are_cropped_to_the_samples_size(samples: Path, tmp_path: Path) -> None:
    real = save_class_folders(tmp_path / "large", noisy_images(LABELS, seed=1, size=25), LABELS)
    assert evaluate(generated=samples, real=real, extractor=PixelExtractor()).protocol["real"]["image_size"] == [6, 6]


def reference(path: Path, real: Path, *, images: bool, sha256: str = "0" * 64) -> Path:
    pixels = next(read_images(real, batch_size=120))[0]
    features = PixelExtractor()(pixels)
    write_reference(
        path,
        pooled=gaussian(moments(features.pooled)),
        spatial=gaussian(moments(features.spatial)),
        extractor="judge",
        extractor_sha256=sha256,
        images=pixels.permute(0, 2, 3, 1).numpy() if images else None,
    )
    return path


def test_stored_statistics_stand_for_the_images_they_are_of(samples: Path, real: Path, tmp_path: Path) -> None:
    stored = reference(tmp_path / "reference.npz", real, images=True)
    direct = evaluate(generated=samples, real=real, extractor=PixelExtractor())
    report = evaluate(generated=samples, real=stored, extractor=PixelExtractor())
    assert report.metrics == pytest.approx(direct.metrics, rel=1e-5)  # one batch of 120 there, 64 and 56 here
    assert report.protocol["real"]["statistics"] == "stored"
    assert len(report.protocol["real"]["sha256"]) == 64


def test_without_real_images_precision_and_recall_are_absent_with_the_reason(samples, real, tmp_path: Path) -> None:
    stored = reference(tmp_path / "reference.npz", real, images=False)
    report = evaluate(generated=samples, real=stored, extractor=PixelExtractor())
    assert set(report.absent) == {"precision", "recall"}
    assert set(report.metrics).isdisjoint(report.absent)
    assert "statistics but no images" in report.absent["precision"]


def test_statistics_of_another_extractor_are_refused(samples: Path, real: Path, tmp_path: Path) -> None:
    stored = reference(tmp_path / "reference.npz", real, images=False, sha256="f" * 64)
    with pytest.raises(ValueError, match=r"was made with judge \(SHA-256 ffff.*use the same extractor for both sides"):
        evaluate(generated=samples, real=stored, extractor=PixelExtractor())


def test_published_statistics_serve_inception_only(samples: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "r.npz", mu=np.zeros(5), sigma=np.eye(5))
    with pytest.raises(ValueError, match="count as the published 2015 Inception's, which classifier:runs/judge is not"):
        evaluate(generated=samples, real=tmp_path / "r.npz", extractor=PixelExtractor())
    report = evaluate(
        generated=samples, real=tmp_path / "r.npz", extractor=replace(PixelExtractor(), published="inception-2015")
    )
    assert report.display_names["frechet_distance"] == "FID-120"
    assert set(report.absent) == {"spatial_frechet_distance", "precision", "recall"}


def test_too_few_images_for_the_covariance_are_warned_of(real: Path, tmp_path: Path, caplog) -> None:
    few = save_samples(tmp_path / "few", noisy_images(LABELS[:5], seed=0), LABELS[:5])
    with caplog.at_level(logging.WARNING):
        evaluate(generated=few, real=real, extractor=PixelExtractor())
    assert "the generated side has 5 images for features of 5 dimensions: its covariance is singular" in caplog.text
    assert "the real side" not in caplog.text


def test_too_few_images_for_the_neighbours_are_refused(real: Path, tmp_path: Path) -> None:
    few = save_samples(tmp_path / "few", noisy_images(LABELS[:3], seed=0), LABELS[:3])
    with pytest.raises(ValueError, match="holds 3 images, but precision and recall look at 3 neighbours"):
        evaluate(generated=few, real=real, extractor=PixelExtractor())


def test_sides_that_do_not_fit_are_refused(samples: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "larger.npz", arr_0=np.zeros((9, 8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match=r"larger\.npz holds images of 8x8 pixels where 6x6 were expected"):
        evaluate(generated=samples, real=tmp_path / "larger.npz", extractor=PixelExtractor())
    np.savez(tmp_path / "grey.npz", arr_0=np.zeros((9, 6, 6, 1), np.uint8))
    with pytest.raises(ValueError, match=r"grey\.npz holds images with 1 channels where 3 were expected"):
        evaluate(generated=samples, real=tmp_path / "grey.npz", extractor=PixelExtractor())


@pytest.mark.parametrize(
    ("field", "value"), [("batch_size", 0), ("split_size", -1), ("neighbours", 0), ("real_manifold", 5)]
)
def test_settings_out_of_range_are_refused(field: str, value: int) -> None:
    with pytest.raises(ValueError, match=field):
        EvaluationConfig(**{field: value})


def test_the_manifold_keeps_evenly_spaced_images(samples: Path, real: Path) -> None:
    report = evaluate(
        generated=samples,
        real=real,
        extractor=PixelExtractor(),
        config=EvaluationConfig(real_manifold=50, generated_manifold=50, batch_size=17),
    )
    assert report.protocol["generated"]["num_manifold_images"] == report.protocol["real"]["num_manifold_images"] == 50
    spaced = [-(-120 * n // 50) for n in range(50)]
    kept = [
        torch.cat([PixelExtractor()(images).pooled for images, _ in read_images(path, batch_size=17)])[spaced]
        for path in (samples, real)
    ]
    found = report.metrics["precision"], report.metrics["recall"]
    assert found == precision_recall(generated=kept[0], real=kept[1])


def test_the_printed_table_names_the_extractor_beside_every_number(samples: Path, real: Path) -> None:
    report = evaluate(generated=samples, real=real, extractor=PixelExtractor(class_names=None))
    lines = format_report(report).splitlines()
    numbers = lines[: len(report.metrics)]
    assert all(line.endswith("classifier:runs/judge") for line in numbers)
    assert numbers[0].startswith("FD-120 ")
    assert any("absent" in line and "does not know the names" in line for line in lines)
    assert f"generated: 120 images of {samples}" in lines


@pytest.fixture(scope="module")
def both_sides(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    directory = tmp_path_factory.mktemp("sides")
    return (
        save_samples(directory / "samples", noisy_images(LABELS, seed=0), LABELS),
        save_class_folders(directory / "real", noisy_images(LABELS, seed=1, spread=35), LABELS),
    )


@pytest.fixture(scope="module")
def reports_of_two_processes(both_sides: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("reports")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    arguments = [str(path) for path in (Path(__file__).with_name("two_processes.py"), *both_sides, out)]
    environment = os.environ | {
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    subprocess.run(
        [*launch, *arguments, *map(str, SHARED_BATCH_SIZES)],
        env=environment,
        check=True,
        capture_output=True,
        timeout=200,
    )
    return out


@pytest.mark.parametrize("batch_size", SHARED_BATCH_SIZES)
def test_two_processes_report_what_one_does(
    both_sides, reports_of_two_processes: Path, tmp_path, batch_size: int
) -> None:
    config = EvaluationConfig(batch_size=batch_size, split_size=50)
    samples, real = both_sides
    evaluate(generated=samples, real=real, extractor=PixelExtractor(), config=config, out=tmp_path / "one.json")
    alone = json.loads((tmp_path / "one.json").read_text())
    together = json.loads((reports_of_two_processes / f"{batch_size}.json").read_text())
    distances = ("frechet_distance", "spatial_frechet_distance")
    found, expected = ([report["metrics"].pop(metric) for metric in distances] for report in (together, alone))
    assert found == pytest.approx(expected, rel=1e-10)  # moments merged in another order
    assert together == alone


def test_processes_that_accelerate_does_not_see_are_refused(samples: Path, real: Path, monkeypatch) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    with pytest.raises(ValueError, match="accelerate sees 1 process where 2 were started"):
        evaluate(generated=samples, real=real, extractor=PixelExtractor())
