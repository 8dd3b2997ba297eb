"""The pages: they hold what was found, are one file, and draw what the numbers are."""

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluation.pixel_extractor import PixelExtractor, noisy_images, save_class_folders, save_samples
from evaluation.reports import DETAILS, METRICS, protocol, report
from PIL import Image

from guided_diffusion.data.image_set import open_image_set
from guided_diffusion.evaluation.compare import compare_reports
from guided_diffusion.evaluation.config import EvaluationConfig
from guided_diffusion.evaluation.measure import spread_over
from guided_diffusion.evaluation.metrics.accuracy import class_accuracy_figure
from guided_diffusion.evaluation.page import write_comparison_page, write_evaluation_page
from guided_diffusion.evaluation.report import Report, write_report
from guided_diffusion.evaluation.run import evaluate

LABELS = torch.arange(3).repeat_interleave(20)


@pytest.fixture
def sides(tmp_path: Path) -> tuple[Path, Path]:
    samples = save_samples(tmp_path / "samples", noisy_images(LABELS, seed=0), LABELS)
    return samples, save_class_folders(tmp_path / "real", noisy_images(LABELS, seed=1), LABELS)


def pictures(page: str) -> list[Image.Image]:
    encoded = re.findall(r"data:image/png;base64,([^']*)'", page)
    return [Image.open(io.BytesIO(base64.b64decode(content))) for content in encoded]


def written(path: Path, found: Report, generated: Path, real: Path | None) -> str:
    write_evaluation_page(
        path, found, generated=open_image_set(generated), real=None if real is None else open_image_set(real)
    )
    return path.read_text()


def test_a_page_holds_all_of_an_evaluation_in_one_file(tmp_path, sides) -> None:
    config = EvaluationConfig(kid_subset_size=10)
    found = evaluate(
        generated=sides[0], real=sides[1], extractor=PixelExtractor(), config=config, out=tmp_path / "report.json"
    )
    page = written(tmp_path / "report.html", found, *sides)
    for text in (
        *found.absent.values(),
        "classifier:runs/judge",
        "0" * 64,
        str(sides[1]),
    ):
        assert text in page
    for metric in found.metrics:
        if not metric.endswith("_std"):
            assert f"<td>{found.display_names[metric]}</td>" in page
    assert not re.search(r"(src|href)=.(?!data:)", page)
    assert len(pictures(page)) == 3  # accuracies of classes, and a grid of each side


def test_both_sides_show_24_images_spread_over_them(tmp_path) -> None:
    """Image i of 48 is of grey level 5 i: one of every two is shown, in order, six a row."""
    levels = np.arange(48, dtype=np.uint8) * 5
    np.savez(tmp_path / "set.npz", arr_0=np.broadcast_to(levels[:, None, None, None], (48, 16, 16, 3)))
    page = written(tmp_path / "page.html", report(), tmp_path / "set.npz", tmp_path / "set.npz")
    generated, real = (np.asarray(picture)[..., 0] for picture in pictures(page))
    assert np.array_equal(generated, real)
    height, width = (side // count for side, count in zip(generated.shape, (4, 6), strict=True))
    centres = generated[height // 2 :: height, width // 2 :: width]
    assert centres.flatten().tolist() == levels[spread_over(48, keep=24)].tolist()


def test_statistics_alone_have_no_pictures(tmp_path, sides) -> None:
    assert len(pictures(written(tmp_path / "page.html", report(), sides[0], None))) == 1


def test_large_images_make_no_large_page(tmp_path) -> None:
    noise = np.random.default_rng(0).integers(256, size=(24, 256, 256, 3), dtype=np.uint8)
    np.savez(tmp_path / "set.npz", arr_0=noise)
    (shown,) = pictures(written(tmp_path / "page.html", report(), tmp_path / "set.npz", None))
    assert 700 < shown.width < 1600


def test_names_from_outside_are_text_and_not_html(tmp_path, sides) -> None:
    told = protocol()
    told["generated"]["path"] = "<script>alert(1)</script>"
    found = report(protocol=told, absent={"accuracy": "<b>"}, per_class_accuracy={"<i>": 0.5})
    page = written(tmp_path / "page.html", found, sides[0], None)
    assert not re.search("<script|<b>|<i>", page)
    assert "&lt;script&gt;" in page


def test_spreads_stand_beside_their_numbers(tmp_path, sides) -> None:
    found = report(metrics=METRICS | {"frechet_distance_extrapolated": 3.5}, details=DETAILS)
    page = written(tmp_path / "page.html", found, sides[0], None)
    assert "3.841 .. 4.051 (95% of 200 resamplings)" in page
    assert "± 0.021 (standard error of the line)" in page


def test_classes_are_ranked_by_their_accuracy() -> None:
    figure = class_accuracy_figure(report(per_class_accuracy={"cat": 0.9, "dog": 0.2, "eel": 0.5}))
    (axis,) = figure.axes
    assert [label.get_text() for label in axis.get_xticklabels()] == ["dog", "eel", "cat"]
    assert [bar.get_height() for bar in axis.patches] == [0.2, 0.5, 0.9]


def test_a_thousand_classes_have_no_names() -> None:
    figure = class_accuracy_figure(report(per_class_accuracy={str(n): n % 7 / 7 for n in range(1000)}))
    (axis,) = figure.axes
    assert not axis.get_xticklabels()
    assert [bar.get_height() for bar in axis.patches] == sorted(n % 7 / 7 for n in range(1000))


def test_names_with_dollars_are_drawn_as_they_are(tmp_path, sides) -> None:
    """They are no formulas, of which these two would be damaged ones."""
    found = report(per_class_accuracy={r"$\frac$": 0.5, "$_$": 0.25})
    assert len(pictures(written(tmp_path / "page.html", found, sides[0], None))) == 2
    (axis,) = class_accuracy_figure(found).axes
    assert [label.get_text() for label in axis.get_xticklabels()] == ["$_$", r"$\frac$"]


def comparison_of(directory: Path, *reports: Report):
    paths = [directory / f"{n}.json" for n in range(len(reports))]
    for path, one in zip(paths, reports, strict=True):
        write_report(path, one)
    return compare_reports(paths)


def test_a_page_of_a_comparison_says_what_differs(tmp_path) -> None:
    found = comparison_of(tmp_path, report(), report(num_generated=50_000, protocol=protocol(scale=4.0)))
    write_comparison_page(tmp_path / "page.html", found)
    page = (tmp_path / "page.html").read_text()
    for text in (found.verdict, "Subject of the comparison", "<td>scale</td><td>2.0</td>"):
        assert text in page
