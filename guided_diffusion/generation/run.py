"""Sampling runs: from checkpoints and a plan to shards on disk, on one process or many, resumable."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NoReturn

import torch
from accelerate import Accelerator
from einops import rearrange
from torch import Tensor
from tqdm import tqdm

from ..chain import DiffusionChain
from ..checkpoint import file_sha256
from ..config import to_plain
from ..data.pictures import write_png
from ..data.shards import Shard, check_manifest, missing_shards, open_manifest, write_shard
from ..device import has_accelerator
from ..guidance import ScoreTerm
from ..images import to_uint8
from ..model import DiffusionModel, UpsamplerModel, load_diffusion
from ..noise import SeededNoise
from ..prediction import Estimate
from ..sampling import OnStep, Sampler, SamplerConfig, make_sampler
from ..schedules import ChainConfig, make_chain
from .class_grid import class_grid
from .guide import GuidanceConfig, Guide, check_guide, guidance_record, guidance_term
from .plan import Plan, parse_labels

LARGEST_TILT = 1000.0
"""A linear schedule's last level has 158, a cosine schedule's 20,000 (T = 1000)."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What every sampling run is told: how to sample, and where the samples go."""

    out: Path
    """Directory for shards, manifest and grid; a run that was interrupted continues there."""
    sampler: Literal["ddim", "ddpm"] = SamplerConfig.name
    """ddim, or the ancestral ddpm, which is guided by the paper's mean shift."""
    steps: int | str = SamplerConfig.steps
    """How many timesteps, in the sampler's own spacing, or which: sections 10,20,30, or a whole stride ddim25."""
    eta: float = SamplerConfig.eta
    """Share of ancestral noise in ddim, 0..1."""
    clip: float | None = 1.0
    """Estimates of x_0 are clamped to [-clip, clip]; null leaves them."""
    weights: str | None = None
    """Weights of the checkpoint sampled from, such as ema_0.9999 or network; null: its slowest average."""
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
        for name in ("batch_size", "cpu_threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.clip is not None and self.clip <= 0:
            raise ValueError(f"clip is a bound above 0, or null; got {self.clip}")


@dataclass(frozen=True, kw_only=True)
class SampleConfig(RunConfig):
    """Sample from a diffusion model, guided by a classifier if one is named."""

    diffusion: Path
    """Run directory or checkpoint of the diffusion model."""
    classifier: Path | None = None
    """Run directory or checkpoint of a classifier trained on that model's noise."""
    guidance: GuidanceConfig = GuidanceConfig()
    """Strength and interval of the guidance."""
    num_samples: int = 64
    """Images to make."""
    labels: int | str = "all"
    """Classes asked for, in turn: all, a label or name, or several such as 0,1,2."""
    upsampler: Path | None = None
    """Run directory or checkpoint of an upsampler that enlarges the samples, by the same sampler and steps: they go to
    OUT/base, and enlarged to OUT. With settings of its own: scripts/upsample.py."""


def generate(config: SampleConfig, model: DiffusionModel, guide: Guide | None) -> None:
    """Make whatever samples are still missing from `config.out`, then a grid of the first of them.

    Sample i's noise and label follow from its id, so on a CPU its pixels are the same for any number of processes and
    after any interruption; a GPU's kernels may add up in another order each time. `config.upsampler` is left to
    `cascade.generate_upsampled`.

    Raises:
        ValueError: model and guide that do not fit together, unknown labels or steps, or a directory that holds
            samples made with other settings; nothing is written then.
    """
    device = this_device()
    check_guide(model, guide, config.guidance)
    plan = sample_plan(config, model, guide)
    sampler, chain = sampler_and_chain(config, model.config.chain)
    if guide is not None and config.sampler != "ddpm":
        _warn_of_noise_without_signal(chain)

    def batches_of(ids: range, on_step: OnStep) -> Iterator[Tensor]:
        for part in cut(ids, config.batch_size):
            y = torch.tensor([plan.label(i) for i in part], device=device)
            term = None if guide is None else guidance_term(guide.log_prob, y, config.guidance)
            noise = SeededNoise(config.seed, part)
            x0 = sample(model, sampler, chain, noise, y=y, guidance=term, clip=config.clip, on_step=on_step)
            yield to_uint8(x0)

    make_shards(config, plan, sample_manifest(config, model, guide, plan), batches_of)


def _warn_of_noise_without_signal(chain: DiffusionChain) -> None:
    """Tilting adds (1 - alpha_bar) / sqrt(alpha_bar) times the classifier's gradient, errors and all, to x_0."""
    alpha_bar = float(chain.alpha_bar[-1])
    factor = float("inf") if alpha_bar == 0 else (1 - alpha_bar) * alpha_bar**-0.5
    if factor > LARGEST_TILT:
        _logger.warning(
            "the noisiest timestep kept has signal power %.2g, where guidance moves x_0 by %.2g times the classifier's "
            "gradient; take fewer steps, which leaves that timestep out, or the ddpm sampler",
            alpha_bar,
            factor,
        )


def sampler_and_chain(config: RunConfig, chain: ChainConfig) -> tuple[Sampler, DiffusionChain]:
    """The sampler that a run asks for, and the links of a model's chain that it takes.

    Raises:
        ValueError: timesteps that the chain has not, or an eta for a sampler that has none.
    """
    sampler, whole = sampler_config(config), make_chain(chain)
    return make_sampler(sampler), whole.shortened(sampler.timesteps(len(whole)))


def sampler_config(config: RunConfig) -> SamplerConfig:
    """The sampler and its timesteps, as a component of their own.

    Raises:
        ValueError: an eta for a sampler that has none.
    """
    return SamplerConfig(name=config.sampler, steps=config.steps, eta=config.eta)


def make_shards(
    config: RunConfig, plan: Plan, manifest: Mapping[str, Any], batches_of: Callable[[range, OnStep], Iterator[Tensor]]
) -> None:
    """Make the shards of `plan` that `config.out` lacks, shared by the processes, then a grid of the first samples.

    manifest: all that pixels depend on. batches_of: of consecutive ids, uint8 images (b, C, H, W), batch by batch; it
    has its sampler call the function given after every step.

    Raises:
        ValueError: a directory that holds samples made with other settings; nothing is written then.
    """
    accelerator = _accelerator()
    if accelerator.device.type == "cpu":
        torch.set_num_threads(config.cpu_threads)  # kernels sum in another order on another number of threads
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
            for batch in batches_of(plan.ids(n), partial(_show_step, bar)):
                images.append(batch.cpu())
                bar.update(len(batch))
            write_shard(config.out, n, _shard(torch.cat(images), plan, plan.ids(n)))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        write_png(config.out / "grid.png", class_grid(config.out, plan))


def _show_step(bar: "tqdm[NoReturn]", k: int, x: Tensor, estimate: Estimate) -> None:
    """A batch can take minutes, and a bar that counts images would stand still."""
    bar.set_postfix(steps_left=k, refresh=False)
    if not bar.disable and time.time() - bar.last_print_t > 1:
        bar.refresh()


def sample(
    model: DiffusionModel,
    sampler: Sampler,
    chain: DiffusionChain,
    noise: SeededNoise,
    *,
    y: Tensor,
    guidance: ScoreTerm | None,
    clip: float | None = 1.0,
    on_step: OnStep | None = None,
) -> Tensor:
    """Images x_0 (B, C, H, W), nominally in [-1, 1], for labels y (B,), from noise for as many samples."""
    x_T = noise(torch.empty(len(y), *model.image_shape, device=y.device))
    return sampler(model.denoiser(y, clip=clip), chain, x_T, noise, guidance=guidance, on_step=on_step)


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


def sample_plan(config: SampleConfig, model: DiffusionModel, guide: Guide | None) -> Plan:
    """Which samples a run makes.

    Raises:
        ValueError: a class that is not there, labels without anyone to be told, or no samples.
    """
    labels = _labels(config, model, guide)
    return Plan(num_samples=config.num_samples, shard_size=config.shard_size, labels=labels)


def sample_manifest(config: SampleConfig, model: DiffusionModel, guide: Guide | None, plan: Plan) -> dict[str, Any]:
    """All that the samples' pixels depend on, but for floating-point kernels."""
    return {
        "num_samples": plan.num_samples,
        "shard_size": plan.shard_size,
        "class_names": _class_names(model, guide),
        "labels": plan.labels,
        "seed": config.seed,
        "sampler": to_plain(sampler_config(config)),
        "clip": config.clip,
        "diffusion": weights_record(model),
        "classifier": None if guide is None else {"name": guide.name, "sha256": guide.sha256},
        "guidance": None if guide is None else guidance_record(config.guidance),
    }


def weights_record(model: DiffusionModel | UpsamplerModel) -> dict[str, str]:
    """What a manifest says of the weights that were sampled from."""
    path = model.checkpoint.path
    return {
        "name": f"{path.parent.name}/{path.name}",
        "weights": model.weights,
        "sha256": file_sha256(model.checkpoint.weights_file(model.weights)),
    }


def cut(ids: range, size: int) -> Iterator[range]:
    """Consecutive ids in runs of `size`; the last may be shorter."""
    return (ids[start : start + size] for start in range(0, len(ids), size))


def _shard(images: Tensor, plan: Plan, ids: Sequence[int]) -> Shard:
    return Shard(
        images=rearrange(images, "n c h w -> n h w c").numpy(),
        labels=torch.tensor([plan.label(i) for i in ids]).numpy(),
        ids=torch.tensor(list(ids)).numpy(),
    )


def load_for_sampling(config: SampleConfig) -> DiffusionModel:
    """The diffusion model a sampling run names, on this process's device."""
    return load_diffusion(config.diffusion, weights=config.weights, device=this_device())


def this_device() -> torch.device:
    """The device that this process should compute on."""
    return _accelerator().device


def _accelerator() -> Accelerator:
    """Without `cpu`, accelerate takes each of several processes without accelerators for a run of its own."""
    return Accelerator(cpu=not has_accelerator())
