"""Exact float32 arithmetic, and names of files."""

import pytest
import torch

from guided_diffusion.evaluation.extractors.features import slug
from guided_diffusion.models.precision import exact_float32


def precisions() -> list[str]:
    backends = torch.backends
    operations = (backends.cudnn.conv, backends.cuda.matmul, backends.mkldnn.conv, backends.mkldnn.matmul)
    return [operation.fp32_precision for operation in operations]


def failing_computation(seen: list[str]) -> None:
    with exact_float32():
        seen.extend(precisions())
        raise ZeroDivisionError


@pytest.mark.parametrize("allowed", ["highest", "high", "medium"])
def test_float32_is_exact_within_and_as_before_afterwards(allowed: str) -> None:
    torch.set_float32_matmul_precision(allowed)
    try:
        before, legacy = precisions(), torch.backends.cudnn.allow_tf32
        within = []
        with pytest.raises(ZeroDivisionError):
            failing_computation(within)
        assert within == ["ieee"] * 4
        assert precisions() == before != ["ieee"] * 4
        assert torch.get_float32_matmul_precision() == allowed  # torch's older settings are not confused by the newer
        assert torch.backends.cudnn.allow_tf32 == legacy
    finally:
        torch.set_float32_matmul_precision("highest")


def test_a_program_that_allowed_tensorfloat_may_compute_within() -> None:
    torch.set_float32_matmul_precision("high")
    try:
        with exact_float32():
            x = torch.ones(2, 3, 8, 8)
            assert torch.nn.functional.conv2d(x, torch.ones(4, 3, 3, 3))[0, 0, 0, 0] == 27
            assert (x @ x)[0, 0, 0, 0] == 8
    finally:
        torch.set_float32_matmul_precision("highest")


def test_an_extractors_name_is_part_of_a_file_name() -> None:
    assert slug("classifier:runs/judge") == "classifier-runs-judge"
