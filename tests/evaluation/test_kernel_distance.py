"""The kernel distance: closed forms, its being without bias, its definition as a double loop, torch-fidelity."""

import numpy as np
import pytest
import torch
from torch import Tensor

from guided_diffusion.evaluation.metrics.kernel import kernel_distance

FLOAT64 = torch.float64


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=FLOAT64, generator=torch.Generator().manual_seed(seed))


def test_two_points_are_as_far_apart_as_the_kernel_says() -> None:
    a, b = torch.tensor([1.0, 2.0], dtype=FLOAT64), torch.tensor([-0.5, 3.0], dtype=FLOAT64)
    kernel = [float((u @ v / 2 + 1) ** 3) for u, v in ((a, a), (b, b), (a, b))]
    found = kernel_distance(real=a.expand(8, 2), generated=b.expand(9, 2), subsets=3, subset_size=5)
    assert found == (pytest.approx(kernel[0] + kernel[1] - 2 * kernel[2], rel=1e-14), pytest.approx(0, abs=1e-14))


def test_it_is_the_definitions_double_loop() -> None:
    x, y, size = randn(12, 3), randn(12, 3, seed=1) + 0.3, 12

    def kernel(u: Tensor, v: Tensor) -> float:
        return (float(u @ v) / 3 + 1) ** 3

    within = sum(kernel(s[i], s[j]) for s in (x, y) for i in range(size) for j in range(size) if i != j)
    between = sum(kernel(u, v) for u in x for v in y)
    expected = within / (size * (size - 1)) - 2 * between / size**2
    found = kernel_distance(real=x, generated=y, subsets=2, subset_size=size)  # whole sets, whatever their order
    assert found == (pytest.approx(expected, rel=1e-12), pytest.approx(0, abs=1e-12))


@pytest.mark.parametrize("shift", [0.0, 0.4])
def test_its_expectation_is_the_distance_of_the_distributions(shift: float) -> None:
    # Of numbers, it is a weighted sum of squared differences of the first three moments. With the
    # terms k(x, x) it would be 2.4 larger at shift 0.
    moments = np.array([shift, 1 + shift**2, shift**3 + 3 * shift]) - np.array([0, 1, 0])
    expected = float(np.array([3, 3, 1]) @ moments**2)
    sets = [(randn(20, 1, seed=2 * i), randn(20, 1, seed=2 * i + 1) + shift) for i in range(1000)]
    found = np.array([kernel_distance(real=x, generated=y, subsets=1, subset_size=20)[0] for x, y in sets])
    standard_error = found.std() / len(found) ** 0.5
    assert standard_error < 0.2
    assert abs(found.mean() - expected) < 3 * standard_error
    assert shift or (found < 0).mean() > 0.3


@pytest.mark.parametrize("seed", [2020, 5])
def test_torch_fidelity_draws_the_same_subsets_and_agrees(seed: int) -> None:
    kid = pytest.importorskip("torch_fidelity.metric_kid")
    real, generated = randn(130, 24), 1.2 * randn(170, 24, seed=1) + 0.1
    theirs = kid.kid_features_to_metric(
        generated, real, kid_subsets=7, kid_subset_size=50, rng_seed=seed, verbose=False
    )
    found = kernel_distance(real=real, generated=generated, subsets=7, subset_size=50, seed=seed)
    expected = (theirs["kernel_inception_distance_mean"], theirs["kernel_inception_distance_std"])
    assert found == pytest.approx(expected, rel=1e-12)


def test_float32_features_are_computed_with_in_float64_and_global_randomness_is_left_alone() -> None:
    real, generated = randn(40, 6).float() + 5, randn(40, 6, seed=1).float() + 5
    before = np.random.get_state()[1].copy()
    found = kernel_distance(real=real, generated=generated, subsets=3, subset_size=20)
    assert found == kernel_distance(real=real.double(), generated=generated.double(), subsets=3, subset_size=20)
    assert np.array_equal(before, np.random.get_state()[1])


@pytest.mark.parametrize("side", ["real", "generated"])
def test_a_set_smaller_than_a_subset_is_refused(side: str) -> None:
    sets = {"real": randn(30, 2), "generated": randn(30, 2)} | {side: randn(9, 2)}
    with pytest.raises(
        ValueError, match=f"{side} set has 9 features, too few for subsets of 10; give more images or lower subset_size"
    ):
        kernel_distance(**sets, subset_size=10)


def test_other_input_is_refused() -> None:
    with pytest.raises(ValueError, match="expected at least 1 pair of subsets of at least 2, got 0 of 10"):
        kernel_distance(real=randn(30, 2), generated=randn(30, 2), subsets=0, subset_size=10)
    with pytest.raises(ValueError, match="expected at least 1 pair of subsets of at least 2, got 100 of 1"):
        kernel_distance(real=randn(30, 2), generated=randn(30, 2), subset_size=1)
    with pytest.raises(ValueError, match="cannot be compared"):
        kernel_distance(real=randn(30, 2), generated=randn(30, 3))
    with pytest.raises(ValueError, match="generated features must be finite"):
        kernel_distance(real=randn(30, 2), generated=randn(30, 2).log())
