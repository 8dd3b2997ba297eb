"""Cascades (ADM section 5.2): base samples through an upsampler, to shards on disk like any other samples."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..chain import DiffusionChain
from ..config import to_plain
from ..data.shards import check_manifest
from ..data.sources import ImageSource, batches, images_between, open_images
from ..images import from_uint8, to_uint8
from ..model import DiffusionModel, UpsamplerModel, UpsamplerModelConfig, class_difference, load_upsampler
from ..noise import SeededNoise
from ..sampling import OnStep, Sampler
from .guide import Guide
from .plan import Plan
from .run import (
    RunConfig,
    SampleConfig,
    cut,
    generate,
    make_shards,
    sample_manifest,
    sample_plan,
    sampler_and_chain,
    sampler_config,
    this_device,
    weights_record,
)


@dataclass(frozen=True, kw_only=True)
class UpsampleConfig(RunConfig):
    """Enlarge samples, or any images of the right size, by an upsampler."""

    upsampler: Path
    """Run directory or checkpoint of the upsampler."""
    base: Path
    """What to enlarge: a directory of samples, an npz in the published layout (arr_0, labels in arr_1), or a folder of
    pictures, its directories being the classes if it has any."""


@dataclass(frozen=True, kw_only=True)
class Base:
    """What an upsampler is to enlarge, as far as it must fit."""

    name: str
    """For messages."""
    num_samples: int
    image_shape: tuple[int, int, int]
    """(C, h, w)."""
    class_names: tuple[str, ...] | None
    """None: the base does not tell."""
    labels: tuple[int, ...] | None
    """Image i's is labels[i mod len(labels)], -1 for none; None: no image has one."""
    record: Mapping[str, Any]
    """Plain values that tell it from other bases: the manifest of samples of ours, else the SHA-256 of the content."""


def upsample(config: UpsampleConfig) -> None:
    """Enlarge whatever images of `config.base` are not yet in `config.out`, then make a grid of the first of them.

    Image i's enlargement has i's label, and its noise follows from i alone: its pixels are the same for any number of
    processes and after any interruption.

    Raises:
        FileNotFoundError: no upsampler or no images there.
        ValueError: images that the upsampler does not enlarge, naming the difference, or a directory that holds other
            samples; nothing is written then.
    """
    device = this_device()
    upsampler = load_upsampler(config.upsampler, weights=config.weights, device=device)
    source = open_images(config.base)
    base = _stored_base(source)
    check_base(upsampler, base)
    plan = Plan(num_samples=base.num_samples, shard_size=config.shard_size, labels=base.labels)
    sampler, chain = sampler_and_chain(config, upsampler.config.chain)

    def batches_of(ids: range, on_step: OnStep) -> Iterator[Tensor]:
        pixels = images_between(source, ids.start, ids.stop).split(config.batch_size)
        for part, batch in zip(cut(ids, config.batch_size), pixels, strict=True):
            y = torch.tensor([plan.label(i) for i in part], device=device)
            low_res = from_uint8(batch.to(device))
            noise = SeededNoise(stage_seed(config.seed, upsampler.config), part)
            clip = config.clip
            x0 = enlarge(upsampler, sampler, chain, noise, low_res=low_res, y=y, clip=clip, on_step=on_step)
            yield to_uint8(x0)

    make_shards(config, plan, _manifest(config, upsampler, base), batches_of)


def enlarge(
    upsampler: UpsamplerModel,
    sampler: Sampler,
    chain: DiffusionChain,
    noise: SeededNoise,
    *,
    low_res: Tensor,
    y: Tensor,
    clip: float | None = 1.0,
    on_step: OnStep | None = None,
) -> Tensor:
    """Images x_0 (B, C, H, W), nominally in [-1, 1], whose reductions are about low_res (B, C, h, w) in [-1, 1]."""
    x_T = noise(torch.empty(len(low_res), *upsampler.config.image_shape, device=low_res.device))
    return sampler(upsampler.denoiser(y, low_res=low_res, clip=clip), chain, x_T, noise, on_step=on_step)


def stage_seed(seed: int, config: UpsamplerModelConfig) -> int:
    """The seed of an upsampler's noise in a run of `seed`.

    Under one seed a sample and its enlargement must not share their noise, or the start of one would say something of
    the other. Sizes grow from stage to stage, so that each has a seed of its own; base samples have the run's.
    """
    return seed ^ config.network.image_size << 32


