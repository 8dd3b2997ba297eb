"""Cascades (ADM section 5.2): base samples, or any images of the right size, enlarged by an upsampler."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..data.formats.samples import settings_of
from ..diffusion.chain import DiffusionChain, diffused
from ..diffusion.denoiser import NetworkDenoiser
from ..diffusion.model import (
    UpsamplerModel,
    UpsamplerModelConfig,
    check_conditioning_noise,
    class_difference,
    weights_record,
)
from ..models.precision import Precision
from ..samplers import make_sampler
from .config import SamplingConfig
from .finiteness import finite_samples, likeliest_cause
from .half_precision import IMAGES, least_lossy_half, sampling_precision
from .plan import InTurn, Plan, SampleBatch
from .run import SamplingRun, run_record

if TYPE_CHECKING:
    from ..data.image_set import ImageSet


@dataclass(frozen=True, kw_only=True)
class Base:
    """Images to enlarge, as far as an upsampler must fit them."""

    name: str
    """For messages."""
    num_samples: int
    image_shape: tuple[int, int, int]
    """(C, h, w)."""
    class_names: tuple[str, ...] | None
    """None: unknown."""
    labels: tuple[int, ...] | None
    """Label of every image, -1 for none; None: no image has one."""
    record: Mapping[str, Any]
    """Plain values that identify them: the manifest of our samples, else the SHA-256 of the content."""


def stored_base(source: "ImageSet") -> Base:
    """The base of images on disk, all of which are read if they have no manifest."""
    height, width, channels = source.shape
    if source.manifest is not None:
        record = {"manifest": settings_of(source.manifest)}
    else:  # the same for any files that hold these labels and pixels
        digest = sha256(repr((len(source), source.shape)).encode())
        if source.is_labelled:
            digest.update(source.labels.numpy().astype("<i8").tobytes())
        for images, _ in source.batches(64):
            digest.update(images.numpy().data)
        record = {"sha256": digest.hexdigest()}
    return Base(
        name=str(source.path),
        num_samples=len(source),
        image_shape=(channels, height, width),
        class_names=source.class_names or None,
        labels=tuple(source.labels.tolist()) if source.is_labelled else None,
        record=record,
    )


def planned_base(run: SamplingRun, plan: Plan) -> Base:
    """The base of samples that are yet to be made."""
    return Base(
        name=str(run.model.checkpoint.path),
        num_samples=plan.num_samples,
        image_shape=run.model.image_shape,
        class_names=run.guidance.class_names or None,
        labels=None if plan.labels is None else tuple(map(plan.label, range(plan.num_samples))),
        record={"manifest": run.manifest(plan)},
    )


@dataclass(frozen=True, kw_only=True)
class UpsamplingRun:
    """An upsampler, the base that it enlarges, and all else that the enlargements are made with.

    Images that the upsampler does not enlarge are refused, as are noise and timesteps that it was not trained on.
    """

    settings: SamplingConfig
    upsampler: UpsamplerModel
    base: Base
    conditioning_noise: float = 0.0
    """Rate of the noise added to the base."""

    def __post_init__(self) -> None:
        _check_base(self.upsampler, self.base)
        name = str(self.upsampler.checkpoint.path)
        check_conditioning_noise(self.upsampler.config, self.conditioning_noise, called=name)
        _ = self.chain  # refuses timesteps

    @cached_property
    def chain(self) -> DiffusionChain:
        """The noise levels that the sampler visits."""
        return self.settings.sampler.levels(self.upsampler.config.chain)

    def plan(self, *, shard_size: int) -> Plan:
        """The enlargements, which have the labels of the base."""
        labels = None if self.base.labels is None else InTurn(self.base.labels)
        seed = stage_seed(self.settings.seed, self.upsampler.config)
        return Plan(num_samples=self.base.num_samples, shard_size=shard_size, labels=labels, seed=seed)

    def precision(self, low_res: Tensor, *directories: Path) -> Precision:
        """As `SamplingConfig.precision` asks, measured on enlargements of low_res (b, C, h, w), at most `IMAGES`."""
        model, rate = self.upsampler, self.conditioning_noise
        rows = torch.arange(IMAGES, device=low_res.device) % len(low_res)
        y = rows % (model.config.network.num_classes or 1)

        def bound(network: nn.Module) -> NetworkDenoiser:
            return replace(model, network=network).denoiser(y, low_res=low_res[rows], conditioning_noise=rate)

        measured = partial(least_lossy_half, model.network, bound, self.chain, model.config.image_shape, low_res.device)
        return sampling_precision(self.settings.precision, low_res.device, directories=directories, measured=measured)

    def x0(self, batch: SampleBatch, low_res: Tensor) -> Tensor:
        """Images x_0 (B, C, H, W), nominally in [-1, 1], whose reductions are about low_res (B, C, h, w) in [-1, 1]."""
        x_T = batch.noise(torch.empty(len(low_res), *self.upsampler.config.image_shape, device=low_res.device))
        rate = self.conditioning_noise
        if rate:  # drawn after x_T
            low_res = diffused(low_res, batch.noise(low_res), alpha_bar=1 - rate**2)
        clip = self.settings.sampler.clipping
        denoiser = self.upsampler.denoiser(batch.y, low_res=low_res, conditioning_noise=rate, clip=clip)
        sampler = make_sampler(self.settings.sampler)
        return finite_samples(
            lambda on_step: sampler(denoiser, self.chain, x_T, batch.noise, on_step=on_step),
            batch.ids,
            cause=partial(likeliest_cause, [self.upsampler], self.settings.sampler, precision=self.settings.precision),
            on_step=batch.on_step,
        )

    def manifest(self, plan: Plan) -> dict[str, Any]:
        """All that the pixels depend on, except for floating-point kernels."""
        config, rate = self.upsampler.config, self.conditioning_noise
        class_names = config.class_names if config.is_conditional else self.base.class_names
        return run_record(self.settings, plan, class_names=class_names) | {
            **({"conditioning_noise": rate} if rate else {}),
            "upsampler": weights_record(self.upsampler),
            "base": self.base.record,
        }


def stage_seed(seed: int, config: UpsamplerModelConfig) -> int:
    """The seed of an upsampler's noise in a run of `seed`.

    A sample and its enlargement must not share their noise, or the start of one would predict the other. Sizes grow
    from stage to stage, so each stage has a seed of its own; base samples have the run's.
    """
    return seed ^ config.network.image_size << 32


def _check_base(upsampler: UpsamplerModel, base: Base) -> None:
    """Refuse images of another size, and other or missing classes where the upsampler is conditioned on them."""
    name, config = upsampler.checkpoint.path, upsampler.config
    if base.image_shape != config.low_res_shape:
        shape = f"(channels, height, width) {base.image_shape}"
        raise ValueError(f"{base.name} holds images {shape}, but {name} enlarges {config.low_res_shape}")
    if config.network.num_classes is None:
        return
    if base.labels is None:
        raise ValueError(
            f"{name} is conditioned on the class of each image, but {base.name} has no labels; give samples with "
            f"labels (shards, an npz with arr_1, class folders) or an upsampler without classes"
        )
    if base.class_names is not None:
        called = {"model_called": "the upsampler", "other_called": "the base"}
        if difference := class_difference(config.class_names, base.class_names, **called):
            raise ValueError(f"{name} cannot enlarge {base.name}: {difference}")
    unknown = sorted({label for label in base.labels if not 0 <= label < config.network.num_classes})
    if unknown:
        raise ValueError(
            f"{base.name} has images of label {unknown[0]}{' (none)' if unknown[0] < 0 else ''}, but {name} knows "
            f"labels 0 to {config.network.num_classes - 1}"
        )
