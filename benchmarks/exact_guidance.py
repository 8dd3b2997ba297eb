"""Guidance alone and by particles against exact draws of p(x) p(y | x)^s, where denoiser and classifier are exact.

PYTHONPATH=tests:benchmarks python benchmarks/exact_guidance.py
PYTHONPATH=tests:benchmarks python benchmarks/exact_guidance.py --settings '[]' --figure docs/exact_guidance.png

The mixtures of benchmarks/mixture_guidance.py: 4 classes of 5 components in 4 dimensions. Samples of ddpm, the
posterior's variance, on evenly spaced links. For each setting the table has, averaged over classes and mixtures,

  FD      Fréchet distance of the points to 20,000 exact draws, found by rejection; the first row has as many exact
          draws as there are samples
  p(y|x)  probability of the class asked for, at the chain's first timestep
  log Z   error of the estimate of log E_{p(x)} p(y | x)^s from the mean weight, root mean square over classes
  ESS     the smallest effective share of the particles over the levels, averaged over samples
  nats    spent, 1/2 the sum of term.S.term

"V = s log c" is the twisted weight with s at every level in place of 1 + (s - 1) alpha_bar.
"doubled" is a classifier whose logits are doubled at every level but the first timestep.
"""

import math
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.figure import Figure
from mixture_guidance import GuidanceBenchmark, Problem, mixture_problem
from oracles.mixture import GaussianMixture, batch_noise, draws
from torch import Tensor

from guided_diffusion.config import run_command
from guided_diffusion.diffusion.schedules import ChainConfig, make_chain, sampling_chain
from guided_diffusion.evaluation.metrics.frechet import frechet_distance
from guided_diffusion.guidance import LogProb, class_log_density, classifier_score
from guided_diffusion.guidance.nats import NatsMeter
from guided_diffusion.guidance.twist import Twist
from guided_diffusion.samplers import SamplerConfig, ddpm
from guided_diffusion.samplers.config import make_particle_filter
from guided_diffusion.samplers.particles import Weight

REFERENCE = 20_000
"""Exact draws of each class, whose moments stand for the law's own."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Rows of the table: guidance alone, then particles with either weight."""

    scale: float
    links: int
    count: int
    """Particles."""
    classifier: str = "exact"


SETTINGS = (
    Setting(scale=1, links=100, count=4),
    Setting(scale=2, links=25, count=8),
    Setting(scale=2, links=60, count=8),
    Setting(scale=2, links=200, count=8),
    Setting(scale=4, links=60, count=16),
    Setting(scale=2, links=60, count=16, classifier="doubled"),
)


@dataclass(frozen=True, kw_only=True)
class ExactGuidanceBenchmark:
    """Prints the table, or draws the figure."""

    settings: tuple[Setting, ...] = SETTINGS
    samples: int = 1000
    """Of each class of each mixture."""
    mixtures: int = 2
    """Number of mixtures; seeds 0, 1, .. draw their means."""
    figure: Path | None = None
    """PNG to write, of a mixture in 2 dimensions."""


@dataclass(frozen=True)
class Samples:
    """Samples (B, D) of one class, and what was measured of them."""

    x_0: Tensor
    log_z: float = math.nan
    ess: float = math.nan
    nats: float = math.nan


Method = Callable[[GaussianMixture, LogProb, int, int], Samples]
"""(mixture, log_prob, class, number) -> samples."""


def doubled(log_prob: LogProb) -> LogProb:
    """Logits times 2, but at the first timestep."""
    return lambda x_t, t: ((1.0 + (t[:, None] > 0)) * log_prob(x_t, t)).log_softmax(dim=1)


def alone(scale: float, links: int) -> Method:
    """Guidance alone: ddpm with the mean shift."""

    def sampled(mixture: GaussianMixture, log_prob: LogProb, c: int, count: int) -> Samples:
        meter, chain = NatsMeter(), sampling_chain(ChainConfig(), str(links))
        term = meter.metered(classifier_score(log_prob, torch.full((count,), c), scale))
        x_T = draws(count, mixture.means.shape[1], 1, 1, seed=101 + c)
        x_0 = ddpm(mixture.denoiser, chain, x_T, batch_noise(c), mean_shift=term, on_step=meter.on_step)
        return Samples(x_0.flatten(1), nats=float(torch.stack(meter.by_level).sum(dim=0).mean()))

    return sampled


