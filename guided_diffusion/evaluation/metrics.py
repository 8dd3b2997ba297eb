"""From features and their statistics to numbers: pure functions that know neither networks nor files."""

import numpy as np
import torch
from scipy.linalg import get_lapack_funcs
from torch import Tensor

# Below this ratio of a covariance's smallest to largest squared pivot it counts as singular. The square root in the
# distance turns eigenvalue noise of 1e-16 into 1e-8 per dimension, so that singular covariances are factored instead of
# squared.
_SINGULAR = 1e-12
# How much of a covariance's trace may be left over when its positive part is taken out; float32 statistics stay below.
_NOT_POSITIVE = 1e-4
# Squared distances held at once, 128 MiB of them.
_BLOCK_ENTRIES = 2**25


def frechet_distance(mean_1: Tensor, cov_1: Tensor, mean_2: Tensor, cov_2: Tensor) -> float:
    """|mean_1 - mean_2|^2 + tr(cov_1 + cov_2 - 2 (cov_1 cov_2)^(1/2)), Heusel et al. 2017, eq. 6.

    On Inception features this is the FID.

    means (D,), covs (D, D), computed in float64. The squared 2-Wasserstein distance of the two Gaussians: symmetric,
    and zero for equal ones. Covariances may be singular (fewer images than dimensions). Raises ValueError for shapes
    that do not fit, for entries that are not finite, and for matrices that are not covariances.
    """
    mean_1, cov_1 = _checked_gaussian(mean_1, cov_1)
    mean_2, cov_2 = _checked_gaussian(mean_2, cov_2)
    if len(mean_1) != len(mean_2):
        raise ValueError(
            f"features of {len(mean_1)} and {len(mean_2)} dimensions cannot be compared; "
            f"use one extractor for both sides"
        )
    separation = (mean_1 - mean_2).square().sum()
    spread = cov_1.trace() + cov_2.trace() - 2 * _trace_of_root(cov_1, cov_2)
    return max(float(separation + spread), 0.0)


def inception_score(probabilities: Tensor, *, split_size: int = 5000) -> tuple[float, float]:
    """exp(mean KL(p(y|x) || p(y))), Salimans et al. 2016: its mean over consecutive splits, and standard deviation.

    probabilities: (N, C), rows summing to one. A split holds `split_size` rows, the last may be short and counts the
    same, as published. Depends on the order of the rows if there is more than one split. Raises ValueError for other
    input.
    """
    _check_rows(probabilities, "probabilities")
    if split_size < 1:
        raise ValueError(f"split_size must be positive, got {split_size}")
    sums = probabilities.double().sum(dim=1)
    if (probabilities < 0).any() or (sums - 1).abs().max() > 1e-3:
        raise ValueError(
            f"rows of probabilities must sum to one, got {sums.min():.6g}..{sums.max():.6g}; pass a softmax, not logits"
        )
    scores = torch.stack([_split_score(split) for split in probabilities.split(split_size)])
    return float(scores.mean()), float(scores.std(correction=0))


def precision_recall(*, real: Tensor, generated: Tensor, k: int = 3) -> tuple[float, float]:
    """Improved precision and recall (Kynkäänniemi et al. 2019): (N, D) and (M, D) features of the two sets.

    Precision is the share of generated features inside the manifold of the real ones, recall the reverse. A set's
    manifold is the union of balls around its features that reach to their k-th nearest neighbours. Distances in
    float32, block by block. Raises ValueError for a set of k or fewer features.
    """
    generated_inside, real_inside = manifold_membership(real=real, generated=generated, k=k)
    return float(generated_inside.double().mean()), float(real_inside.double().mean())


def manifold_membership(*, real: Tensor, generated: Tensor, k: int = 3) -> tuple[Tensor, Tensor]:
    """Which generated features (M,) lie in the real manifold, and which real ones (N,) in the generated: bool."""
    if real.shape[1:] != generated.shape[1:]:
        raise ValueError(f"features of shapes {tuple(real.shape)} and {tuple(generated.shape)} cannot be compared")
    real_radii = squared_manifold_radii(real, k=k, name="real")
    generated_radii = squared_manifold_radii(generated, k=k, name="generated")
    real, generated = real.float(), generated.float()
    real_inside = torch.zeros(len(real), dtype=torch.bool, device=real.device)
    generated_inside = []
    for block in generated.split(_block_rows(len(real))):
        distances = squared_distances(block, real)
        generated_inside.append((distances <= real_radii).any(dim=1))
        radii = generated_radii[sum(map(len, generated_inside)) - len(block) :][: len(block)]
        real_inside |= (distances <= radii[:, None]).any(dim=0)
    return torch.cat(generated_inside), real_inside


