"""Guidance by classifiers of clean images: the ways to scale the gradient at the estimate of x_0, compared.

python benchmarks/clean_guidance.py --demo runs/demo [--cifar cifar10/train]

Two models: that of scripts/demo.py, guided by its judge; and an exact one of ten Gaussians with the moments of
CIFAR-10's classes at 16x16 pixels, guided by a small ReLU network that is trained here on those images. Kinds:

  elucd       the mean of ddpm's link shifted by EluCD's schedule (2310.11311); it has none for ddim
  tilted      x_0 moved as if its Jacobian were 1, as in EluCD; under ddpm with that schedule
  x_0         `guided_at_estimate`, the default: the Jacobian taken for sqrt(alpha_bar)
  x_t         `guided_through`: through the network

FD is the Frechet distance to the real images: of pixels in [-1, 1], and of the judge's features. right is the share in
the class asked for, by the nearest 3 real digits or, of the Gaussians, by the exact classifier. rms is the largest
root mean square of x_t on the way, at most 1 in training.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from classifiers.off_the_shelf import clean_classifier
from classifiers.trained_model import load_classifier
from guided_diffusion.config import run_command
from guided_diffusion.data.image_set import open_image_set
from guided_diffusion.diffusion.chain import DiffusionChain, Step
from guided_diffusion.diffusion.denoiser import Denoiser, Estimate, bounded
from guided_diffusion.diffusion.images import from_uint8
from guided_diffusion.diffusion.model import load_diffusion
from guided_diffusion.diffusion.noise import SeededNoise
from guided_diffusion.diffusion.schedules import ChainConfig
from guided_diffusion.evaluation.metrics.frechet import frechet_distance
from guided_diffusion.guidance import (
    between,
    clean_log_density,
    guided_at_estimate,
    guided_through,
    joint_log_prob,
    tilted,
)
from guided_diffusion.guidance.score import log_prob_and_gradient
from guided_diffusion.samplers import SamplerConfig, make_sampler

Guide = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class CleanGuidanceBenchmark:
    """Prints a row for each model, sampler, kind of guidance, interval and scale."""

    demo: Path
    """Directory of scripts/demo.py."""
    cifar: Path | None = None
    """CIFAR-10's training images in class folders; null leaves that model out."""
    samples: int = 400
    """Of each row, the classes in turn."""
    scales: tuple[float, ...] = (1.0, 2.0, 4.0)
    """Of each kind of guidance."""
    kinds: tuple[str, ...] = ("elucd", "tilted", "x_0", "x_t")
    """Kinds of guidance."""
    intervals: tuple[float, ...] = (math.inf, 2.0)
    """Upper ends of the interval of sigma."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A model without the class, the classifier that guides it, and the judgement of samples."""

    name: str
    chain: ChainConfig
    denoiser: Callable[[Tensor, float | None], Denoiser]
    """Of labels and a clip."""
    guide: Guide
    real: Tensor
    features: Callable[[Tensor], Tensor] | None
    predicted: Callable[[Tensor], Tensor]
    """Classes (B,) of images."""


