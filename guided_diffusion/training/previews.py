"""Previews of a training: a grid of samples from fixed noise, and their colours compared with the data's.

The samples are made by the network in training, with the weights of its slowest average.
"""

import logging
import sys
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from tqdm import tqdm

from classifiers.trained_model import load_classifier

from ..data.image_set import ImageSet
from ..data.pictures import write_grid
from ..data.subset import evenly_spaced
from ..diffusion.chain import DiffusionChain
from ..diffusion.denoiser import Denoiser, Estimate
from ..diffusion.images import to_uint8
from ..diffusion.model import DiffusionConfig, UpsamplerModelConfig
from ..diffusion.noise import SeededNoise
from ..diffusion.schedules import ChainConfig, sampling_chain
from ..distributed import this_process
from ..guidance import classifier_score, tilted
from ..guidance.compatibility import asked_classes, check_classifier
from ..samplers import ddim
from ..weight_averages import initial_share, slowest_average
from .colour_cast import Colours, cast_in_words, colour_metrics, colours
from .config import PreviewConfig, TrainingConfig
from .diffusion_objective import area_reduced
from .log import preview_file
from .objective import Observe

PREVIEW_BATCH = 16
"""Preview images at a time: fewer than a training batch on one GPU, beside whose memory they must fit."""
REFERENCE_IMAGES = 1000
"""Images of the data, evenly spaced, with whose colours those of the previews are compared."""
MOST_CLASS_COLUMNS = 16
"""With at most so many classes, the grid has a column a class; more would be unreadably wide."""
COLUMNS = 8

_logger = logging.getLogger(__name__)


def diffusion_previews(
    config: PreviewConfig, model: DiffusionConfig, data: ImageSet, training: TrainingConfig
) -> Observe | None:
    """Samples, a column a class where they are few, compared with images of the data; None for no previews."""
    if not config.images:
        return None
    chain = preview_chain(model.chain, config.steps)
    classifier = None if config.classifier is None else load_classifier(config.classifier)
    if classifier is not None:  # an unfit one is refused before training
        check_classifier(model, classifier, run=training.out)
    reference = cache(lambda: colours(data[i][0] for i in evenly_spaced(len(data), most=REFERENCE_IMAGES)))

    def observe(network: nn.Module, iteration: int) -> Mapping[str, float]:
        device = next(network.parameters()).device
        if classifier is not None:
            classifier.network.to(device)
        num_classes = model.network.num_classes or (1 if classifier is None else len(classifier.class_names))
        names, unseen = asked_classes(model, classifier)
        seen = torch.tensor([label for label in range(num_classes) if label not in unseen] or [0])
        y = seen[preview_labels(config.images, len(seen))].to(device)

        def denoiser(ids: slice) -> Denoiser:
            plain = model.denoiser(network, y[ids], clip=1.0)
            if classifier is None:
                return plain
            return tilted(plain, classifier_score(classifier.log_prob, y[ids], config.scale))

        x0 = preview_samples(denoiser, model, chain, count=config.images, device=device)
        columns = len(seen) if 1 < len(seen) <= MOST_CLASS_COLUMNS else COLUMNS
        captions = [names[label] for label in seen.tolist()] if columns == len(seen) and names else []
        picture = partial(write_grid, images=_pixels(x0, iteration), columns=columns, heads=captions)
        return _recorded(picture, colours(x0), reference(), training, iteration)

    return observe


def upsampler_previews(
    config: PreviewConfig, model: UpsamplerModelConfig, data: ImageSet, training: TrainingConfig
) -> Observe | None:
    """Pairs of a training image in low resolution and its enlargement, compared with the images; None: no previews."""
    if not config.images:
        return None
    chain = preview_chain(model.chain, config.steps)

    def observe(network: nn.Module, iteration: int) -> Mapping[str, float]:
        device = next(network.parameters()).device
        images, labels = zip(*(data[index] for index in evenly_spaced(len(data), most=config.images)), strict=True)
        low_res = area_reduced(torch.stack(images), model.network.low_res_size).to(device)
        y = torch.tensor(labels, device=device)

        def denoiser(ids: slice) -> Denoiser:
            return model.denoiser(partial(network, low_res=low_res[ids]), y[ids], clip=1.0)

        x0 = preview_samples(denoiser, model, chain, count=len(y), device=device)
        shown = F.interpolate(low_res.cpu(), size=x0.shape[2:], mode="nearest-exact")
        pairs = rearrange([to_uint8(shown), _pixels(x0, iteration)], "two b c h w -> (b two) c h w")
        captions = ["low res", "enlarged"] * (COLUMNS // 2)
        picture = partial(write_grid, images=pairs, columns=COLUMNS, heads=captions)
        return _recorded(picture, colours(x0), colours(images), training, iteration)

    return observe


def _recorded(
    write: Callable[[Path], None], previews: Colours, data: Colours, training: TrainingConfig, iteration: int
) -> Mapping[str, float]:
    """Write OUT/previews/0005000.png, warn of a colour cast, and return the colours as metrics."""
    average = slowest_average(training.training.averages)
    initial = 0.0 if average is None else initial_share(average, iteration)
    if this_process().is_main:
        file = preview_file(training.out, iteration)
        write(file)
        young = f", still {initial:.0%} the initial ones" if initial > 0.01 else ""
        tqdm.write(f"{file}: previews by the weights {average or 'network'}{young}", file=sys.stderr)
        if (cast := cast_in_words(previews, data)) is not None:
            cause = "the model is not there yet" if initial <= 0.01 else (
                f"{initial:.0%} of the averaged weights that made them ({average}) are still the initial ones"
            )  # fmt: skip
            others = "it may have had too few iterations, or too high a learning rate"
            _logger.warning("previews at iteration %d are %s: %s; %s", iteration, cast, cause, others)
    return colour_metrics(previews, data)


def _pixels(x0: Tensor, iteration: int) -> Tensor:
    """Previews as uint8; values that are not finite are black, with a warning."""
    if not x0.isfinite().all():
        _logger.warning(
            "previews at iteration %d are not finite and shown black: training has diverged; resume from an earlier "
            "checkpoint with a lower learning rate",
            iteration,
        )
    return to_uint8(x0.nan_to_num(nan=-1.0))


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

    denoiser: that of a range of consecutive samples.
    """
    chunks = [range(start, min(start + PREVIEW_BATCH, count)) for start in range(0, count, PREVIEW_BATCH)]
    drawn: list[Tensor] = []
    # A bar of its own, since that of the training stands still meanwhile: minutes on a CPU.
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
    """DDIM's spacing of a chain, a whole stride from 0: `steps` levels, or the next number that a stride gives.

    In continuous time any number of levels is possible.
    """
    strided = len(range(0, config.num_steps, max(1, config.num_steps // steps)))
    return sampling_chain(config, f"ddim{steps if config.is_continuous else strided}")