def by_particles(scale: float, links: int, particles: int, weight: Weight, *, rises: bool) -> Method:
    """One of each sample's particles; rises: the twist's power rises to the scale as noise falls."""

    def sampled(mixture: GaussianMixture, log_prob: LogProb, c: int, count: int) -> Samples:
        density = class_log_density(log_prob, torch.full((count * particles,), c))
        generator = torch.Generator().manual_seed(c)
        weighted = make_particle_filter(SamplerConfig(name="ddpm"), particles, weight)(
            mixture.denoiser,
            sampling_chain(ChainConfig(), str(links)),
            draws(count * particles, mixture.means.shape[1], 1, 1, seed=101 + c),
            batch_noise(c),
            twist=Twist(((density, scale),), rises=rises),
            choices=lambda: torch.rand(count, generator=generator, dtype=torch.float64),
        )
        log_z = float(weighted.log_mean_weight.logsumexp(dim=0)) - math.log(count)
        ess, nats = float(weighted.ess.min(dim=0).values.mean()), float(weighted.nats.sum(dim=0).mean())
        return Samples(weighted.x_0.flatten(1), log_z, ess, nats)

    return sampled


def exact_draws(problem: Problem, scale: float, c: int, count: int, *, seed: int) -> Tensor:
    """Draws (count, D) of p(x) p(c | x)^scale by rejection: from p(x), kept with probability p(c | x)^scale."""
    generator, kept = torch.Generator().manual_seed(seed), list[Tensor]()
    while sum(map(len, kept)) < count:
        components = torch.randint(len(problem.mixture.weights), (20_000,), generator=generator)
        x_0 = problem.mixture.draw(components, generator=generator)
        u = torch.rand(len(x_0), generator=generator, dtype=torch.float64)
        kept.append(x_0[u.log() < scale * certainty(problem, x_0, c)])
    return torch.cat(kept)[:count]


def certainty(problem: Problem, x_0: Tensor, c: int) -> Tensor:
    """log p(c | x_0) (B,), at the first timestep."""
    return problem.log_prob(x_0[:, :, None, None], problem.mixture.chain.t[0].repeat(len(x_0)))[:, c]


def main(config: ExactGuidanceBenchmark) -> None:
    """Prints the table, or draws the figure."""
    if config.figure is not None:
        figure().savefig(config.figure, dpi=100)
    problems = [mixture_problem(seed, GuidanceBenchmark(samples=1)) for seed in range(config.mixtures)]
    if config.settings:
        print(f"{'classifier':>10} {'s':>2} {'links':>5} {'guidance':>18}    FD   p(y|x) log Z   ESS   nats")
    for setting in config.settings:
        for name, cells in rows(setting, problems, config.samples):
            where = f"{setting.classifier:>10} {setting.scale:>2g} {setting.links:>5}"
            print(f"{where} {name:>18} {cells}", flush=True)


