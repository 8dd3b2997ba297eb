"""Arithmetic of the features: exact float32, and recorded in the protocol."""

import platform
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from evaluation.pixel_extractor import PixelExtractor, noisy_images, save_class_folders
from torch import Tensor

from guided_diffusion.evaluation.config import EvaluationConfig
from guided_diffusion.evaluation.extractors.features import Features
from guided_diffusion.evaluation.inputs import MeasuredReal, open_generated, open_real
from guided_diffusion.evaluation.measure import MeasuredSet
from guided_diffusion.evaluation.protocol import protocol_record
from guided_diffusion.evaluation.run import evaluate
from guided_diffusion.evaluation.statistics import Gaussian

LABELS = torch.arange(3).repeat_interleave(10)


@pytest.fixture
def real(tmp_path: Path) -> Path:
    return save_class_folders(tmp_path / "real", noisy_images(LABELS, seed=1), LABELS)


@pytest.fixture
def tf32_allowed() -> Iterator[None]:
    operations = torch.backends.cudnn.conv, torch.backends.cuda.matmul
    before = [operation.fp32_precision for operation in operations]
    for operation in operations:
        operation.fp32_precision = "tf32"
    yield
    for operation, precision in zip(operations, before, strict=True):
        operation.fp32_precision = precision


@dataclass(frozen=True)
class Watched(PixelExtractor):
    """Asks what it is computed with."""

    precisions: set[str] = field(default_factory=set)

    def __call__(self, images_uint8: Tensor) -> Features:
        backends: Any = torch.backends  # untyped there
        self.precisions.update(kind.fp32_precision for kind in (backends.cudnn.conv, backends.cuda.matmul))
        return super().__call__(images_uint8)


@pytest.mark.usefixtures("tf32_allowed")
def test_extractors_compute_as_the_record_says_whatever_the_process_is_set_to(tmp_path, real) -> None:
    watched = Watched()
    report = evaluate(
        generated=real,
        real=real,
        extractor=watched,
        config=EvaluationConfig(kid_subset_size=5),
        out=tmp_path / "report.json",
    )
    assert watched.precisions == {"ieee"}
    told = report.protocol["arithmetic"]
    assert (told["features"], told["statistics"]) == ("float32, TensorFloat-32 off", "float64")


def test_the_device_is_that_of_the_features(real) -> None:
    """Not the default one."""
    samples = MeasuredSet(
        pooled=Gaussian(torch.zeros(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64), 9),
        features=torch.zeros(9, 2),
        manifold_size=9,
        device=torch.device("meta"),
    )
    config, network = EvaluationConfig(), PixelExtractor()
    opened = open_real(real, shape=(6, 6, 3), extractor=network, config=config)
    target = MeasuredReal(
        input=opened, measured=samples, shape=(6, 6, 3), extractor_sha256=network.sha256, config=config
    )
    found = protocol_record(open_generated(real, config=config), samples, target, network)
    assert found["arithmetic"]["device"] == f"meta, {platform.machine()}"
