"""Previews of a training run: a grid of samples from noise that never changes, and how their colours compare.

What makes the samples is the training's own network, with the weights that the loop hands in: its slowest average.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from tqdm import tqdm

from classifiers.trained_model import Classifier, load_classifier

from ..data.image_set import ImageSet
from ..data.pictures import write_png
from ..data.subset import evenly_spaced
from ..diffusion.chain import DiffusionChain
from ..diffusion.denoiser import Denoiser, Estimate
from ..diffusion.images import grid, to_uint8
from ..diffusion.model import DiffusionConfig, UpsamplerModelConfig
from ..diffusion.noise import SeededNoise
from ..diffusion.schedules import ChainConfig, sampling_chain
from ..distributed import this_process
from ..guidance import classifier_score, tilted
from ..guidance.run import check_classifier
from ..samplers import ddim
from .colour import Colours, cast_in_words, colour_metrics, colours
from .objective import Observe

PREVIEW_BATCH = 16
"""Preview images at a time: fewer than a training batch on one GPU, beside whose memory they must fit."""
REFERENCE_IMAGES = 1000
"""Images of the data, evenly spaced, whose colours previews are compared with."""
MOST_CLASS_COLUMNS = 16
"""More classes than this have no column each; a grid of any more would be unreadably wide."""
COLUMNS = 8

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PreviewConfig:
    """Samples made by DDIM as training goes, always from the same noise, with the slowest of the weights' averages."""

    images: int = 64
    """How many, cycling through the classes where the network or a classifier knows them; 0: no previews."""
    steps: int = 25
    """Timesteps; a chain that no whole stride cuts into so many takes the next greater number that one does."""
    classifier: Path | None = None
    """Run directory or checkpoint of a classifier that guides them, trained on this very chain and these classes."""
    scale: float = 1.0
    """s of that guidance, s * grad log p(y | x_t)."""

    def __post_init__(self) -> None:
        if self.images < 0:
            raise ValueError(f"preview.images is a number of samples, 0 for no previews; got {self.images}")
        if self.steps < 2:
            raise ValueError(f"preview.steps must be at least 2, got {self.steps}")
        if self.classifier is None and self.scale != 1.0:
            raise ValueError(f"preview.scale {self.scale:g} guides nobody; add --preview.classifier RUN")


ClassifierOn = Callable[[torch.device], Classifier | None]
"""The classifier that guides previews, on a device; None for none."""


def preview_classifier(config: PreviewConfig, model: DiffusionConfig, *, run: Path) -> ClassifierOn:
    """How previews get their classifier, which is loaded on the CPU at once, so that one that misfits ends no training.

    Raises:
        ValueError, FileNotFoundError: a classifier that cannot be read or cannot guide this model.
    """
    path = config.classifier
    if path is None:
        return lambda device: None

    @cache
    def on(device: torch.device) -> Classifier | None:
        classifier = load_classifier(path, device=device)
        check_classifier(model, classifier, run=run)
        return classifier

    on(torch.device("cpu"))
    return on


def diffusion_previews(
    config: PreviewConfig,
    model: DiffusionConfig,
    data: ImageSet,
    *,
    classifier_on: ClassifierOn,
    decay: float | None,
    out: Path,
) -> Observe | None:
    """What the loop calls now and then: it writes OUT/0005000.png and returns the colours; None for no previews.

    decay: of the average that the loop hands in, for messages; None if it keeps none.
    """
    if not config.images:
        return None
    chain = preview_chain(model.chain, config.steps)
    reference = cache(partial(_reference, data))

    def observe(network: nn.Module, iteration: int) -> Mapping[str, float]:
        device = next(network.parameters()).device
        classifier = classifier_on(device)
        num_classes = model.network.num_classes or (1 if classifier is None else len(classifier.class_names))
        y = preview_labels(config.images, num_classes).to(device)

        def denoiser(ids: slice) -> Denoiser:
            plain = model.denoiser(network, y[ids], clip=1.0)
            if classifier is None:
                return plain
            return tilted(plain, classifier_score(classifier.log_prob, y[ids], config.scale))

        x0 = preview_samples(denoiser, model, chain, count=config.images, device=device)
        columns = num_classes if 1 < num_classes <= MOST_CLASS_COLUMNS else COLUMNS
        _show(out, grid(to_uint8(x0), columns=columns), iteration=iteration, decay=decay)
        return compared(colours(x0), reference(), iteration=iteration, decay=decay)

    return observe


