"""Comparisons of reports: their verdict, and the differences between their protocols."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from evaluation.pixel_extractor import noisy_images, save_class_folders
from evaluation.reports import METRICS, protocol, report

from guided_diffusion.data.image_set import open_image_set
from guided_diffusion.evaluation.compare import Comparison, compare_reports, format_comparison, metric_table
from guided_diffusion.evaluation.report import Report, write_report


@pytest.fixture
def comparison(tmp_path: Path):
    """Of reports, by way of their files."""

    def of(*reports: Report) -> Comparison:
        paths = [tmp_path / f"{n}.json" for n in range(len(reports))]
        for path, one in zip(paths, reports, strict=True):
            write_report(path, one)
        return compare_reports(paths)

    return of


def changed(part: str, **values: Any) -> Report:
    whole = protocol()
    return report(protocol=whole | {part: whole[part] | values})


def test_an_evaluation_is_comparable_with_itself(comparison) -> None:
    found = comparison(report(), report())
    assert found.verdict == "comparable"
    assert found.groups == {}
    _, rows = metric_table(found)
    assert all(float(row[-1]) == 0 for row in rows)


def test_another_number_of_samples_is_not_comparable(comparison) -> None:
    found = comparison(report(num_generated=10_000), report(num_generated=50_000))
    assert found.verdict.startswith("NOT comparable: N generated differs (10,000 against 50,000)")


@pytest.mark.parametrize(
    ("part", "values", "said"),
    [
        ("real", {"num_images": 50_000}, "N real differs (1,281,167 against 50,000)"),
        ("real", {"features": {"mean_norm": 9.0, "total_variance": 52.3}}, "real images differs (those of A against"),
        ("extractor", {"sha256": "f" * 64}, f"extractor differs ({'e' * 12} against {'f' * 12})"),
        ("generated", {"resize": "bilinear"}, "generated resize differs (none against bilinear)"),
        ("generated", {"image_size": [32, 32]}, "generated image size differs ([64, 64] against [32, 32])"),
        ("settings", {"neighbours": 5}, "k of precision and recall differs (3 against 5)"),
        ("settings", {"split_size": 1000}, "Inception Score's split size differs (5,000 against 1,000)"),
        ("arithmetic", {"features": "float32, TensorFloat-32 on"}, "arithmetic of features differs (float32, T"),
        ("generated", {"order": "shuffled"}, "order of the generated images differs (as stored against shuffled)"),
    ],
)
def test_what_moves_numbers_by_itself_makes_them_incomparable(comparison, part, values, said) -> None:
    found = comparison(report(), changed(part, **values))
    assert found.verdict.startswith(f"NOT comparable: {said}")
    assert len(found.of("decisive")) == 1


@pytest.mark.parametrize(
    ("part", "values"),
    [("settings", {"batch_size": 8}), ("real", {"path": "elsewhere"}), ("real", {"sha256": "recorded"}),
     ("real", {"files_sha256": "another"}), ("real", {"resize": "bilinear"}), ("versions", {"torch": "3.0"}),
     ("arithmetic", {"device": "NVIDIA H200"}), ("extractor", {"name": "the same, moved"})],
)  # fmt: skip
def test_names_versions_and_devices_leave_numbers_comparable(comparison, part, values) -> None:
    found = comparison(report(), changed(part, **values))
    assert found.verdict == "comparable"
    ((name, value),) = values.items()
    assert [item.name for item in found.of("other")] == [f"{part}.{name}"]
    assert found.of("other")[0].values[1] == str(value)


def test_how_samples_were_made_is_what_is_compared(comparison) -> None:
    found = comparison(report(), report(protocol=protocol(scale=4.0, seed=1234)))
    assert found.verdict == "comparable"
    assert [(item.name, item.values) for item in found.of("subject")] == [
        ("seed", ("7", "1234")),
        ("scale", ("2.0", "4.0")),
    ]


def test_a_setting_decides_only_where_its_metric_was_measured(comparison) -> None:
    other = changed("settings", neighbours=5)
    without = {metric: value for metric, value in METRICS.items() if metric not in ("precision", "recall")}
    first, second = (report(metrics=without, protocol=one.protocol) for one in (report(), other))
    assert comparison(first, second).verdict == "comparable"


def features(mean_norm: float, **values: Any) -> Report:
    return changed("real", features={"mean_norm": mean_norm, "total_variance": 52.3}, **values)


def test_real_images_of_the_same_features_are_the_same_whatever_their_files_are_called(comparison) -> None:
    first, copied = features(12.5, files_sha256="a" * 64), features(12.50002, files_sha256="b" * 64, resize="crop")
    assert comparison(first, copied).verdict == "comparable"
    assert {item.name for item in comparison(first, copied).of("other")} == {"real.files_sha256", "real.resize"}


def test_images_that_differ_though_they_were_made_alike_are_not_passed_over(comparison) -> None:
    first, other = (changed("generated", features={"mean_norm": norm, "total_variance": 50.0}) for norm in (11.0, 14.0))
    assert comparison(first, first).verdict == "comparable"
    verdict = "comparable as far as is known; not known of all: why the generated images differ"
    assert comparison(first, other).verdict == verdict


def test_real_images_of_other_features_are_others_under_the_same_names(comparison) -> None:
    found = comparison(features(12.5), features(12.6), features(12.5))
    assert found.verdict == ("NOT comparable: real images differs (those of A against those of B)")
    assert found.of("decisive")[0].values == ("those of A", "those of B", "those of A")


def test_features_of_another_extractor_say_nothing_of_the_images(comparison) -> None:
    whole = features(12.5).protocol
    other = report(
        protocol=whole
        | {
            "extractor": whole["extractor"] | {"sha256": "f" * 64},
            "real": whole["real"] | {"features": {"mean_norm": 3.0}},
        }
    )
    assert [item.name for item in comparison(features(12.5), other).of("decisive")] == ["extractor"]


def test_what_is_not_recorded_is_said_and_nothing_else_claimed(comparison) -> None:
    old = protocol()
    del old["arithmetic"], old["generated"]["order"], old["generated"]["sampling"]["seed"]
    found = comparison(report(), report(protocol=old))
    assert found.verdict == (
        "comparable as far as is known; not known of all: arithmetic of features, order of the generated images"
    )
    assert found.of("unknown")[0].values == ("float32, TensorFloat-32 off", "not recorded")
    assert [(item.name, item.values) for item in found.of("subject")] == [("seed", ("7", "not recorded"))]


def test_what_is_not_known_of_one_hides_no_difference_of_others(comparison) -> None:
    found = comparison(
        report(num_generated=10_000), changed("generated", num_images="unknown"), report(num_generated=50_000)
    )
    assert found.verdict.startswith("NOT comparable: N generated differs (10,000 against 50,000)")
    assert found.of("decisive")[0].values == ("10,000", "unknown", "50,000")
    alike = comparison(report(), changed("generated", num_images="unknown"), report())
    assert alike.verdict == "comparable as far as is known; not known of all: N generated"


CROP = "published centre crop to 64 px (box halvings, bicubic) where the size differs"


@pytest.mark.parametrize(
    ("resizes", "verdict"),
    [
        (("none", CROP), "comparable as far as is known; not known of all: generated resize"),
        (("none", f"{CROP}, when prepared"), "comparable as far as is known; not known of all: generated resize"),
        ((CROP, CROP.replace("64", "32")), "NOT comparable: generated resize differs ("),
        (("none", CROP, f"{CROP}, when prepared"), "NOT comparable: generated resize differs ("),
        (("none", "bilinear"), "NOT comparable: generated resize differs (none against bilinear)"),
    ],
)
def test_a_crop_where_the_size_differs_may_have_had_nothing_to_do(comparison, resizes, verdict) -> None:
    found = comparison(*(changed("generated", resize=resize) for resize in resizes))
    assert found.verdict.startswith(verdict)


def test_pictures_of_the_right_size_may_be_compared_with_and_without_a_size_to_crop_to(comparison, tmp_path) -> None:
    """The words are those of the sources themselves."""
    labels = torch.arange(3).repeat_interleave(3)
    save_class_folders(tmp_path / "pictures", noisy_images(labels, seed=0), labels)
    with_and_without = (open_image_set(tmp_path / "pictures", image_size=size).resize for size in (6, None))
    found = comparison(*(changed("generated", resize=resize) for resize in with_and_without))
    assert found.verdict == "comparable as far as is known; not known of all: generated resize"


def test_the_order_of_samples_moves_the_inception_score_alone(comparison) -> None:
    metrics = {metric: value for metric, value in METRICS.items() if not metric.startswith("inception_score")}
    shuffled = changed("generated", order="shuffled").protocol
    assert comparison(report(metrics=metrics), report(metrics=metrics, protocol=shuffled)).verdict == "comparable"


def test_which_pictures_were_measured_is_what_is_compared(comparison) -> None:
    sides = (
        changed("generated", files_sha256=letter * 64, features={"mean_norm": norm, "total_variance": 2.0})
        for letter, norm in (("a", 1.0), ("b", 9.0))
    )
    found = comparison(*sides)
    assert found.verdict == "comparable"
    assert [item.name for item in found.of("subject")] == ["generated.files_sha256"]
    assert not found.of("other")


def test_published_statistics_leave_the_size_of_their_images_unknown(comparison) -> None:
    found = comparison(report(), changed("real", image_size="unknown"))
    assert found.verdict == "comparable as far as is known; not known of all: real image size"


def test_what_is_known_of_neither_is_listed(comparison) -> None:
    alike = changed("generated", resize="unknown", made_on="unknown")
    found = comparison(alike, alike)
    assert found.verdict == "comparable as far as is known; not known of all: generated resize"
    assert [(item.name, item.values) for item in found.of("unrecorded")] == [("generated.made_on", ("unknown",) * 2)]
    assert "Not known of any\n" in format_comparison(found)


def test_what_is_not_known_of_the_same_real_images_makes_no_difference(comparison) -> None:
    published = report(protocol=features(12.5).protocol | {"real": features(12.5).protocol["real"]})
    published.protocol["real"]["image_size"] = "unknown"
    assert comparison(published, published).verdict == "comparable"


def test_records_of_nothing_can_be_compared(comparison) -> None:
    found = comparison(Report(metrics={"recall": 0.5}), Report(metrics={"precision": 0.25}))
    assert found.verdict.startswith("comparable as far as is known; not known of all: N generated, N real")
    head, rows = metric_table(found)
    assert head == ["", "A", "B", "B - A"]
    assert [[cell.strip() for cell in row] for row in rows] == [
        ["precision", "absent", "0.2500", ""],
        ["recall", "0.5000", "absent", ""],
    ]
    format_comparison(found)


def test_several_evaluations_are_measured_against_the_first(comparison) -> None:
    values = (3.94, 3.96, 12.5)
    found = comparison(*(report(metrics={"frechet_distance": value}) for value in values))
    head, rows = metric_table(found)
    assert head == ["", "A", "B", "C", "B - A", "C - A"]
    assert [cell.strip() for cell in rows[0]] == ["FID-10k", "3.940", "3.960", "12.50", "+0.020", "+8.560"]


def test_a_metric_of_two_names_has_both(comparison) -> None:
    _, rows = metric_table(comparison(report(num_generated=10_000), report(num_generated=50_000)))
    assert rows[0][0] == "FID-10k / FID"


def test_the_printed_columns_line_up(comparison) -> None:
    text = format_comparison(comparison(report(), report(protocol=protocol(scale=4.0))))
    files, numbers, verdict, differing = text.split("\n\n")
    assert [line[:3] for line in files.splitlines()] == ["A  ", "B  "]
    points = [[found.start() for found in re.finditer(r"\.", line)] for line in numbers.splitlines()[1:]]
    assert len(points) == 6
    assert all(places == points[0] for places in points)
    assert verdict == "comparable"
    assert differing.splitlines() == ["Subject of the comparison", "         A    B", "  scale  2.0  4.0"]


def test_one_record_is_no_comparison(tmp_path) -> None:
    write_report(tmp_path / "one.json", report())
    with pytest.raises(ValueError, match="a comparison takes two evaluation records or more, got 1"):
        compare_reports([tmp_path / "one.json"])
