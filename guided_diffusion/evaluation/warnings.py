"""Reasons to doubt the numbers of an evaluation: too few images for what is made of them, and the same set twice."""

from .config import EvaluationConfig
from .inputs import Sides
from .measure import Measured
from .scoring import Target
from .statistics import Gaussian

FEWEST_PER_NEIGHBOUR = 10
"""Images for each neighbour that is looked at, below which balls reach across the set."""
FEWEST_PER_DIMENSION = 10
"""Samples for each feature, below which a bootstrap interval is much too wide."""
FEWEST_RESAMPLINGS = 40
"""Below which 95 % of them is not told from all."""


def doubts(samples: Measured, target: Target, *, sides: Sides, config: EvaluationConfig) -> list[str]:
    """What a reader should know before believing the numbers, a sentence each."""
    found = [low_rank(samples.pooled, "generated"), low_rank(target.pooled, "real")]
    if sides.generated.path.resolve() == sides.real.path.resolve():
        found.append(f"both sides are {sides.generated.path}: this says nothing about samples")
    for name, kept in (("generated", samples.manifold), ("real", target.manifold)):
        if kept is not None and len(kept) < FEWEST_PER_NEIGHBOUR * config.neighbours:
            found.append(
                f"the {name} side has {len(kept)} images to look for {config.neighbours} neighbours in: precision, "
                f"recall, density and coverage mean little"
            )
    splits, last = divmod(samples.pooled.count or 0, config.split_size)
    if splits and 0 < last < config.split_size // 2 and samples.probabilities is not None:
        found.append(f"the Inception Score's last split has {last} images and counts like the others, as published")
    if config.bootstrap:
        found += _of_the_bootstrap(samples, config)
    return [doubt for doubt in found if doubt]


def low_rank(statistics: Gaussian, side: str) -> str | None:
    """That one side, called `side`, has too few images for its covariance to have an inverse."""
    dimensions = len(statistics.mean)
    if statistics.count is None or statistics.count > dimensions:
        return None
    return (
        f"the {side} side has {statistics.count} images for features of {dimensions} dimensions: its covariance is "
        f"singular and the Fréchet distance strongly biased; give more than {dimensions} images"
    )


def _of_the_bootstrap(samples: Measured, config: EvaluationConfig) -> list[str]:
    count, dimensions = samples.manifold.shape
    found: list[str] = []
    if config.bootstrap < FEWEST_RESAMPLINGS:
        found.append(f"{config.bootstrap} resamplings do not show where 95 % of them lie; 200 do")
    if count < FEWEST_PER_DIMENSION * dimensions:
        found.append(
            f"with {count} samples of {dimensions} dimensions the bootstrap interval is too wide, by half or more; "
            f"from {25 * dimensions} on by a tenth"
        )
    return found
