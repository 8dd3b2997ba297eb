"""From features and their statistics to numbers: pure functions that know neither networks nor files."""

import numpy as np
import torch
from scipy.linalg import eigvalsh, get_lapack_funcs
from torch import Tensor

# A covariance whose smallest pivot is below this share of its norm counts as singular. Roots are taken of eigenvalues
# of a product of two covariances: where each spreads over 1e8 the product does over 1e16, and its small eigenvalues are
# round-off, whose root is 1e-8 of the largest in each dimension. From a spread of 1e7 on, covariances are therefore
# factored instead of multiplied, which takes five times as long.
_SINGULAR = 1e-7
# How far a covariance may be from its transpose, as a share of its largest entry: what rounding to float32 explains.
_ASYMMETRY = 1e-5
# How much of a covariance may be left over when its positive part is taken out, as a share of its trace; float32
# statistics stay below.
_NOT_POSITIVE = 1e-4
_NOT_FINITE = "means and covariances must be finite"


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
    spread = float(cov_1.trace() + cov_2.trace()) - 2 * _trace_of_root(cov_1, cov_2)
    return max(float(separation) + spread, 0.0)


def checked_covariance(cov: Tensor) -> Tensor:
    """The symmetric part of a covariance (D, D), float64 on the CPU.

    Raises ValueError for what `frechet_distance` would refuse: entries that are not finite, a matrix that is not
    symmetric, eigenvalues below zero by more than rounding explains. Of 2048 dimensions that takes 0.2 s of one core,
    and 1 s if the matrix is singular.
    """
    _check_symmetric(cov)
    cov = (cov + cov.T) / 2
    if torch.linalg.cholesky_ex(cov).info:
        _thin_factor(cov)
    return cov


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


def kernel_distance(
    *, real: Tensor, generated: Tensor, subsets: int = 100, subset_size: int = 1000, seed: int = 2020
) -> tuple[float, float]:
    """E k(x, x') + E k(y, y') - 2 E k(x, y) with k(x, y) = (x.y / D + 1)^3, Bińkowski et al. 2018, eq. 4.

    The unbiased estimate of the squared maximum mean discrepancy, which may be negative: its mean over pairs of random
    subsets of the two sets, and standard deviation over them. On Inception features this is the KID.

    Features (N, D) and (M, D), computed in float64 on the CPU. Every subset is drawn without replacement, the generated
    one of a pair first, from one stream of random numbers: those that torch-fidelity draws from the same seed. Raises
    ValueError for a set smaller than a subset.
    """
    check_comparable(real=real, generated=generated)
    if subsets < 1 or subset_size < 2:
        raise ValueError(f"expected at least 1 pair of subsets of at least 2, got {subsets} of {subset_size}")
    for name, features in (("real", real), ("generated", generated)):
        if len(features) < subset_size:
            raise ValueError(
                f"{name} set has {len(features)} features, too few for subsets of {subset_size}; "
                f"give more images or lower subset_size"
            )
    draws = np.random.RandomState(seed)
    found: list[float] = []
    for _ in range(subsets):
        x, y = (_random_subset(features, subset_size, draws) for features in (generated, real))
        found.append(_squared_discrepancy(x, y))
    return float(np.mean(found)), float(np.std(found))


def check_features(features: Tensor, *, name: str) -> None:
    """Raises ValueError unless `features` is a matrix (N, D) of finite numbers, with N > 0."""
    _check_rows(features, f"{name} features")


def check_comparable(*, real: Tensor, generated: Tensor) -> None:
    """Raises ValueError unless these are features (N, D) and (M, D) of two sets."""
    check_features(real, name="real")
    check_features(generated, name="generated")
    if real.shape[1] != generated.shape[1]:
        raise ValueError(f"features of shapes {tuple(real.shape)} and {tuple(generated.shape)} cannot be compared")


def _check_rows(values: Tensor, name: str) -> None:
    if values.ndim != 2 or values.numel() == 0:
        raise ValueError(f"{name} must be a non-empty matrix, one row per image, got shape {tuple(values.shape)}")
    # Extremes are nan if any value is. To ask each value takes 400 MB for 50,000 Inception features.
    if not torch.isfinite(torch.stack(values.aminmax())).all():
        raise ValueError(f"{name} must be finite")


def _split_score(probabilities: Tensor) -> Tensor:
    p = probabilities.double()
    marginal = p.mean(dim=0, keepdim=True)
    # xlogy: a class of probability zero adds nothing, where p log p would give nan.
    return (torch.xlogy(p, p) - torch.xlogy(p, marginal)).sum(dim=1).mean().exp()


