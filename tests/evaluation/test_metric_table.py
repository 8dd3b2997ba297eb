"""The table of metrics: an entry appears in the report, its print, its page and comparisons by itself."""

import json

import pytest
from evaluation.pixel_extractor import PixelExtractor

from guided_diffusion.evaluation import compare, page, report_text, run
from guided_diffusion.evaluation.config import EvaluationConfig
from guided_diffusion.evaluation.metrics import METRICS, NUMBERS
from guided_diffusion.evaluation.metrics.metric import Metric, Number, Result

SHIFT = Metric(
    numbers=(Number(key="mean_shift", name="MS", inception_name="MIS", lower_is_better=True),),
    looks_at="pooled",
    compute=lambda generated, real, config: Result(
        values={"mean_shift": float((generated.pooled.mean - real.pooled.mean).norm())}
    ),
    protocol={"settings.batch_size": "batch size"},
    warnings=lambda generated, real, config: ["means say little"],
)


@pytest.fixture
def with_shift(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (compare, page, report_text, run):
        monkeypatch.setattr(module, "METRICS", (*METRICS, SHIFT))
    monkeypatch.setitem(NUMBERS, "mean_shift", SHIFT.numbers[0])


@pytest.mark.usefixtures("with_shift")
def test_a_metric_of_the_table_is_shown_everywhere(samples, real, tmp_path) -> None:
    outs = [tmp_path / "a.json", tmp_path / "b.json"]
    for out, batch_size in zip(outs, (64, 32), strict=True):
        config = EvaluationConfig(batch_size=batch_size)
        report = run.evaluate(
            generated=samples, real=real, extractor=PixelExtractor(), config=config, out=out, page=True
        )
    assert json.loads(outs[1].read_text())["metrics"]["mean_shift"] == report.metrics["mean_shift"] > 0
    assert "means say little" in report.warnings
    assert "\nMS-120 " in report_text.format_report(report)
    assert "<td>MS-120</td>" in (tmp_path / "b.html").read_text()
    assert compare.compare_reports(outs).verdict == "NOT comparable: batch size differs (64 against 32)"


def test_every_number_has_a_name_of_its_own() -> None:
    names = [(number.name, number.inception_name) for number in NUMBERS.values()]
    assert len(set(names)) == len(NUMBERS) == sum(len(metric.numbers) for metric in METRICS)
