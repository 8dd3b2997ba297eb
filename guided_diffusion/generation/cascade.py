"""Cascades (ADM section 5.2): base samples through an upsampler, to shards on disk like any other samples."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import to_plain
from ..data.formats.samples import check_manifest, without_environments
from ..data.sources import ImageSource, batches, images_between, open_images
from ..diffusion.chain import DiffusionChain, diffused
from ..diffusion.denoiser import Clip
from ..diffusion.images import from_uint8, to_uint8
from ..diffusion.model import (
    DiffusionModel,
    UpsamplerModel,
    UpsamplerModelConfig,
    check_conditioning_noise,
    class_difference,
    load_upsampler,
)
from ..diffusion.noise import SeededNoise
from ..distributed import this_process
from ..guidance.config import Guide, OtherGuides
from ..guidance.network_counter import counted_model
from ..guidance.run import Guidance, weights_record
from ..samplers import OnStep, Sampler
from .config import RunConfig, SampleConfig, clipping, sampler_and_chain
from .label_rules import InTurn
from .manifest import sample_manifest, sampler_record
from .plan import Plan
from .run import generate, guidance_of, sample_plan
from .shard_writer import make_shards


@dataclass(frozen=True, kw_only=True)
class UpsampleConfig(RunConfig):
    """Enlarge samples, or any images of the right size, by an upsampler."""

    upsampler: Path
    """Run directory or checkpoint of the upsampler."""
    base: Path
    """What to enlarge: a directory of samples, an npz in the published layout (arr_0, labels in arr_1), or a folder of
    pictures, its directories being the classes if it has any."""
    conditioning_noise: float = SampleConfig.conditioning_noise
    """Noise rate given to images before they are enlarged, by an upsampler that was trained on it."""


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
    """Of every image, -1 for none; None: no image has one."""
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
    device = this_process().device
    upsampler = load_upsampler(config.upsampler, weights=config.weights, device=device)
    source = open_images(config.base)
    base = _stored_base(source)
    check_base(upsampler, base)
    check_conditioning_noise(upsampler.config, config.conditioning_noise, called=str(upsampler.checkpoint.path))
    labels = None if base.labels is None else InTurn(base.labels)
    plan = Plan(num_samples=base.num_samples, shard_size=config.shard_size, labels=labels)
    sampler, chain = sampler_and_chain(config, upsampler.config.chain)
    manifest = _manifest(config, upsampler, base)
    evaluations: Counter[str] = Counter()
    upsampler = counted_model(upsampler, evaluations, precision=config.precision)

    @lru_cache(maxsize=1)  # batches of one shard follow one another
    def base_images(first: int) -> Tensor:
        return images_between(source, first, min(first + plan.shard_size, base.num_samples))

    def make_images(ids: range, on_step: OnStep) -> Tensor:
        first = ids.start // plan.shard_size * plan.shard_size
        low_res = from_uint8(base_images(first)[ids.start - first : ids.stop - first].to(device))
        x0 = enlarge(
            upsampler,
            sampler,
            chain,
            SeededNoise(stage_seed(config.seed, upsampler.config), ids),
            low_res=low_res,
            y=torch.tensor([plan.label(i) for i in ids], device=device),
            conditioning_noise=config.conditioning_noise,
            clip=clipping(config),
            on_step=on_step,
        )
        return to_uint8(x0)

    make_shards(config, plan, manifest, make_images, evaluations)


def enlarge(
    upsampler: UpsamplerModel,
    sampler: Sampler,
    chain: DiffusionChain,
    noise: SeededNoise,
    *,
    low_res: Tensor,
    y: Tensor,
    conditioning_noise: float = 0.0,
    clip: Clip = 1.0,
    on_step: OnStep | None = None,
) -> Tensor:
    """Images x_0 (B, C, H, W), nominally in [-1, 1], whose reductions are about low_res (B, C, h, w) in [-1, 1].

    conditioning_noise: rate of the noise given to low_res first, drawn after x_T and only if there is any.

    Raises:
        ValueError: a noise rate that the upsampler was not trained on.
    """
    x_T = noise(torch.empty(len(low_res), *upsampler.config.image_shape, device=low_res.device))
    if conditioning_noise:
        low_res = diffused(low_res, noise(low_res), alpha_bar=1 - conditioning_noise**2)
    denoiser = upsampler.denoiser(y, low_res=low_res, conditioning_noise=conditioning_noise, clip=clip)
    return sampler(denoiser, chain, x_T, noise, on_step=on_step)


def stage_seed(seed: int, config: UpsamplerModelConfig) -> int:
    """The seed of an upsampler's noise in a run of `seed`.

    Under one seed a sample and its enlargement must not share their noise, or the start of one would say something of
    the other. Sizes grow from stage to stage, so that each has a seed of its own; base samples have the run's.
    """
    return seed ^ config.network.image_size << 32


def generate_upsampled(
    config: SampleConfig, model: DiffusionModel, guide: Guide | None, others: OtherGuides | None = None
) -> None:
    """Samples in `config.out`/base as `generate` makes them, then enlarged in `config.out`, under the same settings.

    Raises:
        FileNotFoundError, ValueError: as `generate` and `upsample`, before anything is written.
    """
    assert config.upsampler is not None
    base_config = replace(config, out=config.out / "base", upsampler=None, conditioning_noise=0.0)
    shared: dict[str, Any] = {field.name: getattr(config, field.name) for field in fields(RunConfig)}
    own = {
        "upsampler": config.upsampler,
        "base": base_config.out,
        "weights": None,
        "conditioning_noise": config.conditioning_noise,
    }
    upsample_config = UpsampleConfig(**(shared | own))
    upsampler = load_upsampler(config.upsampler)
    _, chain = sampler_and_chain(config, model.config.chain, gradient_at=config.guidance.gradient_at)
    base = _planned_base(base_config, guidance_of(base_config, model, guide, others, chain))
    check_base(upsampler, base)
    check_conditioning_noise(upsampler.config, config.conditioning_noise, called=str(upsampler.checkpoint.path))
    sampler_and_chain(config, upsampler.config.chain)
    check_manifest(config.out, _manifest(upsample_config, upsampler, base))
    del upsampler  # the base samples may need its memory
    generate(base_config, model, guide, others)
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
    manifest = source.manifest
    stored = {"sha256": _content_sha256(source)} if manifest is None else {"manifest": without_environments(manifest)}
    return Base(
        name=str(source.path),
        num_samples=source.num_images,
        image_shape=(channels, height, width),
        class_names=source.class_names or None,
        labels=None if source.labels is None else tuple(source.labels.tolist()),
        record=stored,
    )


def _planned_base(config: SampleConfig, guidance: Guidance) -> Base:
    plan = sample_plan(config, guidance)
    manifest = sample_manifest(config, guidance, plan)
    return Base(
        name=str(guidance.model.checkpoint.path),
        num_samples=plan.num_samples,
        image_shape=guidance.model.image_shape,
        class_names=manifest["class_names"] or None,
        labels=None if plan.labels is None else tuple(plan.label(i) for i in range(plan.num_samples)),
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
        "sampler": sampler_record(config),
        "clip": to_plain(clipping(config)),
        "precision": config.precision,
        **({"conditioning_noise": config.conditioning_noise} if config.conditioning_noise else {}),
        "upsampler": weights_record(upsampler),
        "base": base.record,
    }