def _random_subset(features: Tensor, size: int, draws: np.random.RandomState) -> np.ndarray:
    drawn = torch.from_numpy(draws.choice(len(features), size, replace=False))
    return features[drawn.to(features.device)].double().cpu().numpy()


def _squared_discrepancy(x: np.ndarray, y: np.ndarray) -> float:
    """E k(x, x') + E k(y, y') - 2 E k(x, y) over pairs of different rows, for two matrices of the same shape."""
    pairs = len(x) * (len(x) - 1)
    within = [(kernel.sum() - kernel.trace()) / pairs for kernel in (_cubic_kernel(x, x), _cubic_kernel(y, y))]
    return float(within[0] + within[1] - 2 * _cubic_kernel(x, y).mean())


def _cubic_kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    # NumPy's: it computes half of x @ x.T and mirrors it. Its general power would take as long as the product.
    base = x @ y.T / x.shape[1] + 1
    return base * base * base


def _checked_gaussian(mean: Tensor, cov: Tensor) -> tuple[Tensor, Tensor]:
    mean, cov = mean.detach().cpu().double(), cov.detach().cpu().double()
    if mean.ndim != 1 or len(mean) == 0 or cov.shape != (len(mean), len(mean)):
        raise ValueError(
            f"expected a mean (D,) and a covariance (D, D), got {tuple(mean.shape)} and {tuple(cov.shape)}"
        )
    if not torch.isfinite(mean).all():
        raise ValueError(_NOT_FINITE)
    _check_symmetric(cov)
    return mean, cov


def _check_symmetric(cov: Tensor) -> None:
    largest = torch.stack(cov.aminmax()).abs().max()  # nan if an entry is
    if not torch.isfinite(largest):
        raise ValueError(_NOT_FINITE)
    if (cov - cov.T).max() > _ASYMMETRY * largest:
        raise ValueError("a covariance must be symmetric")


def _trace_of_root(cov_1: Tensor, cov_2: Tensor) -> float:
    """tr (cov_1 cov_2)^(1/2): the singular values' sum of L_1^T L_2, for any cov = L L^T."""
    factor = _regular_factor(cov_1)
    if factor is None or _regular_factor(cov_2) is None:
        return float(torch.linalg.svdvals(_thin_factor(cov_1).T @ _thin_factor(cov_2)).sum())
    # Their squares are the eigenvalues of L_1^T cov_2 L_1, which take a fifth of the time; LAPACK makes that product
    # for generalised eigenvalue problems, in a third of the time of two general ones. To scipy a tensor's memory is the
    # transpose, in Fortran's order: L_1 is the upper factor there.
    (two_sided_product,) = get_lapack_funcs(("sygst",), dtype=np.float64)
    product, _ = two_sided_product(cov_2.numpy().T, factor.numpy().T, itype=2, lower=0)
    squares = eigvalsh(product, lower=False, overwrite_a=True, check_finite=False, driver="ev")
    return float(np.sqrt(squares.clip(min=0)).sum())


def _regular_factor(cov: Tensor) -> Tensor | None:
    """L (D, D) lower triangular with L L^T = cov; None for a singular covariance."""
    factor, failed = torch.linalg.cholesky_ex(cov)
    # No pivot is below the smallest eigenvalue, and none need be near the largest, as the norm is.
    smallest = factor.diagonal().square().min()
    return None if failed or smallest < _SINGULAR * torch.linalg.matrix_norm(cov) else factor


def _thin_factor(cov: Tensor) -> Tensor:
    """L (D, rank) with L L^T = cov, by pivoted Cholesky: as many columns as there are directions with variance."""
    (pivoted_cholesky,) = get_lapack_funcs(("pstrf",), dtype=np.float64)
    packed, order, rank, _ = pivoted_cholesky(cov.numpy(), lower=1)
    factor = np.zeros((len(cov), rank))
    factor[order - 1] = np.tril(packed)[:, :rank]
    left_over = cov.numpy() - factor @ factor.T
    # What is left has no positive diagonal, so that of a positive matrix nothing is. Its diagonal alone does not tell:
    # it may be 0 where the rest is not.
    if max(abs(np.trace(left_over)), np.abs(left_over).max()) > _NOT_POSITIVE * float(cov.diagonal().abs().sum()):
        raise ValueError("a covariance must not have negative eigenvalues; the statistics are damaged")
    return torch.from_numpy(factor)
