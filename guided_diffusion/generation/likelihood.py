"""The variational bound of images, term by term, in bits per dimension."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from tqdm import tqdm

from ..diffusion.chain import DiffusionChain, q_sample, uniform_indices
from ..diffusion.denoiser import Denoiser
from ..diffusion.images import from_uint8
from ..diffusion.losses import bound_term, prior_bound
from ..diffusion.model import DiffusionModel
from ..diffusion.noise import SeededNoise
from ..diffusion.schedules import make_chain
from .finiteness import likeliest_cause
from .input_images import InputImages


@dataclass(frozen=True)
class Share:
    """A part of the bound, bits per dimension: mean over images, and the standard error of that mean."""

    mean: float
    std_error: float | None
    """Over images; None: there was only one."""


@dataclass(frozen=True)
class Stretch:
    """The summed terms of the links that leave the indices first .. last."""

    first: int
    last: int
    t: float
    """Timestep of the last, as networks see it."""
    share: Share


@dataclass(frozen=True, kw_only=True)
class Likelihood:
    """The bound of `num_images` images: total = prior + reconstruction + transitions, bits per dimension."""

    num_images: int
    num_steps: int
    """K, links of the chain."""
    terms: int
    """Links evaluated for each image."""
    total: Share
    prior: Share
    """L_T, KL(q(x_T | x_0) || N(0, I)): no network changes it."""
    reconstruction: Share
    """L_0, -log p(x_0 | x_1) of the 8-bit image."""
    transitions: Share
    """L_1 + .. + L_{K-1}, the KL divergences."""
    stretches: tuple[Stretch, ...]


def measured_likelihood(
    model: DiffusionModel,
    inputs: InputImages,
    *,
    terms: int | None = None,
    clip: float | None = 1.0,
    seed: int = 0,
    batch_size: int = 64,
) -> Likelihood:
    """The bound of the input images; `terms` of it are evaluated for each image, None: all.

    Raises:
        ValueError: a bound that is not finite, naming the likeliest cause.
    """
    chain = bounded_chain(model)
    cut = stretches(len(chain), terms)
    sums = squares = torch.zeros(len(cut) + 3, dtype=torch.float64)
    count = len(inputs.indices)
    with tqdm(total=count * len(cut), desc="likelihood", unit="term", unit_scale=True) as bar:
        for start in range(0, count, batch_size):
            images, y = inputs.read(start, start + batch_size)
            noise = SeededNoise(seed, inputs.indices[start : start + batch_size])
            x0, denoiser = from_uint8(images.to(model.device)), model.denoiser(y.to(model.device), clip=clip)
            shares: list[Tensor] = []
            for share in bound_terms(denoiser, chain, x0, noise, cut):
                shares.append(share.double().cpu())
                bar.update(len(x0))
            prior = prior_bound(x0, float(chain.alpha_bar[-1])).double().cpu()
            transitions = torch.stack(shares[1:]).sum(dim=0)
            columns = torch.stack([shares[0] + transitions + prior, prior, transitions, *shares], dim=1)
            if not columns.isfinite().all():
                raise ValueError(f"the bound is not finite: {likeliest_cause([model])}")
            sums, squares = sums + columns.sum(dim=0), squares + (columns**2).sum(dim=0)
    return _likelihood(sums, squares, chain, cut, num_images=count)


def _likelihood(
    sums: Tensor, squares: Tensor, chain: DiffusionChain, cut: Sequence[range], *, num_images: int
) -> Likelihood:
    """sums, squares: over images, of the total, the prior, the transitions and each stretch."""
    mean = sums / num_images
    errors: list[float | None] = [None] * len(mean)
    if num_images > 1:
        errors = ((squares / num_images - mean**2).clamp(min=0) / (num_images - 1)).sqrt().tolist()
    total, prior, transitions, *each = map(Share, mean.tolist(), errors)
    return Likelihood(
        num_images=num_images,
        num_steps=len(chain),
        terms=len(cut),
        total=total,
        prior=prior,
        reconstruction=each[0],
        transitions=transitions,
        stretches=tuple(
            Stretch(run[0], run[-1], float(chain.t[run[-1]]), share) for run, share in zip(cut, each, strict=True)
        ),
    )


def bounded_chain(model: DiffusionModel) -> DiffusionChain:
    """The chain that the bound of a model is a sum over.

    Raises:
        ValueError: a chain in continuous time.
    """
    if model.config.chain.is_continuous:
        raise ValueError(
            f"{model.checkpoint.path} was trained in continuous time, on the {model.config.chain.schedule} schedule: "
            f"it has no numbered links, of which the bound is the sum; take a model of a linear or cosine chain"
        )
    return make_chain(model.config.chain)


def stretches(num_steps: int, terms: int | None) -> list[range]:
    """The indices 0 .. num_steps - 1 in `terms` runs: 0 by itself, the others as even in their logarithm as whole
    numbers allow, because terms fall steeply along the chain. terms None: each index by itself.

    Raises:
        ValueError: more runs than indices.
    """
    terms = num_steps if terms is None else terms
    if terms > num_steps:
        raise ValueError(f"asked for {terms} terms, but the chain has only {num_steps} links; ask for fewer")
    bounds = [0, 1]
    for run in range(1, terms):
        bounds.append(max(bounds[-1] + 1, int(num_steps ** (run / (terms - 1)))))
    return [range(first, stop) for first, stop in pairwise(bounds)]


@torch.no_grad()
def bound_terms(
    denoiser: Denoiser, chain: DiffusionChain, x0: Tensor, noise: SeededNoise, cut: Sequence[range]
) -> Iterator[Tensor]:
    """For each run of indices its share of the bound (B,), bits per dimension, without bias: one of its terms, drawn
    for each image, times their number.

    x0: (B, C, H, W) in [-1, 1], on the 256 grey levels. Each image's numbers come from its own generators, so that they
    do not depend on the batch.
    """
    for links in cut:
        k = links.start + uniform_indices(noise.uniform(), len(links))
        step = chain.at(k, like=x0)
        x_t = q_sample(x0, noise(x0), step)
        yield len(links) * bound_term(denoiser(x_t, step), x0, x_t, step)
