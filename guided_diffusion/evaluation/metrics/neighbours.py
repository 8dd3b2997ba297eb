"""Precision and recall, density and coverage, by nearest neighbours of features.

Distances are computed in square blocks that fit a processor's cache, so that memory does not grow with the product of
the sets' sizes, and those within a set only once for each pair.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from ..config import EvaluationConfig
from ..measure import MeasuredSet
from .metric import Metric, Number, Result, check_comparable, check_rows

# Features on each side of a block of distances, 4 MiB of them in float32. Smaller blocks multiply more slowly; larger
# ones leave the cache before they are compared with the radii, and those of the diagonal find more distances twice.
_BLOCK_SIDE = 1024


def precision_recall(*, real: Tensor, generated: Tensor, k: int = 3) -> tuple[float, float]:
    """Improved precision and recall (Kynkäänniemi et al. 2019): (N, D) and (M, D) features of the two sets.

    Precision is the share of generated features inside the manifold of the real ones, recall the reverse. A set's
    manifold is the union of balls around its features that reach to their k-th nearest neighbours, boundary included.
    Distances in the features' precision, float32 at least.

    Raises:
        ValueError: a set of k or fewer features.
    """
    generated_inside, real_inside = manifold_membership(real=real, generated=generated, k=k)
    return float(generated_inside.double().mean()), float(real_inside.double().mean())


def manifold_membership(*, real: Tensor, generated: Tensor, k: int = 3) -> tuple[Tensor, Tensor]:
    """Bool (M,) of generated features inside the real manifold, and (N,) of real ones inside the generated."""
    real, generated = _comparable(real=real, generated=generated)
    real_radii = squared_manifold_radii(real, k=k, name="real")
    generated_radii = squared_manifold_radii(generated, k=k, name="generated")
    real_inside = torch.zeros(len(real), dtype=torch.bool, device=real.device)
    generated_inside = torch.zeros(len(generated), dtype=torch.bool, device=real.device)
    for rows, columns in _blocks(len(generated), len(real)):
        distances = _block_distances(generated, real, rows, columns)
        generated_inside[rows] |= (distances <= real_radii[columns]).any(dim=1)
        real_inside[columns] |= (distances <= generated_radii[rows, None]).any(dim=0)
    return generated_inside, real_inside


def density_coverage(*, real: Tensor, generated: Tensor, k: int = 5) -> tuple[float, float]:
    """Density and coverage (Naeem et al. 2020, eq. 3 and 4): (N, D) and (M, D) features of the two sets.

    Around each real feature is a ball that reaches to its k-th nearest neighbour. Density is the number of balls that a
    generated feature lies in, on average and divided by k: it may exceed 1. Coverage is the share of balls with a
    generated feature inside. The boundary is not inside, as the authors' code has it, so that a ball holds k features
    of its own set, the centre among them: a set has density and coverage 1 against itself, exactly, but for ties. What
    is just as far from the centre as the k-th neighbour does not count: repeated images, and, by float32's rounding,
    about one neighbour in 50,000. Distances in the features' precision, float32 at least.

    Raises:
        ValueError: a real set of k or fewer features.
    """
    real, generated = _comparable(real=real, generated=generated)
    radii = squared_manifold_radii(real, k=k, name="real")
    pairs = torch.zeros((), dtype=torch.int64, device=real.device)
    covered = torch.zeros(len(real), dtype=torch.bool, device=real.device)
    for rows, columns in _blocks(len(generated), len(real)):
        inside = _block_distances(generated, real, rows, columns) < radii[columns]
        pairs += inside.sum()
        covered[columns] |= inside.any(dim=0)
    return int(pairs) / (k * len(generated)), float(covered.double().mean())


def squared_manifold_radii(features: Tensor, *, k: int, name: str = "given") -> Tensor:
    """Squared distance (N,) from each feature to its k-th neighbour in the set: (k+1)-th smallest, itself included."""
    check_rows(features, f"{name} features")
    if k < 1:
        raise ValueError(f"k must be positive, got {k}")
    if len(features) <= k:
        raise ValueError(
            f"{name} set has {len(features)} features, but each needs {k} neighbours besides itself; give more images"
        )
    nearest = features.new_full((len(features), k + 1), torch.inf)
    for rows, columns in _blocks(len(features), len(features)):
        if rows.start > columns.start:
            continue  # the mirror image of a block that has its turn
        distances = _block_distances(features, features, rows, columns)
        nearest[columns] = _smallest(nearest[columns], distances.T)
        if rows != columns:
            nearest[rows] = _smallest(nearest[rows], distances)
    return nearest[:, -1]


def squared_distances(u: Tensor, v: Tensor) -> Tensor:
    """max(|u|^2 - 2 u.v + |v|^2, 0), as published, for all pairs of rows: (N, D) and (M, D) to (N, M)."""
    norms = u.square().sum(dim=1)[:, None] + v.square().sum(dim=1)
    return torch.addmm(norms, u, v.T, alpha=-2).clamp_min_(0)


def _comparable(*, real: Tensor, generated: Tensor) -> tuple[Tensor, Tensor]:
    check_comparable(real=real, generated=generated)
    dtype = torch.promote_types(torch.promote_types(real.dtype, generated.dtype), torch.float32)
    return real.to(dtype), generated.to(dtype)


def _blocks(num_rows: int, num_columns: int) -> Iterator[tuple[slice, slice]]:
    for row in range(0, num_rows, _BLOCK_SIDE):
        for column in range(0, num_columns, _BLOCK_SIDE):
            yield slice(row, min(row + _BLOCK_SIDE, num_rows)), slice(column, min(column + _BLOCK_SIDE, num_columns))


def _block_distances(u: Tensor, v: Tensor, rows: slice, columns: slice) -> Tensor:
    """Squared distances of u[rows] to v[columns].

    u v^T and (v u^T)^T differ in their last bits. The block that begins earlier is the left factor, here and for the
    radii, so that a set compared with itself finds the very distances that its radii are.
    """
    if rows.start <= columns.start:
        return squared_distances(u[rows], v[columns])
    return squared_distances(v[columns], u[rows]).T


def _smallest(nearest: Tensor, distances: Tensor) -> Tensor:
    """The smallest of each row of both, as many as `nearest` has columns, in ascending order."""
    both = torch.cat([nearest, distances.contiguous()], dim=1)  # a transposed matrix is joined five times as slowly
    return both.topk(nearest.shape[1], largest=False).values


FEWEST_PER_NEIGHBOUR = 10
"""Images for each neighbour that is looked at, below which balls reach across the set."""


def _precision_recall(generated: MeasuredSet, real: MeasuredSet, config: EvaluationConfig) -> Result:
    precision, recall = precision_recall(real=real.manifold, generated=generated.manifold, k=config.neighbours)
    return Result(values={"precision": precision, "recall": recall})


def _density_coverage(generated: MeasuredSet, real: MeasuredSet, config: EvaluationConfig) -> Result:
    k = config.density_neighbours
    if len(real.manifold) <= k:
        return Result(missing=f"it looks at {k} neighbours, of {len(real.manifold)} real images")
    density, coverage = density_coverage(real=real.manifold, generated=generated.manifold, k=k)
    return Result(values={"density": density, "coverage": coverage})


def _warnings(generated: MeasuredSet, real: MeasuredSet, config: EvaluationConfig) -> list[str]:
    sets = {"generated": generated, "real": real}
    counts = {name: one.manifold_size for name, one in sets.items() if one.features is not None}
    return [
        f"the {name} side has {count} images to look for {config.neighbours} neighbours in: precision, recall, "
        f"density and coverage mean little"
        for name, count in counts.items()
        if count < FEWEST_PER_NEIGHBOUR * config.neighbours
    ]


PRECISION_RECALL = Metric(
    numbers=(
        Number(key="precision", name="precision", is_headline=True),
        Number(key="recall", name="recall", is_headline=True),
    ),
    looks_at="features",
    compute=_precision_recall,
    warnings=_warnings,
    protocol={"settings.neighbours": "k of precision and recall"},
)
DENSITY_COVERAGE = Metric(
    numbers=(Number(key="density", name="density"), Number(key="coverage", name="coverage")),
    looks_at="features",
    compute=_density_coverage,
    protocol={"settings.density_neighbours": "k of density and coverage"},
)
