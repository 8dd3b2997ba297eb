"""The driver: what it reports, refuses and warns of, on an extractor that is simple enough to know the answers."""

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluation.pixel_extractor import (
    CLASS_NAMES,
    LABELS,
    PixelExtractor,
    noisy_images,
    save_class_folders,
    save_samples,
)

from guided_diffusion.data.formats.samples import merged_npz
from guided_diffusion.data.image_set import open_image_set
from guided_diffusion.evaluation.config import EvaluationConfig
from guided_diffusion.evaluation.measure import spread_over
from guided_diffusion.evaluation.metrics.confidence import bootstrap_frechet_distance, extrapolated_frechet_distance
from guided_diffusion.evaluation.metrics.frechet import frechet_distance
from guided_diffusion.evaluation.metrics.inception_score import inception_score
from guided_diffusion.evaluation.metrics.kernel import kernel_distance
from guided_diffusion.evaluation.metrics.neighbours import density_coverage, precision_recall
from guided_diffusion.evaluation.report_text import format_report
from guided_diffusion.evaluation.run import evaluate, measure_real
from guided_diffusion.evaluation.statistics import gaussian, moments


def test_the_report_holds_what_the_metrics_give_on_the_features(samples: Path, real: Path) -> None:
    config = EvaluationConfig(split_size=50, kid_subsets=7, kid_subset_size=60, bootstrap=5, extrapolate=True)
    report = evaluate(generated=samples, real=real, extractor=PixelExtractor(), config=config)
    fake, true = (PixelExtractor()(next(open_image_set(path).batches(120))[0]) for path in (samples, real))
    for metric, ours, theirs in (
        ("frechet_distance", fake.pooled, true.pooled),
        ("spatial_frechet_distance", fake.spatial, true.spatial),
    ):
        first, second = gaussian(moments(ours)), gaussian(moments(theirs))
        expected = frechet_distance(first.mean, first.cov, second.mean, second.cov)
        # Matrix products of another batch size round float32 features differently.
        assert report.metrics[metric] == pytest.approx(expected, rel=1e-5)
    found = report.metrics["inception_score"], report.metrics["inception_score_std"]
    shuffled = fake.probabilities[torch.randperm(120, generator=torch.Generator().manual_seed(0))]
    assert found == pytest.approx(inception_score(shuffled, split_size=50), rel=1e-6)
    sides = {"real": true.pooled, "generated": fake.pooled}
    found = report.metrics["precision"], report.metrics["recall"]
    assert found == precision_recall(**sides)
    assert (report.metrics["density"], report.metrics["coverage"]) == density_coverage(**sides)
    found = report.metrics["kernel_distance"], report.metrics["kernel_distance_std"]
    # The same rounding, in sums that nearly cancel.
    assert found == pytest.approx(kernel_distance(**sides, subsets=7, subset_size=60), rel=1e-4)
    line = extrapolated_frechet_distance(fake.pooled, gaussian(moments(true.pooled)), classes=LABELS)
    assert report.metrics["frechet_distance_extrapolated"] == pytest.approx(line.distance, rel=1e-4)
    interval = bootstrap_frechet_distance(fake.pooled, gaussian(moments(true.pooled)), resamples=5, classes=LABELS)
    assert report.details["bootstrap"]["low"] == pytest.approx(interval.low, rel=1e-4)
    assert report.details["bootstrap"]["resamples"] == 5
    assert report.absent == {}


def test_samples_against_themselves_are_perfect(samples: Path) -> None:
    metrics = evaluate(generated=samples, real=samples, extractor=PixelExtractor()).metrics
    assert metrics["frechet_distance"] == pytest.approx(0, abs=1e-9)
    assert metrics["spatial_frechet_distance"] == pytest.approx(0, abs=1e-7)  # rank 3 of 6: see the singular case
    assert (metrics["precision"], metrics["recall"]) == (metrics["density"], metrics["coverage"]) == (1, 1)


def test_accuracy_is_the_share_in_the_asked_class(tmp_path: Path, real: Path) -> None:
    shown = LABELS.clone()
    shown[:10] = 2  # ten of the forty dark ones are light
    samples = save_samples(tmp_path / "samples", noisy_images(shown, seed=0), LABELS)
    report = evaluate(generated=samples, real=real, extractor=PixelExtractor())
    assert report.metrics["accuracy"] == pytest.approx(110 / 120)
    assert report.per_class_accuracy == {"dark": pytest.approx(30 / 40), "grey": 1, "light": 1}


