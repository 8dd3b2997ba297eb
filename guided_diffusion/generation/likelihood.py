"""The likelihood command: the variational bound of held-out images, term by term, in bits per dimension."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import NoReturn, Protocol

import torch
from matplotlib.figure import Figure
from torch import Tensor
from tqdm import tqdm

from ..data.config import DataConfig
from ..data.subset import evenly_spaced
from ..diffusion.chain import DiffusionChain, q_sample, uniform_indices
from ..diffusion.denoiser import Denoiser
from ..diffusion.images import from_uint8
from ..diffusion.losses import bound_term, prior_bound
from ..diffusion.model import DiffusionModel, load_diffusion
from ..diffusion.noise import Noise, SeededNoise
from ..diffusion.schedules import make_chain
from ..distributed import default_device
from ..files import atomic_write, write_json
from ..html import png
from ..samplers.config import check_clip
from .input_images import open_given, read_given


@dataclass(frozen=True, kw_only=True)
class LikelihoodConfig:
    """Bound a diffusion model's likelihood of images, in bits per dimension: the whole bound and each of its terms."""

    diffusion: Path
    """Run directory or checkpoint of the diffusion model."""
    data: DataConfig
    """Images that it was not trained on; centre crops, not mirrored."""
    max_images: int = 1000
    """Of more, this many are taken, evenly spaced."""
    terms: int | None = None
    """Terms evaluated for each image; null: every one. Fewer: L_0, and one of each stretch of the chain, drawn for each
    image. That is unbiased, and the standard errors include what it costs."""
    clip: float | None = 1.0
    """Estimates of x_0 are clamped to [-clip, clip], as where likelihoods were published; null leaves them."""
    weights: str | None = None
    """Weights of the checkpoint, such as ema_0.9999 or network; null: its slowest average."""
    batch_size: int = 64
    """Images at a time."""
    seed: int = 0
    """Of every image's noise, together with its place in the data."""
    out: Path | None = None
    """JSON file to write, a figure beside it; null: likelihood.json in the model's run directory."""

    def __post_init__(self) -> None:
        for name in ("max_images", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.terms is not None and self.terms < 2:
            raise ValueError(f"terms are L_0 and at least one of the others, so 2 or more; got {self.terms}")
        check_clip(self.clip)
        if self.out is not None and self.out.suffix != ".json":
            raise ValueError(f"out is a JSON file, and the figure beside it ends in .png; got {self.out}, not *.json")


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
    """Timestep that networks are told at the last of them."""
    share: Share


@dataclass(frozen=True)
class Likelihood:
    """The bound of `num_images` images: total = prior + reconstruction + transitions, bits per dimension."""

    diffusion: str
    data: str
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


class Draws(Noise, Protocol):
    """Standard normal noise, and uniform numbers from the same generators, as `SeededNoise` has them."""

    def uniform(self) -> Tensor:
        """(B,) float64 in [0, 1)."""
        ...


def likelihood(config: LikelihoodConfig) -> None:
    """Print the bound; write it as JSON with all terms, and a figure of them beside it.

    Raises:
        FileNotFoundError, ValueError: as `load_diffusion`, `open_given` and `measured_likelihood`.
    """
    model = load_diffusion(config.diffusion, weights=config.weights, device=default_device())
    found = measured_likelihood(model, config)
    print(format_likelihood(found))
    out = config.out or model.checkpoint.path.parent / "likelihood.json"
    settings = {"clip": config.clip, "seed": config.seed, "weights": model.weights}
    write_json(out, asdict(found) | {"settings": settings})
    with atomic_write(out.with_suffix(".png")) as file:
        file.write(png(likelihood_figure(found)))
    print(f"\nwritten to {out} and {out.with_suffix('.png').name}")


def measured_likelihood(model: DiffusionModel, config: LikelihoodConfig) -> Likelihood:
    """The bound of the images that the config names.

    Raises:
        ValueError: a model in continuous time, more terms than its chain has, or what `open_given` refuses.
    """
    chain, name = bounded_chain(model), model.checkpoint.path
    cut = stretches(len(chain), config.terms)
    dataset = open_given(config.data, model, class_names=model.config.class_names or None)
    indices = evenly_spaced(len(dataset), most=config.max_images)
    sums = squares = torch.zeros(len(cut) + 3, dtype=torch.float64)
    with tqdm(total=len(indices) * len(cut), desc="likelihood", unit="term", unit_scale=True) as bar:
        for start in range(0, len(indices), config.batch_size):
            batch = indices[start : start + config.batch_size]
            images, y = read_given(dataset, batch)
            columns = _columns(model, chain, images, y, SeededNoise(config.seed, batch), cut, clip=config.clip, bar=bar)
            sums, squares = sums + columns.sum(dim=0), squares + (columns**2).sum(dim=0)
    total, prior, transitions, *shares = _shares(sums, squares, count=len(indices))
    return Likelihood(
        diffusion=f"{name.parent.name}/{name.name}",
        data=str(config.data.path),
        num_images=len(indices),
        num_steps=len(chain),
        terms=len(cut),
        total=total,
        prior=prior,
        reconstruction=shares[0],
        transitions=transitions,
        stretches=tuple(
            Stretch(links[0], links[-1], float(chain.t[links[-1]]), share)
            for links, share in zip(cut, shares, strict=True)
        ),
    )


def _columns(
    model: DiffusionModel,
    chain: DiffusionChain,
    images: Tensor,
    y: Tensor,
    noise: Draws,
    cut: Sequence[range],
    *,
    clip: float | None,
    bar: "tqdm[NoReturn]",
) -> Tensor:
    """Of each image of a batch: total, prior, transitions and the share of each stretch; (B, 3 + len(cut)) float64."""
    device = next(model.network.parameters()).device
    x0, denoiser = from_uint8(images.to(device)), model.denoiser(y.to(device), clip=clip)
    shares: list[Tensor] = []
    for share in bound_terms(denoiser, chain, x0, noise, cut):
        shares.append(share.double().cpu())
        bar.update(len(x0))
    prior = prior_bound(x0, float(chain.alpha_bar[-1])).double().cpu()
    transitions = torch.stack(shares[1:]).sum(dim=0)
    return torch.stack([shares[0] + transitions + prior, prior, transitions, *shares], dim=1)


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
    denoiser: Denoiser, chain: DiffusionChain, x0: Tensor, noise: Draws, cut: Sequence[range]
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


def _shares(sums: Tensor, squares: Tensor, *, count: int) -> list[Share]:
    mean = sums / count
    if count == 1:
        return [Share(value, None) for value in mean.tolist()]
    errors = ((squares / count - mean**2).clamp(min=0) / (count - 1)).sqrt()
    return [Share(value, error) for value, error in zip(mean.tolist(), errors.tolist(), strict=True)]


def format_likelihood(found: Likelihood) -> str:
    """The bound as a table, and how much of it was evaluated."""
    last = found.num_steps - 1
    rows = {
        "total": found.total,
        "L_T, prior": found.prior,
        "L_0": found.reconstruction,
        f"L_1 .. L_{last}": found.transitions,
    }
    evaluated = f"all {found.num_steps} terms of each"
    if found.terms < found.num_steps:
        evaluated = f"{found.terms} of {found.num_steps} terms of each, drawn; the standard errors include that"
    lines = [f"{name:<16}{share.mean:>12.5f}{_error(share):>18}" for name, share in rows.items()]
    head = f"{'':<16}{'bits/dim':>12}{'standard error':>18}"
    return "\n".join([f"{found.diffusion} on {found.num_images} images of {found.data}: {evaluated}", "", head, *lines])


def _error(share: Share) -> str:
    return "unknown" if share.std_error is None else f"{share.std_error:.5f}"


def likelihood_figure(found: Likelihood) -> Figure:
    """Bits per dimension of one link, against its timestep, on a logarithmic scale; L_0 is the leftmost."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axis = figure.subplots()
    points = [(part.t, part.share.mean / (part.last - part.first + 1)) for part in found.stretches]
    positive = [point for point in points if point[1] > 0]
    axis.plot(*zip(*positive, strict=True), marker="o" if len(positive) <= 100 else "", markersize=4)
    axis.set(
        xlabel="timestep t (noise grows to the right)", ylabel="bits per dimension of one link", yscale="log"
    )  # fmt: skip
    axis.set_title(f"{found.diffusion}: {found.total.mean:.4g} bits/dim on {found.num_images} images", fontsize=11)
    axis.grid(alpha=0.3)
    return figure
