"""Ways to guide above Bayes' rule at equal certainty, with exact and with wrong models of Gaussian mixtures.

PYTHONPATH=tests:benchmarks python benchmarks/mixture_methods.py

The mixtures are those of mixture_guidance.py, sampled by 25 levels of DPM-Solver++(2M). Each method samples at several
scales; precision, recall and FD are interpolated linearly between them at the certainties asked for, the exact
classifier's mean p(y|x). "-": its scales do not reach that certainty. "calls": of the classifier at the middle scale.

  plain            s on every level
  sigma <= 2       s for sigma <= 2, nothing above it
  1, then s        s for sigma <= 1, and 1 above it: guidance.scale_outside
  by entropy       ED-DPM (2206.11474)
  KL(q, p), ..     divergence-regularised (2511.05844): forward, reverse, Jensen-Shannon
  feedback         2506.06085: s r / (r - (1 - pi)), at most 10 s, with r = p(y|x_t) / p(y)
  capped           plain, with moves of x_0 of at most 0.5: guidance.cap
  projected        APG (2410.02416) of the excess s - 1: momentum, a cap, and no part along x_0
  Gibbs-like       2505.21101: a sample at s = 1, then R times noise to sigma = 1 and denoising at s

Wrong models: a denoiser of blurred data (standard deviation 0.4); a classifier of doubled logits, overconfident; of
labels of which a fifth are drawn at random, underconfident; and one whose logits have waves added.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass, replace

import numpy as np
import torch
from einops import rearrange, reduce
from mixture_guidance import DIMENSIONS, GuidanceBenchmark, Problem, average, mixture_problem
from oracles.counting import Counted
from oracles.mixture import batch_noise, draws
from torch import Tensor

from guided_diffusion.config import run_command
from guided_diffusion.diffusion.chain import DiffusionChain, Step, inverse_signal, q_sample, scaled
from guided_diffusion.diffusion.denoiser import Denoiser, Estimate
from guided_diffusion.diffusion.noise import Noise
from guided_diffusion.diffusion.schedules import ChainConfig
from guided_diffusion.guidance import (
    LogProb,
    ScoreTerm,
    capped,
    classifier_score,
    divergence_score,
    entropy_scaled_score,
    feedback_score,
    within,
)
from guided_diffusion.guidance.divergence import forward_kl
from guided_diffusion.samplers import SamplerConfig, make_sampler

BLUR = 0.4
CAP = 0.5
MOMENTUM = -0.5
WAVES = 16


@dataclass(frozen=True, kw_only=True)
class MethodsBenchmark:
    """Prints a table for each pair of models."""

    models: tuple[str, ...] = ("exact", "blurred", "overconfident", "underconfident", "wavy")
    """Of the denoiser and classifier."""
    methods: tuple[str, ...] | None = None
    """null: all."""
    certainties: tuple[float, ...] = (0.85, 0.89, 0.93)
    """Of the exact classifier, at which methods are compared."""
    samples: int = 500
    """Of each class of each mixture."""
    mixtures: int = 2
    """Number of mixtures."""


@dataclass(frozen=True)
class Run:
    """All that a method guides with."""

    denoiser: Denoiser
    log_prob: LogProb
    y: Tensor
    levels: DiffusionChain
    noise: Noise

    def term(self, scale: float) -> ScoreTerm:
        return classifier_score(self.log_prob, self.y, scale)

    def sample(self, x_t: Tensor, term: ScoreTerm | None, denoiser: Denoiser | None = None, count: int = 0) -> Tensor:
        """Samples from x_t at the noisiest of the first `count` levels, or of all."""
        levels = self.levels.shortened(torch.arange(count)) if count else self.levels
        return make_sampler(SAMPLER)(denoiser or self.denoiser, levels, x_t, self.noise, guidance=term)


SAMPLER = SamplerConfig(name="dpmpp_2m", steps=25)

Method = Callable[[Run, Tensor, float], Tensor]
"""(run, x_T, scale) -> x_0."""


def plain(run: Run, x_T: Tensor, scale: float) -> Tensor:
    return run.sample(x_T, run.term(scale))


def in_interval(run: Run, x_T: Tensor, scale: float) -> Tensor:
    return run.sample(x_T, within(run.term(scale), 0.0, 2.0))


def one_outside(run: Run, x_T: Tensor, scale: float) -> Tensor:
    return run.sample(x_T, within(run.term(scale), 0.0, 1.0, outside=run.term(1.0)))


def by_entropy(run: Run, x_T: Tensor, scale: float) -> Tensor:
    return run.sample(x_T, entropy_scaled_score(run.log_prob, run.y, scale))


def reverse_kl(log_q: Tensor, log_p: Tensor) -> Tensor:
    """KL(p || q)."""
    return forward_kl(log_p, log_q)


def jensen_shannon(log_q: Tensor, log_p: Tensor) -> Tensor:
    """(KL(q || m) + KL(p || m)) / 2, m = (p + q) / 2: at most log 2."""
    log_m = torch.logaddexp(log_q, log_p) - math.log(2)
    return (forward_kl(log_q, log_m) + forward_kl(log_p, log_m)) / 2


def divergence(kind: Callable[[Tensor, Tensor], Tensor], *, weight: float, smoothing: float) -> Method:
    def guided(run: Run, x_T: Tensor, scale: float) -> Tensor:
        term = divergence_score(kind, run.log_prob, run.y, scale, weight=weight, smoothing=smoothing)
        return run.sample(x_T, term)

    return guided


def feedback(pi: float) -> Method:
    def guided(run: Run, x_T: Tensor, scale: float) -> Tensor:
        return run.sample(x_T, feedback_score(run.log_prob, run.y, scale, pi=pi))

    return guided


def with_cap(run: Run, x_T: Tensor, scale: float) -> Tensor:
    return run.sample(x_T, capped(run.term(scale), CAP))


def projected(run: Run, x_T: Tensor, scale: float) -> Tensor:
    """Bayes' rule, and scale - 1 of its move of x_0 with momentum, the cap and no part along x_0."""
    term, kept = run.term(1.0), torch.zeros_like(x_T)

    def denoiser(x_t: Tensor, step: Step) -> Estimate:
        nonlocal kept
        estimate = run.denoiser(x_t, step)
        move = scaled((1 - step.alpha_bar) * inverse_signal(step), term(x_t, step))
        kept = move + MOMENTUM * kept
        shortened = kept * (CAP * DIMENSIONS**0.5 / _length(kept)).clamp(max=1)
        direction = (estimate.x0 + move) / _length(estimate.x0 + move)
        across = shortened - reduce(shortened * direction, "b c h w -> b 1 1 1", "sum") * direction
        return replace(estimate, x0=estimate.x0 + move + (scale - 1) * across, mean=None)

    return run.sample(x_T, None, denoiser)


