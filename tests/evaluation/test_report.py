"""Reports: names of their numbers, their print and their file."""

import json
import re
from dataclasses import replace

import pytest
from evaluation.reports import DETAILS, METRICS, protocol, report

from guided_diffusion.evaluation.extractors.dinov2 import WEIGHTS as DINOV2
from guided_diffusion.evaluation.extractors.inception import WEIGHTS as INCEPTION
from guided_diffusion.evaluation.report import Report, number, read_report, write_report
from guided_diffusion.evaluation.report_text import (
    aligned,
    display_name,
    display_names,
    format_report,
    rows_of,
    word,
)


def test_only_inception_has_a_fid() -> None:
    assert display_name("frechet_distance", published=INCEPTION, num_images=50_000) == "FID"
    assert display_name("frechet_distance", published=INCEPTION, num_images=10_000) == "FID-10k"
    assert display_name("spatial_frechet_distance", published=INCEPTION, num_images=49_999) == "sFID-49999"
    assert display_name("frechet_distance", published=None, num_images=200) == "FD-200"
    assert display_name("inception_score_std", published=INCEPTION, num_images=1000) == "IS-1k std"
    for metric in ("frechet_distance", "spatial_frechet_distance", "inception_score", "frechet_distance_extrapolated"):
        assert "FID" not in display_name(metric, published=None, num_images=50_000)
    assert display_name("recall", published=INCEPTION, num_images=10) == "recall-10"
    assert display_name("accuracy", published=INCEPTION, num_images=None) == "accuracy"
    assert display_name("frechet_distance", published=DINOV2, num_images=50_000) == "FD-DINOv2"
    assert display_name("kernel_distance_std", published=DINOV2, num_images=1000) == "KD-DINOv2-1k std"


def test_an_extrapolated_distance_says_of_how_many_samples() -> None:
    name = "frechet_distance_extrapolated"
    assert display_name(name, published=INCEPTION, num_images=50_000) == "FID∞"
    assert display_name(name, published=INCEPTION, num_images=5000) == "FID∞-5k"
    assert display_name(name, published=None, num_images=50_000) == "FD∞"


def test_metrics_that_look_at_fewer_samples_say_at_how_many() -> None:
    names = display_names(published=INCEPTION, num_generated=50_000, num_manifold=10_000)
    nearest = {metric for metric, name in names.items() if "-10k" in name}
    assert nearest == {"kernel_distance", "kernel_distance_std", "precision", "recall", "density", "coverage"}
    assert (names["frechet_distance"], names["precision"]) == ("FID", "precision-10k")
    assert names["kernel_distance_std"] == "KID-10k std"
    of_all = display_names(published=INCEPTION, num_generated=10_000)
    assert of_all == display_names(published=INCEPTION, num_generated=10_000, num_manifold=10_000)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(3.9425574, "3.943"), (3.96, "3.960"), (215.83703, "215.84"), (10.94, "10.94"), (12345.678, "12345.68"),
     (0.8265, "0.8265"), (0.0021342, "0.002134"), (-0.5, "-0.5000"), (1.0, "1.000"), (0.0, "0"), (3e-13, "3.000e-13"),
     (2.5e7, "2.500e+07")],
)  # fmt: skip
def test_numbers_have_four_significant_digits_and_two_decimals_at_least(value: float, shown: str) -> None:
    assert number(value) == shown
    if value:
        assert float(shown) == pytest.approx(value, rel=5e-4)


def test_points_stand_below_one_another() -> None:
    texts = aligned(["215.84", "3.943", "0", "absent"])
    assert len({len(text) for text in texts}) == 1
    assert texts[0].index(".") == texts[1].index(".") == len(texts[2].rstrip()) == 6


def test_spreads_stand_beside_what_they_are_of() -> None:
    metrics = METRICS | {"frechet_distance_extrapolated": 3.5}
    spreads = {row.name: row.spread for row in rows_of(report(metrics=metrics, details=DETAILS))}
    assert spreads == {
        "FID-10k": "3.841 .. 4.051 (95% of 200 resamplings)",
        "FID∞-10k": "± 0.021 (standard error of the line)",
        "sFID-10k": "",
        "IS-10k": "± 3.2 (deviation over splits)",
        "KID-10k": "± 0.00041 (deviation over subsets)",
        "precision-10k": "",
        "recall-10k": "",
    }


def test_one_split_has_no_deviation() -> None:
    shown = {row.key: row.spread for row in rows_of(report(num_generated=5000))}
    assert shown["inception_score"] == "one split"


def test_columns_line_up_and_every_number_names_its_extractor() -> None:
    metrics = METRICS | {"frechet_distance_extrapolated": 3.5}
    text = format_report(report(metrics=metrics, details=DETAILS, absent={"accuracy": "the samples carry no labels"}))
    numbers, absent = (block.splitlines() for block in text.split("\n\n")[:2])
    assert len(numbers) == 7
    assert len({line.index("inception-2015") for line in numbers}) == 1
    assert len({re.search(r"\d\.\d", line).start() for line in numbers}) == 1
    assert absent == ["absent", "  accuracy  the samples carry no labels"]


