"""Scale 1 on the digits: the classifier's and the denoiser's shares of its loss.

python benchmarks/scale_one.py --demo runs/demo [--diffusions RUN ..] [--classifiers RUN ..]

At s = 1 guidance is Bayes' rule, so that an exact denoiser and an exact classifier sample each class as it is. Both are
exchanged for exact ones, of the density that has a Gaussian at every training digit. Its denoiser and its classifier of
noisy images are in closed form. Three tables:

  real      the judge's FD of real training digits as samples: of ten equal classes, and of classes by chance
  levels    on held-out digits, of each classifier mean log p(y | x_t), nats, and the cosine of its gradient with the
            exact one; of each denoiser the mean squared error of x_0
  samples   FD to the training digits, on the judge's features; even FD, the same with samples weighted so that the
            judge's classes are as frequent as in training; accuracy, precision and recall by the judge; nats of
            guidance, the divergence of guided paths from unguided ones, in all and by t
"""

import math
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import product
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from classifiers.model import NoisyClassifier
from classifiers.trained_model import load_classifier
from guided_diffusion.config import run_command
from guided_diffusion.data.image_set import open_image_set
from guided_diffusion.diffusion.chain import DiffusionChain, Step, diffused, sigma
from guided_diffusion.diffusion.denoiser import Denoiser, Estimate, clipped
from guided_diffusion.diffusion.images import from_uint8, to_uint8
from guided_diffusion.diffusion.model import load_diffusion
from guided_diffusion.diffusion.noise import SeededNoise
from guided_diffusion.diffusion.schedules import ChainConfig, make_chain
from guided_diffusion.evaluation.metrics.frechet import frechet_distance
from guided_diffusion.evaluation.metrics.neighbours import precision_recall
from guided_diffusion.guidance import LogProb, classifier_score, within
from guided_diffusion.guidance.nats import NatsMeter
from guided_diffusion.guidance.score import log_prob_and_gradient
from guided_diffusion.samplers import SamplerConfig, SamplerName, make_sampler
from guided_diffusion.samplers.ddpm import GradientAt

BANDS = ((900, 1000), (600, 900), (300, 600), (0, 300))
"""Timesteps from and below which nats are added up."""


@dataclass(frozen=True, kw_only=True)
class ScaleOneBenchmark:
    """Prints the three tables."""

    demo: Path
    """Directory of scripts/demo.py."""
    diffusions: tuple[Path, ...] = ()
    """Further runs of the diffusion model, on the same chain."""
    classifiers: tuple[Path, ...] = ()
    """Further runs of the noisy classifier, on the same chain."""
    samplers: tuple[SamplerName, ...] = ("ddpm", "ddim")
    """Each with each pair of networks."""
    steps: int = 25
    """Of each sampler."""
    gradient_at: GradientAt | None = None
    """Of ddpm; null is its default, the state before the link."""
    scales: tuple[float, ...] = (1.0, 2.0, 4.0)
    """Guidance scales; 0 is measured once for each denoiser."""
    sigma_min: float = 0.0
    """Noise down to which classifiers guide."""
    sigma_max: float = math.inf
    """Noise up to which they do."""
    samples: int = 360
    """Of each row, the ten classes in turn."""
    seed: int = 0
    """Of the samples' noise."""
    width: float = 0.2
    """Standard deviation of the Gaussian at each training digit; pixels span -1 to 1."""


@dataclass(frozen=True)
class KernelDensity:
    """Gaussians of standard deviation `width` at images (N, C, H, W) of classes `labels` (N,), with exact networks."""

    images: Tensor
    labels: Tensor
    width: float
    chain: DiffusionChain

    def denoiser(self, x_t: Tensor, step: Step) -> Estimate:
        """E[x_0 | x_t], with the posterior's variance."""
        alpha_bar = float(step.alpha_bar)
        var = alpha_bar * self.width**2 + 1 - alpha_bar
        centre = self._log_joint(x_t, alpha_bar).softmax(dim=1) @ self._centres
        x0 = centre + alpha_bar**0.5 * self.width**2 / var * (x_t.flatten(1) - alpha_bar**0.5 * centre)
        x0 = x0.reshape(x_t.shape).to(x_t.dtype)
        return Estimate(x0, log_var=step.log_var_min, var=0.0 if step.alpha_bar_prev == 1 else None)

    def log_prob(self, x_t: Tensor, t: Tensor) -> Tensor:
        """log p(y | x_t) (B, 10), of a batch at one timestep."""
        k = int((self.chain.t - float(t[0])).abs().argmin())
        log_joint = self._log_joint(x_t, float(self.chain.alpha_bar[k]))
        of_class = [log_joint[:, self.labels == c].logsumexp(dim=1) for c in range(int(self.labels.max()) + 1)]
        return torch.stack(of_class, dim=1).log_softmax(dim=1)

    @cached_property
    def _centres(self) -> Tensor:
        return self.images.flatten(1).double()

    def _log_joint(self, x_t: Tensor, alpha_bar: float) -> Tensor:
        """The logarithm of each Gaussian's density at x_t (B, N), up to what they share."""
        x, means = x_t.flatten(1).double(), alpha_bar**0.5 * self._centres
        squares = x.square().sum(dim=1, keepdim=True) - 2 * x @ means.mT + means.square().sum(dim=1)
        return -0.5 * squares / (alpha_bar * self.width**2 + 1 - alpha_bar)


