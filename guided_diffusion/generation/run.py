"""Sampling runs: from checkpoints and a plan to shards on disk, on one process or many, resumable."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from einops import rearrange
from torch import Tensor
from tqdm import tqdm

from ..chain import DiffusionChain
from ..checkpoint import file_sha256
from ..config import to_plain
from ..data.pictures import write_png
from ..data.shards import Shard, check_manifest, iterate_shards, missing_shards, open_manifest, write_shard
from ..guidance import LogProb, ScoreTerm, classifier_score, within
from ..images import grid, to_uint8
from ..model import DiffusionModel, class_difference, load_diffusion
from ..noise import SeededNoise
from ..sampling import Sampler, SamplerConfig, make_sampler
from ..schedules import ChainConfig, make_chain
from .plan import Plan, parse_labels


@dataclass(frozen=True, kw_only=True)
class GuidanceConfig:
    """How a classifier guides."""

    scale: float | None = None
    """s in s * grad log p(y | x_t); null: 1 with a classifier. Tuned values lie between 0.5 and 10 (ADM table 14)."""
    sigma_min: float = 0.0
    """Guide only above this noise level, sqrt(1 / alpha_bar - 1); below it the classifier is not called."""
    sigma_max: float = float("inf")
    """Guide only up to this noise level."""


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """Sample from a diffusion model, guided by a classifier if one is named."""

    diffusion: Path
    """Run directory or checkpoint of the diffusion model."""
    out: Path
    """Directory for shards, manifest and grid; a run that was interrupted continues there."""
    classifier: Path | None = None
    """Run directory or checkpoint of a classifier trained on that model's noise."""
    guidance: GuidanceConfig = GuidanceConfig()
    """Strength and interval of the guidance."""
    num_samples: int = 64
    """Images to make."""
    labels: int | str = "all"
    """Classes asked for, in turn: all, a label or name, or several such as 0,1,2."""
    sampler: Literal["ddim", "ddpm"] = SamplerConfig.name
    """ddim, or the ancestral ddpm, which is guided by the paper's mean shift."""
    steps: int | str = SamplerConfig.steps
    """How many timesteps, in the sampler's own spacing, or which: sections 10,20,30, or a whole stride ddim25."""
    eta: float = SamplerConfig.eta
    """Share of ancestral noise in ddim, 0..1."""
    clip: float | None = 1.0
    """Estimates of x_0 are clamped to [-clip, clip]; null leaves them."""
    weights: str | None = None
    """Weights of the diffusion checkpoint, such as ema_0.9999 or network; null: its slowest average."""
    seed: int = 0
    """Of the noise of every sample, together with the sample's id."""
    batch_size: int = 64
    """Images at a time in each process; another size may change a pixel by one grey level."""
    cpu_threads: int = 1
    """Threads of each process where there is no GPU; another number may change a pixel by one grey level. To use all
    cores, run as many processes: torchrun --nproc_per_node 8 scripts/sample.py .."""
    shard_size: int = 1000
    """Images in each file; what an interruption can cost at most, for each process."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta is the share of ancestral noise, between 0 and 1; got {self.eta}")


@dataclass(frozen=True)
class Guide:
    """A classifier as a sampling run sees it: a function, and what must agree with the diffusion model."""

    log_prob: LogProb
    chain: ChainConfig | None
    """The chain whose noise it was trained on; None: clean images only."""
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    """(C, H, W) of the images it was trained on."""
    name: str
    """For messages and the manifest, such as "classifier/checkpoint-0300000"."""
    sha256: str
    """Of its weights."""


def generate(config: SampleConfig, model: DiffusionModel, guide: Guide | None) -> None:
    """Make whatever samples are still missing from `config.out`, then a grid of the first of them.

    Sample i's noise and label follow from its id, so its pixels are the same for any number of processes and after
    any interruption. Raises:
        ValueError: model and guide that do not fit together, unknown labels or steps, or a directory that holds
            samples made with other settings; nothing is written then.
    """
    accelerator = _accelerator()
    if accelerator.device.type == "cpu":
        torch.set_num_threads(config.cpu_threads)  # kernels sum in another order on another number of threads
    check_guide(model, guide, config.guidance)
    plan = Plan(num_samples=config.num_samples, shard_size=config.shard_size, labels=_labels(config, model, guide))
    sampler_config = SamplerConfig(name=config.sampler, steps=config.steps, eta=config.eta)
    sampler = make_sampler(sampler_config)
    chain = make_chain(model.config.chain)
    chain = chain.shortened(sampler_config.timesteps(len(chain)))
    manifest = _manifest(config, model, guide, plan, sampler_config)
    check_manifest(config.out, manifest)  # every process, so that none waits for one that refused
    if accelerator.is_main_process:
        config.out.mkdir(parents=True, exist_ok=True)
        open_manifest(config.out, manifest)
    accelerator.wait_for_everyone()

    missing = missing_shards(config.out, num_samples=plan.num_samples, shard_size=plan.shard_size)
    mine = [n for n in missing if n % accelerator.num_processes == accelerator.process_index]
    accelerator.wait_for_everyone()  # all have listed before any writes
    with tqdm(
        total=sum(len(plan.ids(n)) for n in mine),
        unit="img",
        desc=config.out.name,
        disable=not accelerator.is_main_process,
    ) as bar:
        for n in mine:
            images: list[Tensor] = []
            for ids in _batches(plan.ids(n), config.batch_size):
                y = torch.tensor([plan.label(i) for i in ids], device=accelerator.device)
                term = None if guide is None else guidance_term(guide.log_prob, y, config.guidance)
                noise = SeededNoise(config.seed, ids)
                x0 = sample(model, sampler, chain, noise, y=y, guidance=term, clip=config.clip)
                images.append(to_uint8(x0).cpu())
                bar.update(len(ids))
            write_shard(config.out, n, _shard(torch.cat(images), plan, plan.ids(n)))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        write_png(config.out / "grid.png", _grid(config.out, plan))


def sample(
    model: DiffusionModel,
    sampler: Sampler,
    chain: DiffusionChain,
    noise: SeededNoise,
    *,
    y: Tensor,
    guidance: ScoreTerm | None,
    clip: float | None = 1.0,
) -> Tensor:
    """Images x_0 (B, C, H, W), nominally in [-1, 1], for labels y (B,), from noise for as many samples."""
    x_T = noise(torch.empty(len(y), *model.image_shape, device=y.device))
    return sampler(model.denoiser(y, clip=clip), chain, x_T, noise, guidance=guidance)


def guidance_term(log_prob: LogProb, y: Tensor, config: GuidanceConfig) -> ScoreTerm:
    """The classifier's score as the config limits it."""
    term = classifier_score(log_prob, y, 1.0 if config.scale is None else config.scale)
    is_limited = config.sigma_min > 0 or config.sigma_max < float("inf")
    return within(term, config.sigma_min, config.sigma_max) if is_limited else term


