"""Gain and cost of guidance above Bayes' rule, where the denoiser and the classifier are exact.

PYTHONPATH=tests python benchmarks/mixture_guidance.py

Mixtures of Gaussians in 4 dimensions (tests/oracles/mixture.py): classes of several components whose means are all
drawn from one standard normal, so that classes overlap and a class has modes near others and modes of its own. Scale 1
at every level is Bayes' rule and only the sampler errs. For each sampler, kind of guidance and scale the table has

  calls   of the classifier, each of a whole batch
  p(y|x)  the exact classifier's probability of the class asked for, at its least noisy level, on average
  modes   the effective number of the class's components: exp of the entropy of their average probability
  prec.   improved precision, by 3 neighbours, against as many exact draws of the class
  recall  improved recall, likewise
  FD      the Fréchet distance to the class's exact mean and covariance

within each class, averaged over classes and mixtures. The first row is that of a second set of exact draws.
"""

import math
import statistics
from collections.abc import Iterator
from dataclasses import astuple, dataclass, replace
from functools import cached_property

import torch
from einops import rearrange
from oracles.counting import Counted
from oracles.mixture import GaussianMixture, batch_noise, draws
from torch import Tensor

from guided_diffusion.config import run_command
from guided_diffusion.diffusion.schedules import ChainConfig, make_chain
from guided_diffusion.evaluation.metrics.frechet import frechet_distance
from guided_diffusion.evaluation.metrics.neighbours import precision_recall
from guided_diffusion.guidance import LogProb, ScoreTerm, classifier_score, entropy_scaled_score, within
from guided_diffusion.samplers import SamplerConfig, SamplerName, make_sampler

DIMENSIONS = 4

Kind = tuple[float, float] | None
"""An interval of sigma for a plain scale, or None for scaling by entropy at every level."""

EVERYWHERE = (0.0, math.inf)


@dataclass(frozen=True, kw_only=True)
class GuidanceBenchmark:
    """Prints a row for each sampler, kind of guidance and scale."""

    samplers: tuple[SamplerName, ...] = ("ddim", "dpmpp_2m")
    """Each in its own spacing of the linear chain."""
    steps: int = 25
    """Noise levels visited."""
    scales: tuple[float, ...] = (1.0, 1.5, 2.0, 4.0)
    """Of the classifier's gradient; each kind of guidance takes all of them."""
    intervals: tuple[tuple[float, float], ...] = ((0.0, 2.0), (0.3, 2.0), (0.3, math.inf))
    """Pairs of sigma between which a plain scale holds."""
    classes: int = 4
    """Number of classes, equally likely."""
    components: int = 5
    """Of each class, equally likely."""
    spread: float = 0.5
    """Standard deviation of a component in each direction; that of the components' means is 1."""
    blur: float = 0.0
    """Standard deviation of a Gaussian added to the data of the denoiser, not of the classifier, in imitation of a
    network that smooths; 0 is the exact denoiser."""
    samples: int = 1000
    """Of each class of each mixture."""
    mixtures: int = 3
    """Number of mixtures; seeds 0, 1, .. draw their means."""


@dataclass(frozen=True)
class Quality:
    """A row of the table: of one class's samples, or the average over several."""

    asked: float
    modes: float
    precision: float
    recall: float
    distance: float


@dataclass(frozen=True)
class Problem:
    """A mixture whose components are grouped into classes: those of class c are c K .. (c + 1) K - 1."""

    mixture: GaussianMixture
    classes: int
    samples: int

    @cached_property
    def y(self) -> Tensor:
        """The class asked of each sample (B,)."""
        return torch.arange(self.classes).repeat_interleave(self.samples)

    @cached_property
    def reference(self) -> Tensor:
        """Exact draws (B, D) of the classes y."""
        return self.draw(seed=0)

    def log_prob(self, x_t: Tensor, t: Tensor) -> Tensor:
        """log p(class | x_t) (B, classes): the exact classifier of noisy images."""
        return rearrange(self.mixture.log_prob(x_t, t), "b (c k) -> b c k", c=self.classes).logsumexp(dim=2)

    def draw(self, *, seed: int) -> Tensor:
        """x_0 (B, D) of the classes y, each from one of its components."""
        generator = torch.Generator().manual_seed(seed)
        components = len(self.mixture.weights) // self.classes
        chosen = torch.randint(components, self.y.shape, generator=generator)
        return self.mixture.draw(self.y * components + chosen, generator=generator)

    def moments(self, c: int) -> tuple[Tensor, Tensor]:
        """Exact mean (D,) and covariance (D, D) of class c."""
        means = rearrange(self.mixture.means, "(c k) d -> c k d", c=self.classes)[c]
        within_components = rearrange(self.mixture.covariances, "(c k) d e -> c k d e", c=self.classes)[c].mean(dim=0)
        return means.mean(dim=0), within_components + means.mT.cov(correction=0)

    def quality(self, x_0: Tensor) -> Quality:
        """Of samples x_0 (B, D) of the classes y, averaged over classes."""
        return average([self._class_quality(c, x_0[self.y == c]) for c in range(self.classes)])

    def _class_quality(self, c: int, x_0: Tensor) -> Quality:
        log_p = self.mixture.log_prob(x_0[:, :, None, None], self.mixture.chain.t[0].repeat(len(x_0)))
        of_class = rearrange(log_p, "b (c k) -> c b k", c=self.classes)[c]
        modes = of_class.softmax(dim=1).mean(dim=0)
        precision, recall = precision_recall(real=self.reference[self.y == c], generated=x_0)
        return Quality(
            asked=float(of_class.logsumexp(dim=1).exp().mean()),
            modes=float(torch.special.entr(modes).sum().exp()),
            precision=precision,
            recall=recall,
            distance=frechet_distance(x_0.mean(dim=0), x_0.mT.cov(), *self.moments(c)),
        )


