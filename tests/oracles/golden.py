"""Numbers that the published implementation gave on a CPU in float32; the tests that read them say what they are."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

GOLDEN = Path(__file__).parents[1] / "golden"


def arrays(name: str) -> dict[str, Tensor]:
    """All arrays of tests/golden/<name>.npz."""
    with np.load(GOLDEN / f"{name}.npz") as stored:
        return {key: torch.from_numpy(stored[key]) for key in stored}


def sidecar(name: str) -> dict[str, Any]:  # JSON: each file has its own layout
    """The configuration beside the arrays."""
    return json.loads((GOLDEN / f"{name}.json").read_text())


def assert_near(actual: Tensor, expected: Tensor, relative_to_max: float) -> None:
    """Every element within `relative_to_max` of the largest expected magnitude."""
    assert actual.shape == expected.shape, f"shape {tuple(actual.shape)}, expected {tuple(expected.shape)}"
    error = float((actual.double() - expected.double()).abs().max())
    bound = relative_to_max * float(expected.double().abs().max())
    assert error <= bound, f"off by {error:.3g}, allowed {bound:.3g}"
