"""Precision, recall, density and coverage: expectations in closed form, properties, golden numbers, torch-fidelity."""

from math import comb

import pytest
import torch
from oracles.golden import arrays, sidecar
from torch import Tensor
from torch.testing import assert_close

from guided_diffusion.evaluation.metrics.neighbours import (
    density_coverage,
    manifold_membership,
    precision_recall,
    squared_distances,
    squared_manifold_radii,
)

FLOAT64 = torch.float64


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=FLOAT64, generator=torch.Generator().manual_seed(seed))


def uniform_square(count: int, *, side: float, seed: int) -> Tensor:
    return side * (torch.rand(count, 2, dtype=FLOAT64, generator=torch.Generator().manual_seed(seed)) - 0.5)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("guided_diffusion.evaluation.metrics.neighbours._BLOCK_SIDE", 64)


def test_sets_of_one_distribution_have_the_expected_density_and_coverage() -> None:
    # Whatever the distribution, each of the other N - 1 + M is as likely to be a real feature's neighbour. It is not
    # covered if its k nearest are real, and k M / N generated ones come before its k-th real one.
    n, m, k = 60, 40, 3
    pairs = [(randn(n, 2, seed=2 * i), randn(m, 2, seed=2 * i + 1)) for i in range(400)]
    found = torch.tensor([density_coverage(real=real, generated=fake, k=k) for real, fake in pairs])
    expected = torch.tensor([1.0, 1 - comb(n - 1, k) / comb(n + m - 1, k)])
    standard_error = found.std(dim=0) / len(found) ** 0.5
    assert (standard_error < 0.006).all()
    assert ((found.mean(dim=0) - expected).abs() < 3 * standard_error).all()


def test_all_four_are_the_definitions_double_loops(small_blocks: None) -> None:
    real, generated, k = randn(90, 3), 1.3 * randn(150, 3, seed=1), 4
    between, within_real, within_generated = (
        torch.cdist(u, v, compute_mode="donot_use_mm_for_euclid_dist")
        for u, v in ((generated, real), (real, real), (generated, generated))
    )
    real_radii, generated_radii = (d.sort(dim=1).values[:, k] for d in (within_real, within_generated))
    in_real = [[float(between[i, j]) <= float(real_radii[j]) for j in range(90)] for i in range(150)]
    in_generated = [[float(between[i, j]) <= float(generated_radii[i]) for i in range(150)] for j in range(90)]
    precision, recall = precision_recall(real=real, generated=generated, k=k)
    assert precision == pytest.approx(sum(map(any, in_real)) / 150, rel=1e-15)
    assert recall == pytest.approx(sum(map(any, in_generated)) / 90, rel=1e-15)
    density, coverage = density_coverage(real=real, generated=generated, k=k)
    assert density == sum(map(sum, in_real)) / (k * 150)  # no distance equals a radius here: closed balls are open ones
    assert coverage == pytest.approx(sum(map(any, zip(*in_real, strict=True))) / 90, rel=1e-15)


def test_memberships_and_radii_are_the_published_evaluators() -> None:
    golden, scalars = arrays("evaluator"), sidecar("evaluator")["scalars"]
    # Times 300 the reference leaves float16: those are the numbers to compare with.
    real, generated = golden["ref_pool"] * 300, golden["sample_pool"] * 300
    generated_inside, real_inside = manifold_membership(real=real, generated=generated)
    assert torch.equal(generated_inside, golden["single_sample_inside_ref_manifold"])
    assert torch.equal(real_inside, golden["single_ref_inside_sample_manifold"])
    assert precision_recall(real=real, generated=generated) == (scalars["precision_single"], scalars["recall_single"])
    for features, name in ((real, "ref"), (generated, "sample")):
        # float32 sums in another order
        assert_close(squared_manifold_radii(features, k=3), golden[f"single_radii_{name}"][:, 0], rtol=1e-5, atol=0)


def test_squared_distances_are_those_of_the_definition() -> None:
    u, v = randn(5, 9), randn(7, 9, seed=1)
    assert_close(squared_distances(u, v), (u[:, None] - v).square().sum(dim=2), rtol=1e-12, atol=0)


@pytest.mark.parametrize("count", [17, 64, 300])
def test_a_set_covers_itself_entirely(count: int, small_blocks: None) -> None:
    # Float64's products of small matrices depend on the order of factors, here in a few of a hundred entries.
    features = randn(count, 37)
    assert precision_recall(real=features, generated=features.clone()) == (1, 1)
    assert density_coverage(real=features, generated=features.clone()) == (1, 1)


def test_repeated_images_cost_density_what_lies_on_the_boundary() -> None:
    lattice = torch.arange(10, dtype=FLOAT64)[:, None]
    # k = 2: an inner point's ball ends at both neighbours and holds the centre alone, one at an end holds one more.
    assert density_coverage(real=lattice, generated=lattice, k=2) == ((8 * 1 + 2 * 2) / (2 * 10), 1)
    assert precision_recall(real=lattice, generated=lattice, k=2) == (1, 1)
    same = torch.ones(6, 1, dtype=FLOAT64)
    assert density_coverage(real=same, generated=same) == (0, 0)
    assert precision_recall(real=same, generated=same) == (1, 1)


