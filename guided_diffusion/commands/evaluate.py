"""The evaluation command: measures samples against real images, or compares reports."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..config import run_command
from ..data.config import Labels
from ..evaluation.config import EvaluationConfig
from ..evaluation.extractors.config import ExtractorConfig, open_extractor


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Compare generated images with real ones, or evaluations with one another."""

    generated: Path | None = None
    """Directory of samples, npz batch, folder or .zip of pictures, WebDataset shards, prepared images, or a saved
    Hugging Face dataset."""
    real: Path | None = None
    """The same, or an npz of reference statistics: published ones, or those that make_reference.py wrote."""
    channels: int | None = None
    """Channels of generated pictures: 3 makes grey ones coloured, 4 keeps alpha. null: the mode of the files, which
    must be one."""
    labels: Labels | None = None
    """Labels of pictures in folders and zips, on either side, as data.labels of a training. null: class folders, if
    there are any."""
    extractor: ExtractorConfig = ExtractorConfig()
    """Network whose features are compared."""
    protocol: EvaluationConfig = EvaluationConfig()
    """Settings of the metrics; the defaults are the published ones."""
    out: Path | None = None
    """JSON report to write, NAME.json, and beside it a page NAME.html; null: evaluation-<extractor>.json beside the
    samples. With compare, the page alone, NAME.html."""
    compare: tuple[Path, ...] = ()
    """JSON reports to compare with one another, in place of images: --compare A.json B.json."""

    def __post_init__(self) -> None:
        given = [f"--{name}" for name in ("generated", "real") if getattr(self, name) is not None]
        if self.compare and given:
            raise ValueError(f"--compare takes reports, not images; leave out {' and '.join(given)}")
        if self.compare and self.out is not None and self.out.suffix != ".html":
            raise ValueError(f"with --compare, --out is a page NAME.html; got {self.out}")
        if not self.compare and self.out is not None and self.out.suffix != ".json":
            raise ValueError(f"the report goes into a file NAME.json, a page NAME.html beside it; got --out {self.out}")
        missing = ", ".join(name for name in ("--generated", "--real") if name not in given)
        if not self.compare and missing:
            raise ValueError(f"needed and not given: {missing}; or compare evaluations, --compare A.json B.json")


def evaluate_samples(config: EvaluateConfig) -> None:
    """Measure, write the report and print it on the main process; or compare reports, if there are any to compare."""
    # Imported here, so that --help and bad options do not wait for SciPy.
    from ..distributed import this_process
    from ..evaluation.compare import compare_reports, format_comparison
    from ..evaluation.page import write_comparison_page
    from ..evaluation.report_text import format_report
    from ..evaluation.run import evaluate, report_path

    if config.compare:
        comparison = compare_reports(config.compare)
        print(format_comparison(comparison))
        if config.out is not None:
            write_comparison_page(config.out, comparison)
        return
    assert config.generated is not None  # as `__post_init__` makes sure
    assert config.real is not None
    process = this_process()
    extractor = open_extractor(config.extractor, device=process.device)
    out = config.out or report_path(config.generated, extractor)
    sets: dict[str, Any] = {name: getattr(config, name) for name in ("generated", "real", "channels", "labels")}
    report = evaluate(**sets, extractor=extractor, config=config.protocol, out=out, page=True)
    if process.is_main:
        print(f"{format_report(report)}\n\n{out}\n{out.with_suffix('.html')}")


main = partial(run_command, EvaluateConfig, evaluate_samples)