def gibbs(rounds: int) -> Method:
    def refined(run: Run, x_T: Tensor, scale: float) -> Tensor:
        x_0, count = run.sample(x_T, run.term(1.0)), int((run.levels.alpha_bar >= 0.5).sum())  # sigma <= 1
        for _ in range(rounds):
            x_t = q_sample(x_0, run.noise(x_0), run.levels.at(count - 1, like=x_0))
            x_0 = run.sample(x_t, run.term(scale), count=count)
        return x_0

    return refined


METHODS: Mapping[str, tuple[Method, tuple[float, ...]]] = {
    "plain": (plain, (0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0)),
    "sigma <= 2": (in_interval, (1.5, 2.0, 3.0, 4.0)),
    "1, then s": (one_outside, (1.25, 1.5, 2.0, 3.0, 4.0)),
    "by entropy": (by_entropy, (0.75, 1.0, 1.25, 1.5, 2.0)),
    "KL(q, p)": (divergence(forward_kl, weight=1.0, smoothing=0.3), (0.5, 0.75, 1.0, 1.5)),
    "KL(p, q)": (divergence(reverse_kl, weight=0.5, smoothing=0.1), (0.75, 1.0, 1.5, 2.0)),
    "JS(p, q)": (divergence(jensen_shannon, weight=1.0, smoothing=0.3), (1.0, 1.25, 1.5, 2.0)),
    "feedback 0.5": (feedback(0.5), (0.5, 0.75, 1.0, 1.5)),
    "feedback 0.8": (feedback(0.8), (0.75, 1.0, 1.5, 2.0)),
    "capped": (with_cap, (1.5, 2.0, 3.0, 4.0)),
    "projected": (projected, (1.25, 1.5, 2.0, 3.0)),
    "Gibbs-like, 1": (gibbs(1), (1.25, 1.5, 2.0, 3.0)),
    "Gibbs-like, 4": (gibbs(4), (1.25, 1.5, 2.0, 3.0)),
}


