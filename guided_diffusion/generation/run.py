"""Sampling runs: from checkpoints and a plan to shards on disk, on one process or many, resumable."""

import logging
from collections import Counter

import torch
from torch import Tensor

from ..diffusion.chain import DiffusionChain
from ..diffusion.denoiser import Clip
from ..diffusion.images import to_uint8
from ..diffusion.model import DiffusionModel, load_diffusion
from ..diffusion.noise import SeededNoise
from ..distributed import this_process
from ..guidance.config import Guide, OtherGuides
from ..guidance.network_counter import counted_guidance
from ..guidance.run import Guidance, clean_schedule
from ..samplers import OnStep, Sampler
from .animation import write_animation
from .config import GuidedRunConfig, SampleConfig, clipping, sampler_and_chain
from .label_rules import LabelRule, label_rule
from .manifest import sample_manifest
from .plan import Plan
from .shard_writer import make_shards

LARGEST_TILT = 1000.0
"""A linear schedule's last level has 158, a cosine schedule's 20,000 (T = 1000)."""

_logger = logging.getLogger(__name__)


def generate(
    config: SampleConfig, model: DiffusionModel, guide: Guide | None, others: OtherGuides | None = None
) -> None:
    """Make whatever samples are still missing from `config.out`, then a grid of the first of them.

    Sample i's noise and label follow from its id, so on a CPU its pixels are the same for any number of processes and
    after any interruption; a GPU's kernels may add up in another order each time. `config.upsampler` is left to
    `cascade.generate_upsampled`. others: whom `config.guidance` names, as `guides.load_other_guides` gives.

    Raises:
        FileNotFoundError: no such file of labels, or data to count them in.
        ValueError: model and guides that do not fit together, unknown labels or steps, or a directory that holds
            samples made with other settings; nothing is written then.
    """
    device = this_process().device
    sampler, chain = sampler_and_chain(config, model.config.chain, gradient_at=config.guidance.gradient_at)
    guidance = guidance_of(config, model, guide, others, chain)
    plan = sample_plan(config, guidance)
    if guidance.others.clean is not None or (guide is not None and config.sampler != "ddpm"):
        _warn_of_noise_without_signal(chain)
    evaluations: Counter[str] = Counter()
    counted = counted_guidance(guidance, evaluations, precision=config.precision)

    def make_images(ids: range, on_step: OnStep) -> Tensor:
        y = torch.tensor([plan.label(i) for i in ids], device=device)
        noise, clip = SeededNoise(config.seed, ids), clipping(config)
        return to_uint8(sample(model, sampler, chain, noise, y=y, guidance=counted, clip=clip, on_step=on_step))

    make_shards(config, plan, sample_manifest(config, guidance, plan), make_images, evaluations)
    if config.animate and this_process().is_main:
        film = {"count": config.animate, "batch_size": config.batch_size, "num_links": len(chain)}
        write_animation(config.out / "animation.webp", make_images, **film)


def guidance_of(
    config: GuidedRunConfig,
    model: DiffusionModel,
    guide: Guide | None,
    others: OtherGuides | None,
    chain: DiffusionChain,
) -> Guidance:
    """All that guides a run along `chain`.

    Raises:
        ValueError: as `Guidance`.
    """
    schedule = clean_schedule(config.guidance, chain, sampler=config.sampler)
    return Guidance(model=model, guide=guide, others=others or OtherGuides(), config=config.guidance, schedule=schedule)


def _warn_of_noise_without_signal(chain: DiffusionChain) -> None:
    """Tilting adds (1 - alpha_bar) / sqrt(alpha_bar) times the classifier's gradient, errors and all, to x_0."""
    alpha_bar = float(chain.alpha_bar[-1])
    factor = float("inf") if alpha_bar == 0 else (1 - alpha_bar) * alpha_bar**-0.5
    if factor > LARGEST_TILT:
        _logger.warning(
            "the noisiest timestep kept has signal power %.2g, where guidance moves x_0 by %.2g times the classifier's "
            "gradient; take fewer steps, which leaves that timestep out, set guidance.sigma_max, or let a classifier "
            "of noisy images guide ddpm",
            alpha_bar,
            factor,
        )


def sample(
    model: DiffusionModel,
    sampler: Sampler,
    chain: DiffusionChain,
    noise: SeededNoise,
    *,
    y: Tensor,
    guidance: Guidance,
    clip: Clip = 1.0,
    on_step: OnStep | None = None,
) -> Tensor:
    """Images x_0 (B, C, H, W), nominally in [-1, 1], for labels y (B,), from noise for as many samples."""
    x_T = noise(torch.empty(len(y), *model.image_shape, device=y.device))
    denoiser, term = guidance.denoiser(y, clip=clip), guidance.term(y)
    return sampler(denoiser, chain, x_T, noise, guidance=term, on_step=on_step)


def sample_plan(config: SampleConfig, guidance: Guidance) -> Plan:
    """Which samples a run makes.

    Raises:
        FileNotFoundError: no such file of labels, or data to count them in.
        ValueError: a class that is not there, labels without anyone to be told, or no samples.
    """
    labels = labels_told(config.labels, guidance, seed=config.seed)
    return Plan(num_samples=config.num_samples, shard_size=config.shard_size, labels=labels)


def labels_told(labels: int | str, guidance: Guidance, *, seed: int) -> LabelRule | None:
    """Which classes a run asks for, `labels` being those of `SampleConfig`; None: nobody is told the class.

    Raises:
        FileNotFoundError, ValueError: as `sample_plan`.
    """
    if guidance.knows_classes:
        return label_rule(str(labels), guidance.class_names, seed=seed)
    if labels != SampleConfig.labels:
        raise ValueError(
            f"labels {labels} were asked for, but {guidance.model.checkpoint.path} is not told the class and "
            f"there is no classifier; add --classifier RUN"
        )
    return None


def load_for_sampling(config: SampleConfig) -> DiffusionModel:
    """The diffusion model a sampling run names, on this process's device."""
    return load_diffusion(config.diffusion, weights=config.weights, device=this_process().device)