def upsampler_previews(
    config: PreviewConfig,
    model: UpsamplerModelConfig,
    data: ImageSet,
    *,
    reduced: Callable[[Tensor], Tensor],
    decay: float | None,
    out: Path,
) -> Observe | None:
    """As `diffusion_previews`, of pairs: a training image in low resolution, and what the network makes of it.

    reduced: x_0 (B, C, H, W) to the low resolution that it is enlarged from. The colours are compared with those of the
    very images enlarged.
    """
    if not config.images:
        return None
    chain = preview_chain(model.chain, config.steps)

    def observe(network: nn.Module, iteration: int) -> Mapping[str, float]:
        device = next(network.parameters()).device
        images, y = spread_over(data, config.images)
        low_res, y = reduced(images).to(device), y.to(device)

        def denoiser(ids: slice) -> Denoiser:
            return model.denoiser(partial(network, low_res=low_res[ids]), y[ids], clip=1.0)

        x0 = preview_samples(denoiser, model, chain, count=len(y), device=device)
        shown = F.interpolate(low_res.cpu(), size=x0.shape[2:], mode="nearest-exact")
        pairs = rearrange([to_uint8(shown), to_uint8(x0)], "two b c h w -> (b two) c h w")
        _show(out, grid(pairs, columns=COLUMNS), iteration=iteration, decay=decay)
        return compared(colours(x0), colours(images), iteration=iteration, decay=decay)

    return observe


def preview_labels(count: int, num_classes: int) -> Tensor:
    """(count,) int64: all classes in turn or, if there are more of them than previews, evenly spaced ones."""
    shown = min(num_classes, count)
    return torch.arange(count) % shown * num_classes // shown


@torch.no_grad()
def preview_samples(
    denoiser: Callable[[slice], Denoiser],
    model: DiffusionConfig,
    chain: DiffusionChain,
    *,
    count: int,
    device: torch.device,
) -> Tensor:
    """x_0 (count, C, H, W) in [-1, 1], on the CPU: DDIM samples, the noise of sample i always from seed i.

    denoiser: that of a run of consecutive samples.
    """
    chunks = [range(start, min(start + PREVIEW_BATCH, count)) for start in range(0, count, PREVIEW_BATCH)]
    drawn: list[Tensor] = []
    # Within the bar of the training, which stands still meanwhile: minutes on a CPU.
    with tqdm(total=len(chunks) * len(chain), desc="previews", unit="step", leave=False, delay=2) as bar:

        def advance(_k: int, _x: Tensor, _estimate: Estimate) -> None:
            bar.update()

        for ids in chunks:
            noise = SeededNoise(0, ids)
            x_T = noise(torch.empty(len(ids), *model.image_shape, device=device))
            part = denoiser(slice(ids.start, ids.stop))
            drawn.append(ddim(part, chain, x_T, noise, on_step=advance).cpu())
    return torch.cat(drawn).clamp(-1, 1)


def preview_chain(config: ChainConfig, steps: int) -> DiffusionChain:
    """DDIM's own spacing of a chain, a whole stride from 0: `steps` levels, or the next number that a stride makes.

    In continuous time any number of levels can be had.

    Raises:
        ValueError: as `sampling_chain`.
    """
    strided = len(range(0, config.num_steps, max(1, config.num_steps // steps)))
    return sampling_chain(config, f"ddim{steps if config.is_continuous else strided}")


def compared(previews: Colours, data: Colours, *, iteration: int, decay: float | None) -> dict[str, float]:
    """The metrics of previews, after a warning if they have a colour cast; decay: of the weights' average."""
    cast = cast_in_words(previews, data)
    if cast is not None and this_process().is_main:
        _logger.warning("previews at iteration %d are %s: %s", iteration, cast, _likely_causes(iteration, decay))
    return colour_metrics(previews, data)


def _likely_causes(iteration: int, decay: float | None) -> str:
    others = "it may have had too few iterations, or too high a learning rate"
    initial = _initial_share(decay, iteration)
    if initial <= 0.01:
        return f"the model is not there yet; {others}"
    return f"{initial:.0%} of the averaged weights that made them (ema_{decay}) are still the initial ones; {others}"


def spread_over(data: ImageSet, count: int) -> tuple[Tensor, Tensor]:
    """x0 (B, C, H, W) and labels (B,) of at most `count` images, evenly over the data and so over their classes."""
    x0, y = zip(*(data[index] for index in evenly_spaced(len(data), most=count)), strict=True)
    return torch.stack(x0), torch.tensor(y)


def _reference(data: ImageSet) -> Colours:
    return colours(data[index][0] for index in evenly_spaced(len(data), most=REFERENCE_IMAGES))


def _show(out: Path, picture: Tensor, *, iteration: int, decay: float | None) -> None:
    """Write a grid, and say where it is and which weights made it."""
    if not this_process().is_main:
        return
    file = out / f"{iteration:07d}.png"
    write_png(file, picture)
    initial = _initial_share(decay, iteration)
    young = f", {initial:.0%} of them still as they began" if initial > 0.01 else ""
    tqdm.write(f"{file}: previews by the weights {'network' if decay is None else f'ema_{decay}'}{young}")


def _initial_share(decay: float | None, iteration: int) -> float:
    """How much of the averaged weights are the initial ones."""
    return 0.0 if decay is None else decay**iteration