def rows(setting: Setting, problems: list[Problem], count: int) -> Iterator[tuple[str, str]]:
    """Name and numbers of each way to sample at a setting."""
    scale, links, particles = setting.scale, setting.links, setting.count
    reference = [[exact_draws(one, scale, c, REFERENCE, seed=7) for c in range(one.classes)] for one in problems]
    z = [[_log_z(one, scale, c) for c in range(one.classes)] for one in problems]
    methods: dict[str, Method | None] = {
        "exact draws": None,
        "alone": alone(scale, links),
        f"K = {particles} twisted": by_particles(scale, links, particles, "twisted", rises=True),
        f"K = {particles} FK": by_particles(scale, links, particles, "feynman_kac", rises=False),
    }
    if scale > 1:
        methods[f"K = {particles} V = s log c"] = by_particles(scale, links, particles, "twisted", rises=False)
    for name, method in methods.items():
        found = list[tuple[float, ...]]()
        for problem, of_class, log_z in zip(problems, reference, z, strict=True):
            log_prob = problem.log_prob if setting.classifier == "exact" else doubled(problem.log_prob)
            for c, exact in enumerate(of_class):
                if method is None:
                    made = Samples(exact_draws(problem, scale, c, count, seed=3))
                else:
                    made = method(problem.mixture, log_prob, c, count)
                asked = float(certainty(problem, made.x_0, c).exp().mean())
                found.append((_distance(made.x_0, exact), asked, (made.log_z - log_z[c]) ** 2, made.ess, made.nats))
        distance, asked, error, ess, nats = map(statistics.fmean, zip(*found, strict=True))
        yield name, f"{distance:6.4f} {asked:6.3f} {error**0.5:6.3f} {ess:6.3f} {nats:6.2f}"


def _log_z(problem: Problem, scale: float, c: int) -> float:
    generator = torch.Generator().manual_seed(5)
    components = torch.randint(len(problem.mixture.weights), (400_000,), generator=generator)
    log_w = scale * certainty(problem, problem.mixture.draw(components, generator=generator), c)
    return float(log_w.logsumexp(dim=0)) - math.log(len(log_w))


def _distance(x: Tensor, other: Tensor) -> float:
    return frechet_distance(x.mean(dim=0), x.mT.cov(), other.mean(dim=0), other.mT.cov())


def figure() -> Figure:
    """Samples of one class of a mixture in 2 dimensions at s = 4: exact draws, guidance alone, and particles."""
    means = torch.tensor([[-1.2, 0.9], [0.4, 1.5], [1.5, 0.2], [0.1, 0.3], [-0.4, -1.0], [1.0, -1.2]]).double()
    covariances = (0.35**2 * torch.eye(2, dtype=torch.float64)).repeat(6, 1, 1)
    mixture = GaussianMixture(means, covariances, torch.full((6,), 1 / 6).double(), make_chain(ChainConfig()))
    problem = Problem(mixture, 2, 1)
    count, scale, links = 1500, 4.0, 100
    by_16 = by_particles(scale, links, 16, "twisted", rises=True)
    panels = {
        "exact draws of p(x) p(y given x)⁴": Samples(exact_draws(problem, scale, 0, count, seed=1)),
        "guidance alone, s = 4": alone(scale, links)(mixture, problem.log_prob, 0, count),
        "16 particles, s = 4": by_16(mixture, problem.log_prob, 0, count),
    }
    drawn = Figure(figsize=(10.5, 3.9), layout="constrained")
    axis_x, axis_y = torch.linspace(-2.4, 2.6, 120).double(), torch.linspace(-2.2, 2.6, 120).double()
    grid = torch.stack(torch.meshgrid(axis_x, axis_y, indexing="xy"), dim=-1).reshape(-1, 2)
    log_p = mixture.log_density(grid[:, :, None, None], mixture.chain.at(0, like=grid))
    exact = (log_p + scale * certainty(problem, grid, 0)).reshape(120, 120)
    for axis, (title, made) in zip(drawn.subplots(1, 3, sharex=True, sharey=True), panels.items(), strict=True):
        levels = [float(exact.max()) - drop for drop in (4.5, 2.0, 0.5)]
        axis.contour(axis_x, axis_y, exact, levels=levels, colors="black", linewidths=0.8, linestyles="solid")
        axis.scatter(*made.x_0.T, s=3, alpha=0.35, color="tab:blue", linewidths=0)
        axis.scatter(*means[3:].T, marker="x", color="tab:red", s=40)
        reference = exact_draws(problem, scale, 0, REFERENCE, seed=7)
        axis.set_title(f"{title}\nFD {_distance(made.x_0, reference):.3f}", fontsize=10)
        axis.set_aspect("equal")
    return drawn


if __name__ == "__main__":
    run_command(ExactGuidanceBenchmark, main)
