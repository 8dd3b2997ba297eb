"""Guided sampling in two lines of Python: the pixels that scripts/sample.py writes, as an array."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from classifiers.trained_model import Classifier, load_classifier

from .diffusion.images import to_uint8
from .diffusion.model import DiffusionModel, load_diffusion, parse_label
from .diffusion.noise import SeededNoise
from .distributed import default_device
from .generation.config import RunConfig, SampleConfig, clipping, sampler_and_chain
from .generation.label_rules import InTurn
from .generation.plan import Plan, cut
from .generation.run import guidance_of, sample, sample_plan
from .guidance.config import GuidanceConfig
from .guidance.run import Guidance
from .models.precision import check_precision
from .samplers import SamplerName

_NOWHERE = Path()
"""Stands for paths that a sampling run has, and samples in memory have not."""


@dataclass(frozen=True)
class GuidedDiffusion:
    """A diffusion model and, if there is one, the classifier that guides it, on one device."""

    model: DiffusionModel
    classifier: Classifier | None = None

    @classmethod
    def load(
        cls,
        diffusion: Path | str,
        *,
        classifier: Path | str | None = None,
        weights: str | None = None,
        device: torch.device | str | None = None,
    ) -> "GuidedDiffusion":
        """From run directories or checkpoints.

        weights: the diffusion model's, such as "ema_0.9999" or "network"; None: its slowest average. device: None takes
        the GPU, if there is one.

        Raises:
            FileNotFoundError: no checkpoint there.
            ValueError: a checkpoint of another kind, weights that it has not, or a classifier that does not fit the
                model, naming the difference.
        """
        device = default_device() if device is None else device
        model = load_diffusion(Path(diffusion), weights=weights, device=device)
        guide = None if classifier is None else load_classifier(Path(classifier), device=device)
        Guidance(model=model, classifier=guide)  # refuses a classifier that does not fit
        return cls(model, guide)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes that can be asked for, in label order; the classifier's where the model has none."""
        return Guidance(model=self.model, classifier=self.classifier).class_names

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.model.device

    def sample(
        self,
        labels: Sequence[int | str] | str = "all",
        *,
        num_samples: int | None = None,
        scale: float | None = None,
        guidance: GuidanceConfig | None = None,
        sampler: SamplerName = RunConfig.sampler,
        steps: int | str = RunConfig.steps,
        seed: int = RunConfig.seed,
        **options: Any,  # of RunConfig, which checks them
    ) -> np.ndarray:
        """uint8 images (N, H, W, C), as Pillow and matplotlib take them.

        labels: a label or class name for each sample, or a rule of scripts/sample.py, such as "all" or "uniform".
        num_samples: None makes one for each of the labels given, or of the classes. scale: s of the classifier, None
        for 1. guidance: all else that guides; those whom it names are loaded at every call. options: what else
        `generation.config.RunConfig` says of pixels: eta, clip, threshold, precision, batch_size, ..

        Sample i's pixels are sample i's of scripts/sample.py with the same options, where the kernels are the same:
        that runs with `cpu_threads` threads, this with as many as `torch.get_num_threads` says.

        Raises:
            TypeError: an unknown option.
            ValueError: a class that is not there, and whatever else scripts/sample.py refuses.
        """
        rule = labels if isinstance(labels, str) else "all"
        how = {"sampler": _checked(sampler), "steps": steps, "seed": seed} | _of_pixels(options)
        what = {"guidance": _with_scale(guidance or GuidanceConfig(), scale), "labels": rule}
        count = 1 if num_samples is None else num_samples
        config = SampleConfig(out=_NOWHERE, diffusion=_NOWHERE, num_samples=count, **what, **how)
        return self._made(config, None if isinstance(labels, str) else labels, num_samples)

    def _made(self, config: SampleConfig, labels: Sequence[int | str] | None, num_samples: int | None) -> np.ndarray:
        check_precision(config.precision, self.device)
        sampler, chain = sampler_and_chain(config, self.model.config.chain)
        guidance = guidance_of(config, self.model, self.classifier, Counter())
        plan = _plan(config, guidance, labels, num_samples)
        images: list[Tensor] = []
        for ids in cut(range(plan.num_samples), config.batch_size):
            y = torch.tensor([plan.label(i) for i in ids], device=self.device)
            told = {"y": y, "guidance": guidance, "clip": clipping(config)}
            images.append(to_uint8(sample(self.model, sampler, chain, SeededNoise(config.seed, ids), **told)).cpu())
        return rearrange(torch.cat(images), "n c h w -> n h w c").numpy()


_PIXELS = tuple(
    field.name for field in fields(RunConfig) if field.name not in ("out", "weights", "shard_size", "cpu_threads")
)


def _of_pixels(options: dict[str, Any]) -> dict[str, Any]:
    for name in options:
        if name not in _PIXELS:
            raise TypeError(f"sample() has no option {name}; of sampling runs it has {', '.join(_PIXELS)}")
    return options


def _checked(sampler: SamplerName) -> SamplerName:
    """Which the command line checks by itself."""
    if sampler not in get_args(SamplerName):
        raise ValueError(f'there is no sampler "{sampler}"; there are {", ".join(get_args(SamplerName))}')
    return sampler


def _with_scale(guidance: GuidanceConfig, scale: float | None) -> GuidanceConfig:
    if scale is None:
        return guidance
    if guidance.scale is not None:
        raise ValueError(f"scale {scale:g} and guidance.scale {guidance.scale:g} were given; leave one of them out")
    return replace(guidance, scale=scale)


def _plan(
    config: SampleConfig, guidance: Guidance, labels: Sequence[int | str] | None, num_samples: int | None
) -> Plan:
    plan = sample_plan(config, guidance)  # refuses labels with nobody to be told
    if labels is None:
        count = max(len(guidance.class_names), 1) if num_samples is None and plan.labels is not None else None
        return plan if count is None else replace(plan, num_samples=count)
    if plan.labels is None:
        raise ValueError(
            f"labels {list(labels)} were asked for, but {guidance.model.checkpoint.path} is not told the class and "
            f"there is no classifier; load one: GuidedDiffusion.load(.., classifier=RUN)"
        )
    if not len(labels):
        raise ValueError('labels are empty; give at least one, or "all"')
    asked = tuple(parse_label(str(label), guidance.class_names) for label in labels)
    return replace(plan, labels=InTurn(asked), num_samples=len(asked) if num_samples is None else num_samples)
