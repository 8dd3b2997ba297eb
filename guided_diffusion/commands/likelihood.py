"""Bits per dimension of held-out images: python scripts/likelihood.py --diffusion RUN --data.path HELDOUT"""

import logging
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import run_command
from ..data.config import refuse_among
from ..diffusion.model import load_diffusion
from ..distributed import default_device
from ..files import atomic_write, locked, write_json
from ..generation.input_images import InputConfig, open_inputs
from ..generation.likelihood import Likelihood, bounded_chain, measured_likelihood
from ..html import png

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LikelihoodConfig(InputConfig):
    """Bound a diffusion model's likelihood of new images in bits per dimension, and each of its terms."""

    max_images: int = 1000
    """Largest number of images; of more, evenly spaced ones are taken."""
    terms: int | None = None
    """Number of terms evaluated for each image; null: all. With fewer: L_0, and one of each stretch of the chain, drawn
    for each image. The estimate is unbiased, and the standard errors include the drawing."""
    seed: int = 0
    """Seed of every image's noise, together with its place in the data."""
    out: Path | None = None
    """JSON file to write, a figure beside it; null: likelihood.json in the model's run directory."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.terms is not None and self.terms < 2:
            raise ValueError(f"terms are L_0 and at least one of the others, so 2 or more; got {self.terms}")
        if self.out is not None and self.out.suffix != ".json":
            raise ValueError(f"out is a JSON file, and the figure beside it ends in .png; got {self.out}, not *.json")


def likelihood(config: LikelihoodConfig) -> None:
    """Print the bound; write it as JSON with all terms, and a figure of them beside it."""
    refuse_among(config.data.path, config.out)
    model = load_diffusion(config.diffusion, weights=config.weights, device=default_device())
    bounded_chain(model)  # refuses a model in continuous time before the data are read
    inputs = open_inputs(config.data, model, most=config.max_images, class_names=model.config.class_names or None)
    path = model.checkpoint.path
    if model.checkpoint.was_trained_on(config.data.path):
        _logger.warning("%s was trained on %s, which flatters it; give held-out images", path, config.data.path)
    settings: dict[str, Any] = {"clip": config.clip, "seed": config.seed}
    names = {"diffusion": f"{path.parent.name}/{path.name}", "data": str(config.data.path)}
    out = config.out or path.parent / "likelihood.json"
    with locked(out.parent, work="measurement", name=out.name):
        found = measured_likelihood(model, inputs, terms=config.terms, batch_size=config.batch_size, **settings)
        print(format_likelihood(found, **names))
        write_json(out, names | asdict(found) | {"settings": settings | {"weights": model.weights}})
        with atomic_write(out.with_suffix(".png")) as file:
            file.write(png(likelihood_figure(found, diffusion=names["diffusion"])))
    print(f"\nwritten to {out} and {out.with_suffix('.png').name}")


def format_likelihood(found: Likelihood, *, diffusion: str, data: str) -> str:
    """The bound as a table, and the number of terms evaluated; diffusion, data: names of the model and the images."""
    names = ("total", "L_T, prior", "L_0", f"L_1 .. L_{found.num_steps - 1}")
    shares = (found.total, found.prior, found.reconstruction, found.transitions)
    evaluated = f"all {found.num_steps} terms of each"
    if found.terms < found.num_steps:
        evaluated = f"{found.terms} of {found.num_steps} terms of each, drawn; the standard errors include that"
    errors = ["unknown" if share.std_error is None else f"{share.std_error:.5f}" for share in shares]
    rows = zip(names, shares, errors, strict=True)
    lines = [f"{name:<16}{share.mean:>12.5f}{error:>18}" for name, share, error in rows]
    head = f"{'':<16}{'bits/dim':>12}{'standard error':>18}"
    return "\n".join([f"{diffusion} on {found.num_images} images of {data}: {evaluated}", "", head, *lines])


def likelihood_figure(found: Likelihood, *, diffusion: str) -> "Figure":
    """Bits per dimension of one link, against its timestep, on a logarithmic scale; L_0 is the leftmost."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axis = figure.subplots()
    points = [(part.t, part.share.mean / (part.last - part.first + 1)) for part in found.stretches]
    positive = [point for point in points if point[1] > 0]
    axis.plot(*zip(*positive, strict=True), marker="o" if len(positive) <= 100 else "", markersize=4)
    axis.set(xlabel="timestep t (noise grows to the right)", ylabel="bits per dimension of one link", yscale="log")
    axis.set_title(f"{diffusion}: {found.total.mean:.4g} bits/dim on {found.num_images} images", fontsize=11)
    axis.grid(alpha=0.3)
    return figure


main = partial(run_command, LikelihoodConfig, likelihood)