def test_the_worst_five_classes_are_printed_and_all_are_kept(tmp_path) -> None:
    accuracies = {f"class {n}": n / 10 for n in range(9, -1, -1)}
    found = report(per_class_accuracy=accuracies)
    text = format_report(found)
    shown = [int(place) for place in re.findall(r"^  class (\d) ", text, flags=re.MULTILINE)]
    assert shown == [0, 1, 2, 3, 4]
    write_report(tmp_path / "report.json", found)
    assert json.loads((tmp_path / "report.json").read_text())["per_class_accuracy"] == accuracies


def test_the_printed_protocol_says_all_that_numbers_hang_on() -> None:
    text = format_report(report())
    assert max(map(len, text.splitlines())) <= 110
    told = " ".join(text.split())
    for words in (
        "path runs/samples, kind shards, num images 10000, image size [64, 64], channels 3, resize none",
        "num manifold images 10000, order as stored, made on NVIDIA A100",
        "seed 7, labels all 3 classes in turn, sampler ddim, steps 25, scale 2.0",
        "path photos/train, kind folder, num images 1281167",
        "files sha256 " + "a" * 12,
        "name inception-2015, sha256 " + "e" * 12 + ", published inception-2015, resize bilinear to 299x299",
        "neighbours 3, split size 5000, kid subsets 100, kid subset size 1000",
        "device cpu, x86_64, features float32, TensorFloat-32 off",
        "torch 2.15.0",
    ):
        assert words in told


def test_what_was_never_told_is_printed_as_unknown() -> None:
    found = report()
    unknown = dict.fromkeys(("seed", "sampler"), "unknown")
    told = found.protocol | {"generated": found.protocol["generated"] | {"sampling": unknown, "made_on": "unknown"}}
    assert re.search(r"^sampling +unknown$", format_report(replace(found, protocol=told)), re.M)


def test_what_samples_were_made_with_may_be_a_list() -> None:
    told = protocol(interval=[0.1, 0.9], **{"guidance.further": [3, 4]})
    assert "interval [0.1, 0.9], guidance.further [3, 4]" in " ".join(format_report(report(protocol=told)).split())


def test_files_that_tell_pictures_without_a_manifest_are_printed() -> None:
    whole = protocol()
    for name, words in (
        ("files_sha256", "made on NVIDIA A100 with torch 2.15.0, files sha256 "),
        ("sha256", "made on NVIDIA A100 with torch 2.15.0, sha256 "),
    ):
        text = format_report(report(protocol=whole | {"generated": whole["generated"] | {name: "b" * 64}}))
        assert words + "b" * 12 in " ".join(text.split())


def test_values_are_said_in_words_and_hashes_by_their_beginning() -> None:
    assert [word(value) for value in (True, False, None, 3, "ddim", "0f" * 32)] == [
        "on", "off", "none", "3", "ddim", "0f" * 6,
    ]  # fmt: skip


def test_a_report_comes_back_from_its_file(tmp_path) -> None:
    found = report(details=DETAILS, absent={"accuracy": "no labels"}, per_class_accuracy={"cat": 0.5}, warnings=["few"])
    write_report(tmp_path / "report.json", found)
    assert read_report(tmp_path / "report.json") == found
    assert json.loads((tmp_path / "report.json").read_text())["doubts"] == ["few"]


def test_an_older_report_may_lack_parts(tmp_path) -> None:
    (tmp_path / "old.json").write_text('{"metrics": {"frechet_distance": 2}, "protocol": {}}')
    assert read_report(tmp_path / "old.json") == Report(metrics={"frechet_distance": 2})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"metrics": {"fre', "report.json is damaged: "),
        (b"\xff\xfe\x00", "report.json is damaged: "),
        (b"[1, 2]", r"it holds \[1, 2\] where an object was expected"),
        (b'{"num_samples": 3}', "metrics is null; it has no metrics"),
        (b'{"metrics": [1], "protocol": {}}', r"metrics is \[1\]"),
        (b'{"metrics": {"recall": "high"}, "protocol": {}}', 'metrics.recall is "high"'),
        (b'{"metrics": {"recall": NaN}, "protocol": {}}', "it holds NaN"),
        (b'{"metrics": {}, "protocol": {"real": 3}}', "protocol.real is 3"),
        (b'{"metrics": {}, "protocol": {}, "display_names": {"recall": 3}}', 'display_names is {"recall": 3}'),
    ],
)
def test_a_file_that_is_no_report_is_refused_by_name(tmp_path, content: bytes, message: str) -> None:
    path = tmp_path / "report.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as refusal:
        read_report(path)
    assert str(path) in str(refusal.value)
    assert str(refusal.value).endswith("give the JSON file that scripts/evaluate.py wrote")
    assert "\n" not in str(refusal.value)


def test_a_report_that_is_not_there_is_refused_by_name(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no evaluation record .*none\.json; give the JSON file"):
        read_report(tmp_path / "none.json")