@dataclass(frozen=True)
class Judge:
    """The demonstration's judge, and its features of the training digits."""

    network: NoisyClassifier
    images: Tensor
    labels: Tensor

    @torch.no_grad()
    def features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, D) of images as they are stored, and the classes (B,) that the judge gives them."""
        pooled = self.network.pooled(self.network.feature_map(from_uint8(to_uint8(x)), torch.zeros(len(x))))
        return pooled.double(), self.network.head(pooled).argmax(dim=1)

    @cached_property
    def real(self) -> Tensor:
        """Features of the training digits."""
        return self.features(self.images)[0]

    def distance(self, features: Tensor, weights: Tensor | None = None) -> float:
        """FD of features (B, D) to the training digits', each counted by its weight."""
        weights = torch.ones(len(features)) if weights is None else weights
        cov = features.mT.cov(aweights=weights.double())
        mean = (weights.double() / weights.sum()) @ features
        return frechet_distance(mean, cov, self.real.mean(dim=0), self.real.mT.cov())

    def row(self, x: Tensor, y: Tensor) -> str:
        """FD, even FD, accuracy, precision and recall of samples x of the classes y."""
        features, predicted = self.features(x)
        count, real_count = torch.bincount(predicted, minlength=10), torch.bincount(self.labels, minlength=10)
        even = self.distance(features, (real_count / count.clamp(min=1))[predicted])
        precision, recall = precision_recall(real=self.real.float(), generated=features.float())
        accuracy = float((predicted == y).double().mean())
        return f"{self.distance(features):8.3f}{even:9.3f}{accuracy:10.3f}{precision:11.3f}{recall:8.3f}"


def main(config: ScaleOneBenchmark) -> None:
    """Prints the tables."""
    train, test = digits(config.demo / "digits" / "train"), digits(config.demo / "digits" / "test")
    judge = Judge(load_classifier(config.demo / "judge").network, *train)
    models = {str(run): load_diffusion(run) for run in (config.demo / "diffusion", *config.diffusions)}
    chain = next(iter(models.values())).config.chain
    exact = KernelDensity(*train, width=config.width, chain=make_chain(chain))
    classifiers: dict[str, LogProb] = {"exact": exact.log_prob}
    for run in (config.demo / "classifier", *config.classifiers):
        classifiers[str(run)] = load_classifier(run).log_prob

    def denoisers(y: Tensor) -> dict[str, Denoiser]:
        return {"exact": exact.denoiser} | {name: model.denoiser(y) for name, model in models.items()}

    print_real(judge, test, count=config.samples)
    print_levels(denoisers(test[1]), classifiers, test, exact=exact)
    y = torch.arange(config.samples) % 10
    print_samples(judge, denoisers(y), classifiers, y, chain=chain, config=config)