def test_a_collapsed_set_is_precise_and_dense_and_covers_nothing() -> None:
    real, collapsed = randn(500, 4), 0.01 * randn(500, 4, seed=1)
    precision, recall = precision_recall(real=real, generated=collapsed)
    density, coverage = density_coverage(real=real, generated=collapsed)
    assert (precision, recall) == (1, 0)
    assert density > 1
    assert coverage < 0.1


def test_a_cloud_twice_as_wide_recalls_and_is_imprecise_and_thin() -> None:
    real, wide = uniform_square(1000, side=1, seed=0), uniform_square(1000, side=2, seed=1)
    precision, recall = precision_recall(real=real, generated=wide)
    density, coverage = density_coverage(real=real, generated=wide)
    assert recall > 0.9
    assert 0.2 < precision < 0.4  # a quarter of the wide square lies inside, and balls reach out a little
    assert 0.2 < density < 0.4
    # A ball holds 5 of 1000 real ones and so, on average, 1.25 generated ones: none of them in e^-1.25 of the balls, or
    # somewhat more, as balls differ in size.
    assert 0.6 < coverage < 0.75


def test_swapping_the_sides_swaps_precision_and_recall() -> None:
    first, second = randn(200, 3), 1.5 * randn(150, 3, seed=1)
    forth = precision_recall(real=first, generated=second)
    assert forth == tuple(reversed(precision_recall(real=second, generated=first)))


def test_the_order_of_the_features_does_not_matter(small_blocks: None) -> None:
    real, generated = randn(200, 5), 1.2 * randn(150, 5, seed=1)
    order = torch.Generator().manual_seed(2)
    shuffled = {
        "real": real[torch.randperm(200, generator=order)],
        "generated": generated[torch.randperm(150, generator=order)],
    }
    assert precision_recall(**shuffled) == precision_recall(real=real, generated=generated)
    assert density_coverage(**shuffled) == density_coverage(real=real, generated=generated)


def test_numbers_do_not_depend_on_the_block_size(monkeypatch: pytest.MonkeyPatch) -> None:
    real, generated = randn(120, 8), randn(70, 8, seed=1)
    whole = *manifold_membership(real=real, generated=generated), squared_manifold_radii(real, k=3)
    density = density_coverage(real=real, generated=generated)
    monkeypatch.setattr("guided_diffusion.evaluation.metrics.neighbours._BLOCK_SIDE", 17)
    assert all(map(torch.equal, manifold_membership(real=real, generated=generated), whole[:2]))
    assert_close(squared_manifold_radii(real, k=3), whole[2], rtol=1e-12, atol=0)
    assert density_coverage(real=real, generated=generated) == density


def test_half_precision_is_widened_and_float64_is_kept() -> None:
    # Squared, the offset is 4e8: float32 would round it to 32, and float64 to 6e-8.
    real, generated = randn(100, 4), 1.2 * randn(100, 4, seed=1)
    near = precision_recall(real=real, generated=generated)
    assert precision_recall(real=real + 1e4, generated=generated + 1e4) == near
    half = precision_recall(real=real.half(), generated=generated)
    assert half == precision_recall(real=real.half().double(), generated=generated)


def test_sets_without_enough_neighbours_are_refused() -> None:
    for metric, side in ((precision_recall, "generated"), (density_coverage, "real")):
        sets = {"real": randn(9, 2), "generated": randn(9, 2)} | {side: randn(3, 2)}
        with pytest.raises(
            ValueError, match=f"{side} set has 3 features, but each needs 3 neighbours besides itself; give more images"
        ):
            metric(**sets, k=3)
        with pytest.raises(ValueError, match=r"features of shapes \(9, 2\) and \(9, 3\) cannot be compared"):
            metric(real=randn(9, 2), generated=randn(9, 3))
        with pytest.raises(ValueError, match="generated features must be a non-empty matrix"):
            metric(real=randn(9, 2), generated=randn(0, 2))
        with pytest.raises(ValueError, match="real features must be finite"):
            metric(real=randn(9, 2).log(), generated=randn(9, 2))
        with pytest.raises(ValueError, match="k must be positive, got 0"):
            metric(real=randn(9, 2), generated=randn(9, 2), k=0)


@pytest.mark.parametrize("function", ["calculate_precision_recall_full", "calculate_precision_recall_part"])
def test_torch_fidelity_agrees_on_the_same_features(function: str) -> None:
    prc = pytest.importorskip("torch_fidelity.metric_prc")
    real, generated = randn(400, 24).float(), 1.2 * randn(300, 24, seed=1).float() + 0.1
    assert precision_recall(real=real, generated=generated) == pytest.approx(
        getattr(prc, function)(generated, real), abs=1e-7
    )  # they average in float32