def generate_upsampled(config: SampleConfig, model: DiffusionModel, guide: Guide | None) -> None:
    """Samples in `config.out`/base as `generate` makes them, then enlarged in `config.out`, under the same settings.

    Raises:
        FileNotFoundError, ValueError: as `generate` and `upsample`, before anything is written.
    """
    assert config.upsampler is not None
    base_config = replace(config, out=config.out / "base", upsampler=None)
    shared: dict[str, Any] = {field.name: getattr(config, field.name) for field in fields(RunConfig)}
    own = {"upsampler": config.upsampler, "base": base_config.out, "weights": None}
    upsample_config = UpsampleConfig(**(shared | own))
    upsampler = load_upsampler(config.upsampler)
    base = _planned_base(base_config, model, guide)
    check_base(upsampler, base)
    sampler_and_chain(config, upsampler.config.chain)
    check_manifest(config.out, _manifest(upsample_config, upsampler, base))
    del upsampler  # the base samples may need its memory
    generate(base_config, model, guide)
    upsample(upsample_config)


def check_base(upsampler: UpsamplerModel, base: Base) -> None:
    """Refuse what an upsampler cannot enlarge.

    Raises:
        ValueError: images of another size or number of channels, other classes, or labels missing where it is told
            them; naming the difference.
    """
    name, config = upsampler.checkpoint.path, upsampler.config
    if base.image_shape != config.low_res_shape:
        raise ValueError(
            f"{base.name} holds images (channels, height, width) {base.image_shape}, but {name} enlarges "
            f"{config.low_res_shape}"
        )
    if config.network.num_classes is None:
        return
    if base.labels is None:
        raise ValueError(
            f"{name} is told the class of each image, but {base.name} has no labels; give samples with labels (shards, "
            f"an npz with arr_1, class folders) or an upsampler without classes"
        )
    if base.class_names is not None:
        called = {"model_called": "the upsampler", "other_called": "the base"}
        difference = class_difference(config.class_names, base.class_names, **called)
        if difference is not None:
            raise ValueError(f"{name} cannot enlarge {base.name}: {difference}")
    unknown = sorted({label for label in base.labels if not 0 <= label < config.network.num_classes})
    if unknown:
        raise ValueError(
            f"{base.name} has images of label {unknown[0]}{' (none)' if unknown[0] < 0 else ''}, but {name} knows "
            f"labels 0 to {config.network.num_classes - 1}"
        )


def _stored_base(source: ImageSource) -> Base:
    height, width, channels = source.shape
    stored = {"sha256": _content_sha256(source)} if source.manifest is None else {"manifest": source.manifest}
    return Base(
        name=str(source.path),
        num_samples=source.num_images,
        image_shape=(channels, height, width),
        class_names=source.class_names or None,
        labels=None if source.labels is None else tuple(source.labels.tolist()),
        record=stored,
    )


def _planned_base(config: SampleConfig, model: DiffusionModel, guide: Guide | None) -> Base:
    plan = sample_plan(config, model, guide)
    manifest = sample_manifest(config, model, guide, plan)
    return Base(
        name=str(model.checkpoint.path),
        num_samples=plan.num_samples,
        image_shape=model.image_shape,
        class_names=manifest["class_names"] or None,
        labels=plan.labels,
        record={"manifest": manifest},
    )


def _content_sha256(source: ImageSource) -> str:
    """Of shape, labels and pixels: what a set of images is, whatever files hold it. Reads it all."""
    digest = sha256(repr((source.num_images, source.shape)).encode())
    if source.labels is not None:
        digest.update(source.labels.astype("<i8").tobytes())
    for images, _ in batches(source, batch_size=64):
        digest.update(images.numpy().data)
    return digest.hexdigest()


def _manifest(config: UpsampleConfig, upsampler: UpsamplerModel, base: Base) -> dict[str, Any]:
    """All that the pixels depend on, but for floating-point kernels."""
    class_names = upsampler.config.class_names if upsampler.config.is_conditional else base.class_names
    return {
        "num_samples": base.num_samples,
        "shard_size": config.shard_size,
        "class_names": class_names,
        "seed": config.seed,
        "sampler": to_plain(sampler_config(config)),
        "clip": config.clip,
        "upsampler": weights_record(upsampler),
        "base": base.record,
    }