def main(config: CleanGuidanceBenchmark) -> None:
    """Prints the table."""
    print("| data | sampler | guidance | sigma | s | FD pixels | FD features | right | rms |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for problem in [digits(config.demo)] + ([] if config.cifar is None else [gaussians(config.cifar)]):
        for sampler, steps in (("ddpm", 50), ("ddim", 25)):
            settings = SamplerConfig(name=sampler, steps=steps)
            row(problem, settings, config, "none", math.inf, 0.0)
            for kind in config.kinds:
                if kind == "elucd" and sampler != "ddpm":
                    continue
                for sigma_max in config.intervals:
                    for scale in config.scales:
                        row(problem, settings, config, kind, sigma_max, scale)


@torch.no_grad()
def row(
    problem: Problem, settings: SamplerConfig, config: CleanGuidanceBenchmark, kind: str, sigma_max: float, scale: float
) -> None:
    """Sample and print a row."""
    y, chain = torch.arange(config.samples) % 10, settings.levels(problem.chain)
    noise = SeededNoise(0, range(config.samples))
    x_T = noise(torch.empty(config.samples, *problem.real.shape[1:]))
    guided = guided_denoiser(problem, kind, y, scale, chain=chain, ancestral=settings.name == "ddpm")
    denoiser = between(guided, problem.denoiser(y, 1.0), 0.0, sigma_max)
    powers: list[float] = []
    x = make_sampler(settings)(
        denoiser, chain, x_T, noise, on_step=lambda k, x, estimate: powers.append(float(x.square().mean()))
    )
    x = from_uint8(((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8))
    right = float((problem.predicted(x) == y).double().mean())
    features = (
        "" if problem.features is None else f"{distance(problem.features(x), problem.features(problem.real)):.2f}"
    )
    interval = "all" if sigma_max == math.inf else f"<= {sigma_max:g}"
    print(
        f"| {problem.name} | {settings.name} {settings.steps} | {kind} | {interval} | {scale:g} "
        f"| {distance(x, problem.real):.2f} | {features} | {right:.1%} | {max(powers) ** 0.5:.2f} |",
        flush=True,
    )


def guided_denoiser(
    problem: Problem, kind: str, y: Tensor, scale: float, *, chain: DiffusionChain, ancestral: bool
) -> Denoiser:
    """The denoiser of a kind of guidance."""
    plain = problem.denoiser(y, 1.0)

    def joint(x_0: Tensor) -> Tensor:
        return joint_log_prob(problem.guide(x_0))

    if kind == "x_0":
        return guided_at_estimate(plain, clean_log_density(joint, y), scale)
    if kind == "x_t":
        log_density = clean_log_density(lambda x_0: problem.guide(x_0).log_softmax(dim=1), y)
        return bounded(guided_through(problem.denoiser(y, None), log_density, scale), 1.0)
    beta_max = float((1 - chain.alpha_bar[1:] / chain.alpha_bar[:-1]).max())

    def tilted_at_estimate(x_t: Tensor, step: Step) -> Estimate:
        _, gradient = log_prob_and_gradient(joint, plain(x_t, step).x0, y)
        k = int((chain.alpha_bar > step.alpha_bar).sum())
        sine = 0.3 * math.sin(math.pi * k / len(chain)) * beta_max / math.exp(step.log_var_max)
        root_of_alpha = (step.alpha_bar / step.alpha_bar_prev) ** 0.5  # by which tilting exceeds a shift of the mean
        strength = scale * (1 + sine if ancestral else 1) * (root_of_alpha if kind == "elucd" else 1)
        return tilted(plain, lambda x_t, step: strength * gradient)(x_t, step)

    return plain if kind == "none" else tilted_at_estimate


def distance(generated: Tensor, real: Tensor) -> float:
    """The Frechet distance of two sets (N, ..)."""
    moments = [(x.mean(dim=0), x.mT.cov()) for x in (generated.flatten(1).double(), real.flatten(1).double())]
    return frechet_distance(*moments[0], *moments[1])


def read(path: Path, *, size: int | None, count: int | None = None) -> tuple[Tensor, Tensor]:
    """Images (N, C, H, W) in [-1, 1] and their labels."""
    images = open_image_set(path)
    chosen = torch.linspace(0, len(images) - 1, len(images) if count is None else count).long().tolist()
    x, side = from_uint8(images.read(chosen)), images.image_size
    return (x if size is None else F.avg_pool2d(x, side // size)), images.labels[chosen]


def digits(demo: Path) -> Problem:
    """The demonstration's model and judge."""
    model, judge = load_diffusion(demo / "diffusion"), load_classifier(demo / "judge")
    real, labels = read(demo / "digits" / "train", size=None)

    def guide(x_0: Tensor) -> Tensor:
        return judge.network(x_0, torch.zeros(len(x_0)))

    def features(x: Tensor) -> Tensor:
        return judge.network.pooled(judge.network.feature_map(x, torch.zeros(len(x))))

    def nearest(x: Tensor) -> Tensor:
        closest = torch.cdist(x.flatten(1), real.flatten(1)).topk(3, largest=False).indices
        return labels[closest].mode(dim=1).values

    return Problem(
        name="digits", chain=model.config.chain, denoiser=lambda y, clip: model.denoiser(y, clip=clip), guide=guide,
        real=real, features=features, predicted=nearest,
    )  # fmt: skip


def gaussians(cifar: Path) -> Problem:
    """Ten Gaussians with the moments of CIFAR-10's classes, and a network trained on its images."""
    images, labels = read(cifar, size=16, count=20000)
    flat = images.flatten(1).double()
    means = torch.stack([flat[labels == c].mean(dim=0) for c in range(10)])
    spectra = [torch.linalg.eigh(flat[labels == c].mT.cov()) for c in range(10)]

    def posterior(x_t: Tensor, alpha_bar: float) -> tuple[Tensor, Tensor]:
        """log p(y | x_t) (B, 10), and E[x_0 | x_t, y] (10, B, D)."""
        logs, estimates = [], []
        for mean, (values, vectors) in zip(means, spectra, strict=True):
            var = alpha_bar * values.clamp(min=1e-5) + 1 - alpha_bar
            coordinates = (x_t - alpha_bar**0.5 * mean) @ vectors
            logs.append(-0.5 * (coordinates.square() / var + var.log()).sum(dim=1))
            estimates.append(mean + alpha_bar**0.5 * coordinates * (values.clamp(min=1e-5) / var) @ vectors.mT)
        return torch.stack(logs, dim=1).log_softmax(dim=1), torch.stack(estimates)

    def denoiser(x_t: Tensor, step: Step) -> Estimate:
        log_p, estimates = posterior(x_t.flatten(1).double(), float(step.alpha_bar))
        x0 = (log_p.exp().mT[:, :, None] * estimates).sum(dim=0)
        return Estimate(x0.to(x_t.dtype).reshape(x_t.shape), log_var=step.log_var_min)

    generator = torch.Generator().manual_seed(0)
    drawn = [mean + torch.randn(500, 768, generator=generator).double() * values.clamp(min=1e-5).sqrt() @ vectors.mT
             for mean, (values, vectors) in zip(means, spectra, strict=True)]  # fmt: skip
    return Problem(
        name="CIFAR-10's Gaussians", chain=ChainConfig(schedule="linear", num_steps=1000),
        denoiser=lambda y, clip: bounded(denoiser, clip), guide=trained(images, labels),
        real=torch.cat(drawn).float().reshape(-1, 3, 16, 16), features=None,
        predicted=lambda x: posterior(x.flatten(1).double(), 1.0)[0].argmax(dim=1),
    )  # fmt: skip


def trained(images: Tensor, labels: Tensor) -> Guide:
    """A small ReLU network, trained on the images, smoothed as EluCD has it."""
    torch.manual_seed(0)
    layers: Iterator[tuple[int, int]] = iter(((3, 32), (32, 64), (64, 128)))
    blocks = [nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.BatchNorm2d(b), nn.ReLU()) for a, b in layers]
    network = nn.Sequential(*blocks, nn.Flatten(), nn.Linear(512, 10))
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    for _ in range(1500):
        chosen = torch.randint(len(images), (128,))
        loss = F.cross_entropy(network(images[chosen]), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return clean_classifier(network, smooth=True).network


if __name__ == "__main__":
    run_command(CleanGuidanceBenchmark, main)