def check_guide(model: DiffusionModel, guide: Guide | None, guidance: GuidanceConfig) -> None:
    """Refuse a classifier that cannot guide this model.

    Raises:
        ValueError: other classes, images or noise, naming the difference; or a scale with nobody to guide.
    """
    if guide is None:
        if guidance.scale is not None:
            raise ValueError(f"guidance.scale {guidance.scale:g} was given without a classifier; add --classifier RUN")
        return
    name = model.checkpoint.path
    if guide.chain is None:
        raise ValueError(
            f"{guide.name} was trained on clean images only and cannot guide; train one with --diffusion {name.parent}"
        )
    if guide.chain != model.config.chain:
        raise ValueError(f"{guide.name} was trained on the noise of {guide.chain}, but {name} has {model.config.chain}")
    if guide.image_shape != model.image_shape:
        raise ValueError(
            f"{guide.name} takes images (channels, height, width) {guide.image_shape}, but {name} makes "
            f"{model.image_shape}"
        )
    difference = class_difference(model.config.class_names, guide.class_names)
    if difference is not None:
        raise ValueError(f"{guide.name} cannot guide {name}: {difference}")


def _class_names(model: DiffusionModel, guide: Guide | None) -> tuple[str, ...]:
    """The diffusion model's, or the classifier's where that has none."""
    return model.config.class_names or (() if guide is None else guide.class_names)


