"""The inpainting command: pictures with a part of each made anew, to shards on disk like any other samples."""

from collections import Counter
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor

from ..data.formats.samples import iterate_shards
from ..data.image_set import DataConfig
from ..data.listing import evenly_spaced
from ..data.pictures import write_png
from ..diffusion.chain import DiffusionChain
from ..diffusion.denoiser import Clip, Denoiser
from ..diffusion.images import from_uint8, grid, to_uint8
from ..diffusion.model import DiffusionModel
from ..diffusion.noise import Noise, SeededNoise
from ..distributed import this_process
from ..guidance import ScoreTerm
from ..guidance.config import Guide, OtherGuides
from ..guidance.network_counter import counted_guidance
from ..guidance.run import Guidance
from ..samplers import OnStep, Sampler, SamplerName
from ..samplers.repaint import begun, knowing, only_in, repaint
from .config import GuidedRunConfig, SampleConfig, clipping, sampler_and_chain
from .input_images import open_given, read_given
from .label_rules import InTurn, LabelRule
from .manifest import sample_manifest
from .plan import Plan
from .run import guidance_of, labels_told
from .shard_writer import make_shards

SHOWN = 16
"""Images in the comparison picture."""
COMPARISON_NAME = "comparison.png"


@dataclass(frozen=True, kw_only=True)
class InpaintConfig(GuidedRunConfig):
    """Make a part of each image anew, so that it fits the rest."""

    data: DataConfig
    """Images; centre crops, not mirrored. Without classes: one folder of all, or --data.labels filenames."""
    mask: Path
    """Picture of the model's image size: what is white is made anew, what is black is kept to the byte."""
    labels: int | str | None = None
    """Classes asked for; null: each image's own. Otherwise as in scripts/sample.py."""
    max_images: int = 64
    """Of more, this many are taken, evenly spaced."""
    sampler: SamplerName = "ddpm"
    """The only one that can resample; others, with --resample_steps 1, as in scripts/sample.py."""
    steps: int | str = 50
    """How many timesteps, or which, as in scripts/sample.py."""
    resample_steps: int = 5
    """How often each link of ddpm is taken (RePaint's resampling, there 10): more agree better with what is known, and
    take so many times as long. 1: once, as usual. On the lower halves of held-out digits, at 40 steps, FD is 5.2 with 1
    and 1.8 with 5; 7.0 with ddim."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("max_images", "resample_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.resample_steps > 1 and self.sampler != "ddpm":
            raise ValueError(
                f"resample_steps {self.resample_steps} takes ddpm's links repeatedly, and {self.sampler} has none; add "
                f"--resample_steps 1, or take --sampler ddpm"
            )
        if self.resample_steps > 1 and self.guidance.gradient_at != "x_t":
            raise ValueError("resample_steps knows the gradient at x_t alone; leave out guidance.gradient_at")


@dataclass(frozen=True)
class Task:
    """Images (N, C, S, S) uint8 with their labels (N,), and where they are to be made anew: fill (1, 1, S, S) bool."""

    images: Tensor
    labels: Tensor
    fill: Tensor


def inpaint(
    config: InpaintConfig, model: DiffusionModel, guide: Guide | None, others: OtherGuides | None = None
) -> None:
    """Fill in whatever images are not yet in `config.out`, then make a picture that compares some of them.

    Image i's noise follows from i alone, so its pixels are the same for any number of processes and after any
    interruption.

    Raises:
        FileNotFoundError: no images, mask, file of labels, or data to count them in.
        ValueError: a mask or images that the model does not fit, guides that do not, unknown labels or steps, or a
            directory that holds other samples; nothing is written then.
    """
    device = this_process().device
    sampler, chain = _sampler_and_chain(config, model)
    guidance = guidance_of(config, model, guide, others, chain)
    task = _read_task(config, model, guidance)
    plan = Plan(num_samples=len(task.images), shard_size=config.shard_size, labels=_labels(config, guidance, task))
    evaluations: Counter[str] = Counter()
    counted = counted_guidance(guidance, evaluations, precision=config.precision)

    def make_images(ids: range, on_step: OnStep) -> Tensor:
        originals = task.images[ids.start : ids.stop].to(device)
        y = torch.tensor([plan.label(i) for i in ids], device=device)
        how = {"y": y, "guidance": counted, "clip": clipping(config), "on_step": on_step}
        noise, fill = SeededNoise(config.seed, ids), task.fill.to(device)
        made = filled_in(sampler, chain, noise, known=from_uint8(originals), fill=fill, **how)
        # From the originals themselves: to_uint8 truncates, and would darken known pixels by a grey level.
        return torch.where(fill, to_uint8(made), originals)

    make_shards(config, plan, _manifest(config, guidance, plan, task), make_images, evaluations)
    if this_process().is_main:
        write_png(config.out / COMPARISON_NAME, comparison(config.out, task))


def filled_in(
    sampler: Sampler,
    chain: DiffusionChain,
    noise: SeededNoise,
    *,
    known: Tensor,
    fill: Tensor,
    y: Tensor,
    guidance: Guidance,
    clip: Clip = 1.0,
    on_step: OnStep | None = None,
) -> Tensor:
    """Images x_0 (B, C, H, W), nominally in [-1, 1], for labels y (B,), that are `known` where not `fill`."""
    denoiser, term = knowing(guidance.denoiser(y, clip=clip), known, fill), guidance.term(y)
    term = None if term is None else only_in(term, fill)
    return sampler(denoiser, chain, begun(noise(known), known, fill, chain), noise, guidance=term, on_step=on_step)


def read_fill(path: Path, *, size: int) -> Tensor:
    """Where a mask is white, (1, 1, S, S) bool.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no picture, one of another size or with grey in it, or one all black or all white.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no mask {path}; expected a picture of {size}x{size} pixels, white and black")
    try:
        with Image.open(path) as picture:
            values = np.asarray(picture.convert("L"))
    except OSError as error:
        raise ValueError(f"the mask {path} cannot be read as a picture ({error}); expected a PNG file") from error
    if values.shape != (size, size):
        height, width = values.shape
        raise ValueError(
            f"the mask {path} has {width}x{height} pixels, but the model makes {size}x{size}; draw it at that size, on "
            f"the centre crop"
        )
    grey = int(((values > 0) & (values < 255)).sum())
    if grey:
        raise ValueError(
            f"the mask {path} has {grey} pixels that are neither black (keep) nor white (make anew); save it as PNG "
            f"without smoothing"
        )
    fill = torch.from_numpy(values == 255)
    if bool(fill.all()) or not bool(fill.any()):
        said = "white, so nothing is kept" if bool(fill.all()) else "black, so nothing is made"
        raise ValueError(f"the mask {path} is all {said}; draw the part to be made in white on black")
    return rearrange(fill, "h w -> 1 1 h w")