def print_samples(
    judge: Judge, denoisers: dict[str, Denoiser], classifiers: dict[str, LogProb], y: Tensor, *, chain: ChainConfig,
    config: ScaleOneBenchmark,
) -> None:  # fmt: skip
    """A row for each sampler, denoiser, classifier and scale."""
    head = f"{'sampler':8}{'denoiser':22}{'classifier':22}{'s':>4}{'FD':>8}{'even FD':>9}{'accuracy':>10}"
    bands = "".join(f"{f't {low}-{high}':>11}" for low, high in BANDS)
    print(f"\n{head}{'precision':>11}{'recall':>8}{'nats':>8}{bands}")
    for sampler, (denoiser_name, denoiser) in product(config.samplers, denoisers.items()):
        settings = SamplerConfig(name=sampler, steps=config.steps, gradient_at=config.gradient_at)
        levels = settings.levels(chain)
        for name, scale in [("", 0.0), *product(classifiers, config.scales)]:
            term, meter = classifier_score(classifiers[name or "exact"], y, scale), NatsMeter()
            noise = SeededNoise(config.seed, range(config.samples))
            x = make_sampler(settings)(
                denoiser, levels, noise(torch.empty(config.samples, *judge.images.shape[1:])), noise,
                guidance=meter.metered(within(term, config.sigma_min, config.sigma_max)), on_step=meter.on_step,
            )  # fmt: skip
            nats = [
                (t, float(of_link.mean()))
                for t, of_link in zip(levels.t.flip(0).tolist(), meter.by_level, strict=False)
            ]
            bands = "".join(f"{sum(n for t, n in nats if low <= t < high):11.2f}" for low, high in BANDS)
            networks = f"{sampler:8}{denoiser_name[-21:]:22}{name[-21:]:22}"
            print(f"{networks}{scale:4g}{judge.row(x, y)}{sum(n for _, n in nats):8.2f}{bands}", flush=True)


def digits(path: Path) -> tuple[Tensor, Tensor]:
    """Images (N, 1, 8, 8) in [-1, 1] and labels (N,)."""
    images = open_image_set(path)
    every = list(range(len(images)))
    return from_uint8(images.read(every)), images.labels[every]


def print_real(judge: Judge, test: tuple[Tensor, Tensor], *, count: int) -> None:
    """FD of real digits as samples."""
    generators = [torch.Generator().manual_seed(seed) for seed in range(20)]
    by_chance = [torch.randint(len(judge.real), (count,), generator=generator) for generator in generators]
    of_class = [(judge.labels == c).nonzero()[:, 0] for c in range(10)]
    equal = [
        torch.cat([c[torch.randint(len(c), (count // 10,), generator=generator)] for c in of_class])
        for generator in generators
    ]
    print(f"{count} real digits as samples, FD of 20 draws: mean, least, most")
    for name, draws in (("classes by chance", by_chance), ("ten equal classes", equal)):
        found = [judge.distance(judge.real[chosen]) for chosen in draws]
        print(f"{name:20}{sum(found) / len(found):8.3f}{min(found):8.3f}{max(found):8.3f}")
    print(f"{'held-out digits':20}{judge.distance(judge.features(test[0])[0]):8.3f}")


def print_levels(
    denoisers: dict[str, Denoiser], classifiers: dict[str, LogProb], test: tuple[Tensor, Tensor], *,
    exact: KernelDensity,
) -> None:  # fmt: skip
    """Likelihoods, cosines and errors by noise level, on held-out digits."""
    x_0, y = test
    print("\nlog p(y | x_t) and cosine of its gradient with the exact: " + ", ".join(classifiers))
    print("mean squared error of x_0: " + ", ".join(denoisers))
    for k in range(50, len(exact.chain), len(exact.chain) // 10):
        step = exact.chain.at(k, like=x_0)
        eps = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(k))
        x_t = diffused(x_0, eps, alpha_bar=step.alpha_bar)
        found = [log_prob_and_gradient(partial(_at, log_prob, step.t), x_t, y) for log_prob in classifiers.values()]
        likelihoods = [float(log_p.gather(1, y[:, None]).mean()) for log_p, _ in found]
        cosines = [float(F.cosine_similarity(one.flatten(), found[0][1].flatten(), dim=0)) for _, one in found[1:]]
        with torch.no_grad():
            errors = [float(F.mse_loss(clipped(one(x_t, step).x0, 1.0), x_0)) for one in denoisers.values()]
        level = f"t {k:4} sigma {sigma(float(step.alpha_bar)):6.2f}  log p{_row(likelihoods, 3)}"
        print(f"{level}  cosine{_row(cosines, 2)}  error{_row(errors, 4)}")


def _at(log_prob: LogProb, t: Tensor, x_t: Tensor) -> Tensor:
    return log_prob(x_t, t)


def _row(values: list[float], digits: int) -> str:
    return "".join(f"{value:{digits + 5}.{digits}f}" for value in values)


if __name__ == "__main__":
    run_command(ScaleOneBenchmark, main)