def main(config: GuidanceBenchmark) -> None:
    """Prints the table."""
    problems = [mixture_problem(seed, config) for seed in range(config.mixtures)]
    print(f"{'sampler':>11} {'guidance':>16} scale calls p(y|x)  modes  prec. recall       FD")
    exact = average([problem.quality(problem.draw(seed=1)) for problem in problems])
    print(_row("exact draws", "", "", "", exact))
    for sampler in config.samplers:
        for kind, scale in _kinds(config):
            calls, quality = _measured(sampler, kind, scale, problems, config)
            print(_row(sampler, _name(kind), f"{scale:g}", str(calls), quality), flush=True)


def _kinds(config: GuidanceBenchmark) -> Iterator[tuple[Kind, float]]:
    yield EVERYWHERE, 0.0
    for kind in (EVERYWHERE, *config.intervals, None):
        for scale in config.scales:
            yield kind, scale


def _name(kind: Kind) -> str:
    if kind is None:
        return "by entropy"
    low, high = kind
    above, below = f"{low:g} < " if low > 0 else "", f" <= {high:g}" if high < math.inf else ""
    return f"{above}sigma{below}" if above or below else "all sigma"


def _term(kind: Kind, log_prob: LogProb, y: Tensor, scale: float) -> ScoreTerm:
    if kind is None:
        return entropy_scaled_score(log_prob, y, scale)
    return within(classifier_score(log_prob, y, scale), *kind)


def mixture_problem(seed: int, config: GuidanceBenchmark) -> Problem:
    """The mixture whose means a seed draws."""
    count = config.classes * config.components
    means = draws(count, DIMENSIONS, seed=seed)
    covariances = (config.spread**2 * torch.eye(DIMENSIONS, dtype=torch.float64)).repeat(count, 1, 1)
    weights = torch.full((count,), 1 / count, dtype=torch.float64)
    mixture = GaussianMixture(means, covariances, weights, make_chain(ChainConfig()))
    return Problem(mixture, config.classes, config.samples)


def _measured(
    name: SamplerName, kind: Kind, scale: float, problems: list[Problem], config: GuidanceBenchmark
) -> tuple[int, Quality]:
    """Calls of the classifier for one batch, and the samples' quality over all mixtures."""
    sampler = SamplerConfig(name=name, steps=config.steps)
    x_T, levels = draws(len(problems[0].y), DIMENSIONS, 1, 1, seed=101), sampler.levels(ChainConfig())
    blur_covariance = config.blur**2 * torch.eye(DIMENSIONS, dtype=torch.float64)
    calls, qualities = 0, list[Quality]()
    for problem in problems:
        denoiser = replace(problem.mixture, covariances=problem.mixture.covariances + blur_covariance).denoiser
        log_prob = Counted(problem.log_prob)
        term = _term(kind, log_prob, problem.y, scale)
        x_0 = make_sampler(sampler)(denoiser, levels, x_T, batch_noise(102), guidance=term)
        calls = log_prob.calls
        qualities.append(problem.quality(x_0.flatten(1)))
    return calls, average(qualities)


def average(qualities: list[Quality]) -> Quality:
    """The average of each number."""
    return Quality(*map(statistics.fmean, zip(*map(astuple, qualities), strict=True)))


def _row(sampler: str, kind: str, scale: str, calls: str, quality: Quality) -> str:
    figures = f"{quality.asked:6.3f} {quality.modes:6.2f} {quality.precision:6.3f} {quality.recall:6.3f}"
    return f"{sampler:>11} {kind:>16} {scale:>5} {calls:>5} {figures} {quality.distance:8.3f}"


if __name__ == "__main__":
    run_command(GuidanceBenchmark, main)