def squared_manifold_radii(features: Tensor, *, k: int, name: str = "given") -> Tensor:
    """Squared distance (N,) from each feature to its k-th neighbour in the set: (k+1)-th smallest, itself included."""
    _check_rows(features, f"{name} features")
    if k < 1:
        raise ValueError(f"k must be positive, got {k}")
    if len(features) <= k:
        raise ValueError(
            f"{name} set has {len(features)} features, but each needs {k} neighbours besides itself; give more images"
        )
    features = features.float()
    blocks = features.split(_block_rows(len(features)))
    return torch.cat([squared_distances(block, features).topk(k + 1, largest=False).values[:, -1] for block in blocks])


def squared_distances(u: Tensor, v: Tensor) -> Tensor:
    """max(|u|^2 - 2 u.v + |v|^2, 0), as published, for all pairs of rows: (N, D) and (M, D) to (N, M)."""
    norms = u.square().sum(dim=1)[:, None] + v.square().sum(dim=1)
    return torch.addmm(norms, u, v.T, alpha=-2).clamp_min_(0)


def _check_rows(values: Tensor, name: str) -> None:
    if values.ndim != 2 or len(values) == 0:
        raise ValueError(f"{name} must be a non-empty matrix, one row per image, got shape {tuple(values.shape)}")
    if not torch.isfinite(values).all():
        raise ValueError(f"{name} must be finite")


def _split_score(probabilities: Tensor) -> Tensor:
    p = probabilities.double()
    marginal = p.mean(dim=0, keepdim=True)
    # xlogy: a class of probability zero adds nothing, where p log p would give nan.
    return (torch.xlogy(p, p) - torch.xlogy(p, marginal)).sum(dim=1).mean().exp()


def _block_rows(columns: int) -> int:
    return max(_BLOCK_ENTRIES // columns, 1)


def _checked_gaussian(mean: Tensor, cov: Tensor) -> tuple[Tensor, Tensor]:
    mean, cov = mean.detach().cpu().double(), cov.detach().cpu().double()
    if mean.ndim != 1 or cov.shape != (len(mean), len(mean)):
        raise ValueError(
            f"expected a mean (D,) and a covariance (D, D), got {tuple(mean.shape)} and {tuple(cov.shape)}"
        )
    if not (torch.isfinite(mean).all() and torch.isfinite(cov).all()):
        raise ValueError("means and covariances must be finite")
    if not torch.allclose(cov, cov.T, rtol=0, atol=1e-6 * float(cov.abs().max())):
        raise ValueError("a covariance must be symmetric")
    return mean, cov


def _trace_of_root(cov_1: Tensor, cov_2: Tensor) -> Tensor:
    """tr (cov_1 cov_2)^(1/2): the singular values' sum of L_1^T L_2, for any cov = L L^T."""
    chol_1, chol_2 = _regular_factor(cov_1), _regular_factor(cov_2)
    if chol_1 is not None and chol_2 is not None:
        return torch.linalg.eigvalsh(chol_1.T @ cov_2 @ chol_1).clamp_min(0).sqrt().sum()
    return torch.linalg.svdvals(_thin_factor(cov_1).T @ _thin_factor(cov_2)).sum()


def _regular_factor(cov: Tensor) -> Tensor | None:
    factor, failed = torch.linalg.cholesky_ex(cov)
    pivots = factor.diagonal().square()
    return None if failed or pivots.min() < _SINGULAR * pivots.max() else factor


def _thin_factor(cov: Tensor) -> Tensor:
    """L (D, rank) with L L^T = cov, by pivoted Cholesky: as many columns as there are directions with variance."""
    (pivoted_cholesky,) = get_lapack_funcs(("pstrf",), dtype=np.float64)
    packed, order, rank, _ = pivoted_cholesky(cov.numpy(), lower=1)
    factor = np.zeros((len(cov), rank))
    factor[order - 1] = np.tril(packed)[:, :rank]
    left_over = abs(float(cov.trace()) - float((factor**2).sum()))
    if left_over > _NOT_POSITIVE * float(cov.diagonal().abs().sum()):
        raise ValueError("a covariance must not have negative eigenvalues; the statistics are damaged")
    return torch.from_numpy(factor)
