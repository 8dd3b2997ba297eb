"""Numbers that the published implementation gave on a CPU in float32; the tests that read them say what they are.

golden/strip.py stores less of them than there was: of long results some elements, of results held to the bit a digest,
and arrays of one length as rows of one. A file over 100 KB is cut into parts.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

GOLDEN = Path(__file__).parents[1] / "golden"


def arrays(name: str) -> dict[str, Tensor]:
    """All arrays of tests/golden/<name>.npz and its parts <name>.1.npz, <name>.2.npz, .."""
    found: dict[str, Tensor] = {}
    for file in (GOLDEN / f"{name}.npz", *sorted(GOLDEN.glob(f"{name}.[0-9].npz"))):
        with np.load(file) as stored:
            for key in stored:
                if key.startswith("rows of "):
                    names = stored[key.replace("rows of ", "names of ")].tolist()
                    found |= dict(zip(names, torch.from_numpy(stored[key]), strict=True))
                elif not key.startswith("names of "):
                    found[key] = torch.from_numpy(stored[key])
    return found


def sidecar(name: str) -> dict[str, Any]:  # JSON: each file has its own layout
    """The configuration beside the arrays."""
    return json.loads((GOLDEN / f"{name}.json").read_text())


def sampled(x: Tensor, count: int) -> Tensor:
    """`count` elements of x in order: the first three, the last three, and between them evenly; all of a shorter x."""
    flat = x.flatten()
    if len(flat) <= count:
        return flat
    middle = [3 + i * (len(flat) - 6) // (count - 6) for i in range(count - 6)]
    return flat[[0, 1, 2, *middle, len(flat) - 3, len(flat) - 2, len(flat) - 1]]


def like(actual: Tensor, expected: Tensor) -> Tensor:
    """`actual`, or those of its elements that are stored if `expected` is a row of them."""
    return actual if actual.shape == expected.shape else sampled(actual, expected.numel())


def digest(array: np.ndarray) -> Tensor:
    """SHA-256 of an array's bytes, (32,) uint8."""
    sha256 = hashlib.sha256(np.ascontiguousarray(array).tobytes()).digest()
    return torch.frombuffer(bytearray(sha256), dtype=torch.uint8)


def assert_near(actual: Tensor, expected: Tensor, relative_to_max: float) -> None:
    """Every element that is stored within `relative_to_max` of the largest expected magnitude."""
    actual = like(actual, expected)
    assert actual.shape == expected.shape, f"shape {tuple(actual.shape)}, expected {tuple(expected.shape)}"
    error = float((actual.double() - expected.double()).abs().max())
    bound = relative_to_max * float(expected.double().abs().max())
    assert error <= bound, f"off by {error:.3g}, allowed {bound:.3g}"
