"""The driver's files: places of reports, and refusals of places that cannot be written to."""

import os
import zipfile

import pytest
from evaluation.pixel_extractor import PixelExtractor

from guided_diffusion.evaluation import run
from guided_diffusion.evaluation.run import evaluate, report_path


def test_a_report_of_pictures_goes_beside_them_and_one_of_samples_among_them(samples, real, tmp_path) -> None:
    assert report_path(samples, PixelExtractor()).parent == samples
    assert report_path(real, PixelExtractor()) == tmp_path / "real-evaluation-classifier-runs-judge.json"
    with zipfile.ZipFile(tmp_path / "data.zip", "w"):
        pass
    inside = report_path(tmp_path / "data.zip" / "train" / "cats", PixelExtractor())
    assert inside == tmp_path / "data-train-cats-evaluation-classifier-runs-judge.json"
    with pytest.raises(ValueError, match="data.zip is a file; say with --out FILE where it may go"):
        run.refuse_unwritable(tmp_path / "data.zip" / "report.json")


def test_a_report_that_cannot_be_written_is_refused_before_anything_is_measured(samples, real, monkeypatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # as root, all may be written
    with pytest.raises(PermissionError, match=r"samples cannot be written to; say with --out FILE where it may go"):
        evaluate(generated=samples, real=real, extractor=PixelExtractor())
    with pytest.raises(ValueError, match="is a directory; give another --out"):
        evaluate(generated=samples, real=real, extractor=PixelExtractor(), out=samples)