def overconfident(problem: Problem) -> LogProb:
    return lambda x_t, t: (2 * problem.log_prob(x_t, t)).log_softmax(dim=1)


def underconfident(problem: Problem) -> LogProb:
    return lambda x_t, t: (0.8 * problem.log_prob(x_t, t).exp() + 0.2 / problem.classes).log()


def wavy(problem: Problem) -> LogProb:
    """Of logits with sums of waves of x_t added, of standard deviation 1/4, whose phases differ between levels."""
    directions, amplitudes = draws(WAVES, DIMENSIONS, seed=7), draws(WAVES, problem.classes, seed=8)

    def log_prob(x_t: Tensor, t: Tensor) -> Tensor:
        phases = rearrange(t.double(), "b -> b 1") / 25 * torch.arange(1, WAVES + 1)
        waves = (x_t.flatten(1) @ directions.mT + phases).cos() @ amplitudes * math.sqrt(2 / WAVES)
        return (problem.log_prob(x_t, t) + waves / 4).log_softmax(dim=1)

    return log_prob


CLASSIFIERS: Mapping[str, Callable[[Problem], LogProb]] = {
    "exact": lambda problem: problem.log_prob,
    "blurred": lambda problem: problem.log_prob,
    "overconfident": overconfident,
    "underconfident": underconfident,
    "wavy": wavy,
}


def main(config: MethodsBenchmark) -> None:
    """Prints the tables."""
    of_mixtures = GuidanceBenchmark(samples=config.samples)
    problems = [mixture_problem(seed, of_mixtures) for seed in range(config.mixtures)]
    for models in config.models:
        heads = [f"{f'p(y|x) {certainty:g}':^19}" for certainty in config.certainties]
        print(f"\n{models:>15} calls   {' | '.join([*heads, 'lowest FD'])}")
        print(f"{'':>24}{' | '.join(['prec.  recall FD   '] * len(heads))} |")
        for name, (method, scales) in METHODS.items():
            if config.methods is None or name in config.methods:
                print(_row(name, method, scales, models, problems, config.certainties), flush=True)


def _row(
    name: str, method: Method, scales: tuple[float, ...], models: str, problems: list[Problem],
    certainties: tuple[float, ...],
) -> str:  # fmt: skip
    calls, curve = list[int](), list[tuple[float, ...]]()
    for scale in scales:
        called, *figures = _measured(method, scale, models, problems)
        calls.append(int(called))
        curve.append(tuple(figures))
    best, (asked, *others) = min(zip(curve, scales, strict=True), key=lambda one: one[0][-1]), np.array(sorted(curve)).T
    cells = [
        "{:.3f}  {:.3f}  {:.3f}".format(*(np.interp(certainty, asked, values) for values in others))
        if asked[0] <= certainty <= asked[-1] else "-".center(19)
        for certainty in certainties
    ]  # fmt: skip
    lowest = f"{best[0][-1]:.3f} at s {best[1]:g}, p {best[0][0]:.3f}"
    return f"{name:>15} {calls[len(calls) // 2]:>5}   " + " | ".join([*cells, lowest])


def _measured(method: Method, scale: float, models: str, problems: list[Problem]) -> tuple[float, ...]:
    """Calls of the classifier, certainty, precision, recall and FD over all mixtures."""
    x_T, levels = draws(len(problems[0].y), DIMENSIONS, 1, 1, seed=101), SAMPLER.levels(ChainConfig())
    calls, qualities = 0, []
    for problem in problems:
        blur = BLUR**2 * torch.eye(DIMENSIONS, dtype=torch.float64) if models == "blurred" else 0.0
        denoiser = replace(problem.mixture, covariances=problem.mixture.covariances + blur).denoiser
        log_prob = Counted(CLASSIFIERS[models](problem))
        run = Run(denoiser, log_prob, problem.y, levels, batch_noise(102))
        qualities.append(problem.quality(method(run, x_T, scale).flatten(1)))
        calls = log_prob.calls
    asked, _, *others = astuple(average(qualities))
    return calls, asked, *others


def _length(move: Tensor) -> Tensor:
    return reduce(move**2, "b c h w -> b 1 1 1", "sum").sqrt().clamp(min=1e-12)


if __name__ == "__main__":
    run_command(MethodsBenchmark, main)