def comparison(directory: Path, task: Task) -> Tensor:
    """The first images, two a row: original, with the part to be made left grey, and the result; (C, H, W) uint8."""
    count = min(SHOWN, len(task.images))
    shards = iterate_shards(directory, stop=count)
    made = torch.cat([rearrange(torch.from_numpy(shard.images.copy()), "n h w c -> n c h w") for shard in shards])
    originals = task.images[:count]
    masked = torch.where(task.fill, 128, originals).to(torch.uint8)
    return grid(rearrange([originals, masked, made], "three n c h w -> (n three) c h w"), columns=6)


def _sampler_and_chain(config: InpaintConfig, model: DiffusionModel) -> tuple[Sampler, DiffusionChain]:
    sampler, chain = sampler_and_chain(config, model.config.chain, gradient_at=config.guidance.gradient_at)
    return (sampler if config.resample_steps == 1 else partial(_resampled, config.resample_steps)), chain


def _resampled(
    resample_steps: int,
    denoiser: Denoiser,
    chain: DiffusionChain,
    x_T: Tensor,
    noise: Noise,
    *,
    guidance: ScoreTerm | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """`repaint` as a Sampler."""
    told = {"resample_steps": resample_steps, "mean_shift": guidance, "on_step": on_step}
    return repaint(denoiser, chain, x_T, noise, **told)


def _read_task(config: InpaintConfig, model: DiffusionModel, guidance: Guidance) -> Task:
    fill = read_fill(config.mask, size=model.config.network.image_size)
    own_labels = guidance.knows_classes and config.labels is None
    dataset = open_given(config.data, model, class_names=(guidance.class_names or None) if own_labels else None)
    images, labels = read_given(dataset, evenly_spaced(len(dataset), most=config.max_images))
    return Task(images, labels, fill)


def _labels(config: InpaintConfig, guidance: Guidance, task: Task) -> LabelRule | None:
    if config.labels is None and guidance.knows_classes:
        return InTurn(tuple(task.labels.tolist()))
    return labels_told(SampleConfig.labels if config.labels is None else config.labels, guidance, seed=config.seed)


def _manifest(config: InpaintConfig, guidance: Guidance, plan: Plan, task: Task) -> dict[str, Any]:
    inpainting = {
        "images": sha256(task.images.numpy().data).hexdigest(),
        "mask": sha256(task.fill.numpy().data).hexdigest(),
        "resample_steps": config.resample_steps,
    }
    return sample_manifest(config, guidance, plan) | {"inpainting": inpainting}