def _labels(config: SampleConfig, model: DiffusionModel, guide: Guide | None) -> tuple[int, ...] | None:
    if guide is not None or model.is_conditional:
        return parse_labels(str(config.labels), _class_names(model, guide))
    if config.labels != "all":
        raise ValueError(
            f"labels {config.labels} were asked for, but {model.checkpoint.path} is not told the class and there is no "
            f"classifier; add --classifier RUN"
        )
    return None


def _manifest(
    config: SampleConfig, model: DiffusionModel, guide: Guide | None, plan: Plan, sampler: SamplerConfig
) -> dict[str, Any]:
    """All that the samples' pixels depend on, but for floating-point kernels."""
    guidance = {"scale": 1.0 if config.guidance.scale is None else config.guidance.scale}
    if config.guidance.sigma_min > 0:
        guidance["sigma_min"] = config.guidance.sigma_min
    if config.guidance.sigma_max < float("inf"):  # JSON knows no infinity
        guidance["sigma_max"] = config.guidance.sigma_max
    return {
        "num_samples": plan.num_samples,
        "shard_size": plan.shard_size,
        "class_names": _class_names(model, guide),
        "labels": plan.labels,
        "seed": config.seed,
        "sampler": to_plain(sampler),
        "clip": config.clip,
        "diffusion": {
            "name": f"{model.checkpoint.path.parent.name}/{model.checkpoint.path.name}",
            "weights": model.weights,
            "sha256": file_sha256(model.checkpoint.weights_file(model.weights)),
        },
        "classifier": None if guide is None else {"name": guide.name, "sha256": guide.sha256},
        "guidance": None if guide is None else guidance,
    }


def _batches(ids: range, size: int) -> Iterator[range]:
    return (ids[start : start + size] for start in range(0, len(ids), size))


def _shard(images: Tensor, plan: Plan, ids: Sequence[int]) -> Shard:
    return Shard(
        images=rearrange(images, "n c h w -> n h w c").numpy(),
        labels=torch.tensor([plan.label(i) for i in ids]).numpy(),
        ids=torch.tensor(list(ids)).numpy(),
    )


def _grid(directory: Path, plan: Plan, *, columns: int = 10, rows: int = 10) -> Tensor:
    """The first samples of each class asked for, a row each (of at most ten), or just the first samples."""
    asked = (-1,) if plan.labels is None else plan.labels[: plan.num_samples]
    wanted = sorted(set(asked))[:rows]
    per_label: dict[int, list[Tensor]] = {label: [] for label in wanted}
    most = columns if plan.labels else columns * rows
    for shard in iterate_shards(directory):
        for image, label in zip(shard.images, shard.labels.tolist(), strict=True):
            if label in per_label and len(per_label[label]) < most:
                per_label[label].append(torch.from_numpy(image.copy()))
        if all(len(images) == most for images in per_label.values()):
            break
    longest = max(len(images) for images in per_label.values())
    blank = torch.full_like(per_label[wanted[0]][0], 255)
    tiles = [tile for images in per_label.values() for tile in images + [blank] * (longest - len(images))]
    return grid(rearrange(torch.stack(tiles), "n h w c -> n c h w"), columns=longest if plan.labels else columns)


def load_for_sampling(config: SampleConfig) -> DiffusionModel:
    """The diffusion model a sampling run names, on this process's device."""
    return load_diffusion(config.diffusion, weights=config.weights, device=_accelerator().device)


def _accelerator() -> Accelerator:
    """Without `cpu`, accelerate takes each of several processes without accelerators for a run of its own."""
    return Accelerator(cpu=not torch.accelerator.is_available())