def test_classes_of_flat_pictures_are_those_of_their_names(samples: Path, real: Path, tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for file in real.rglob("*.png"):
        shutil.copy(file, flat / f"{file.parent.name}_{file.name}")
    folders, named = (
        evaluate(generated=path, real=samples, extractor=PixelExtractor(), labels=labels)
        for path, labels in ((real, None), (flat, "filenames"))
    )
    assert "accuracy" not in evaluate(generated=flat, real=samples, extractor=PixelExtractor()).metrics
    assert named.metrics["accuracy"] == folders.metrics["accuracy"]


def test_classes_are_matched_by_name_and_not_by_number(tmp_path: Path, real: Path) -> None:
    samples = save_samples(
        tmp_path / "samples", noisy_images(LABELS, seed=0), 2 - LABELS, class_names=CLASS_NAMES[::-1]
    )
    assert evaluate(generated=samples, real=real, extractor=PixelExtractor()).metrics["accuracy"] == 1


@pytest.mark.parametrize(
    ("manifest", "labels", "extractor", "reason"),
    [
        ({}, LABELS * 0 - 1, PixelExtractor(), "the samples carry no labels"),
        ({"class_names": None}, LABELS, PixelExtractor(), "do not name the classes of their labels"),
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
    with pytest.raises(ValueError, match="has label 3, but there are only 3 class names"):
        evaluate(generated=samples, real=real, extractor=PixelExtractor())


def test_the_report_is_written_beside_the_samples_with_its_protocol(samples: Path, real: Path) -> None:
    report = evaluate(generated=samples, real=real, extractor=PixelExtractor())
    stored = json.loads((samples / "evaluation-classifier-runs-judge.json").read_text())
    assert stored["metrics"] == report.metrics
    protocol = stored["protocol"]
    assert protocol["extractor"] == {
        "name": "classifier:runs/judge",
        "sha256": "0" * 64,
        "published": None,
        "resize": "none",
    }
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


def test_images_that_come_class_by_class_have_the_inception_score_of_shuffled_ones(tmp_path, real, samples) -> None:
    config, mixed = EvaluationConfig(split_size=40), torch.arange(120) % 3  # a split is a class, or has all
    in_turn = save_samples(tmp_path / "turn", noisy_images(mixed, seed=0), mixed)
    by_class, in_turn = (
        evaluate(generated=path, real=real, extractor=PixelExtractor(), config=config).metrics["inception_score"]
        for path in (samples, in_turn)
    )
    assert by_class == pytest.approx(in_turn, rel=0.05)  # of splits with other images; unshuffled it is 1
    assert in_turn > 2.8


def test_an_interval_is_of_all_samples_and_neighbours_of_those_that_are_looked_at(samples, real) -> None:
    few = EvaluationConfig(generated_manifold=30, bootstrap=10)
    found, whole = (
        evaluate(generated=samples, real=real, extractor=PixelExtractor(), config=config)
        for config in (few, EvaluationConfig(bootstrap=10))
    )
    assert found.details["bootstrap"] == whole.details["bootstrap"]
    assert found.details["bootstrap"]["low"] < found.metrics["frechet_distance"] < found.details["bootstrap"]["high"]
    assert found.metrics["recall"] < whole.metrics["recall"]
    assert found.protocol["generated"]["num_manifold_images"] == 30
    assert found.display_names["precision"] == "precision-30"


def test_a_kernel_distance_of_too_few_images_is_absent_with_the_reason(samples: Path, real: Path) -> None:
    report = evaluate(generated=samples, real=real, extractor=PixelExtractor())
    assert report.absent == {
        "kernel_distance": "1000 images a side are its subsets (--protocol.kid_subset_size), there are 120"
    }


def test_a_real_side_is_measured_once_for_many_evaluations(samples: Path, real: Path, tmp_path: Path) -> None:
    config, extractor = EvaluationConfig(batch_size=50), PixelExtractor()
    measured = measure_real(real, shape=(6, 6, 3), extractor=extractor, config=config)
    found, expected = (
        evaluate(generated=samples, real=side, extractor=extractor, config=config) for side in (measured, real)
    )
    assert found == expected
    with pytest.raises(ValueError, match="was measured for .*measure it again"):
        evaluate(generated=samples, real=measured, extractor=extractor, config=EvaluationConfig(batch_size=51))


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


def test_the_manifold_keeps_images_spread_over_the_set(samples: Path, real: Path) -> None:
    report = evaluate(
        generated=samples,
        real=real,
        extractor=PixelExtractor(),
        config=EvaluationConfig(real_manifold=50, generated_manifold=50, batch_size=17),
    )
    assert report.protocol["generated"]["num_manifold_images"] == report.protocol["real"]["num_manifold_images"] == 50
    chosen = spread_over(120, keep=50)
    kept = [
        torch.cat([PixelExtractor()(images).pooled for images, _ in open_image_set(path).batches(17)])[chosen]
        for path in (samples, real)
    ]
    found = report.metrics["precision"], report.metrics["recall"]
    assert found == precision_recall(generated=kept[0], real=kept[1])


@pytest.mark.parametrize("keep", [0, 1, 7, 100, 999])
def test_one_image_of_each_stretch_is_kept_whatever_turn_the_classes_take(keep: int) -> None:
    kept = spread_over(1000, keep=keep)
    ends = torch.arange(keep + 1) * 1000 // max(keep, 1)
    assert ((ends[:-1] <= kept) & (kept < ends[1:])).all()
    assert torch.equal(kept, spread_over(1000, keep=keep))
    if keep == 100:
        assert len((kept % 10).unique()) == 10  # a stride of 10 would keep one class of ten in turn
    assert torch.equal(spread_over(50, keep=50), torch.arange(50))


def test_the_printed_table_names_the_extractor_beside_every_number(samples: Path, real: Path) -> None:
    report = evaluate(generated=samples, real=real, extractor=PixelExtractor(class_names=None))
    lines = format_report(report).splitlines()
    numbers = lines[: lines.index("")]
    assert len(numbers) >= 5
    assert all(line.endswith("classifier:runs/judge") for line in numbers)
    assert numbers[0].startswith("FD-120 ")
    assert any(line.startswith("  accuracy") and "does not know the names" in line for line in lines)
    assert any(line.startswith(f"generated   path {samples},") for line in lines)
