"""Guided sampling in two lines of Python: the pixels that scripts/sample.py writes, as an array."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from classifiers.off_the_shelf import CleanClassifier
from classifiers.off_the_shelf import clean_classifier as make_clean_classifier
from classifiers.trained_model import Classifier, load_classifier

from .data.labels import parse_label
from .diffusion.model import DiffusionModel, load_diffusion
from .distributed import default_device
from .generation.config import SamplingConfig
from .generation.finiteness import warn_without_content
from .generation.plan import InTurn, Plan, batches_of
from .generation.run import SamplingRun
from .guidance.compatibility import asked_classes
from .guidance.config import GuidanceConfig
from .guidance.function import Guide
from .guidance.guides import guide_of
from .guidance.run import Guidance, load_guidance
from .samplers import SamplerConfig, SamplerName


@dataclass(frozen=True)
class GuidedDiffusion:
    """A diffusion model and, if there is one, the classifier that guides it, on one device."""

    model: DiffusionModel
    classifier: Classifier | None = None
    clean_classifier: CleanClassifier | None = None
    """One of clean images, which guides at the estimate of x_0 by `GuidanceConfig.clean_classifier`'s settings."""
    function: Guide | None = None
    """Any function of images, which guides by `GuidanceConfig.function_scale`."""

    @classmethod
    @torch.inference_mode(False)  # of a caller, whose tensors could not take part in a gradient
    def load(
        cls,
        diffusion: Path | str,
        *,
        classifier: Path | str | None = None,
        clean_classifier: CleanClassifier | Callable[[Tensor], Tensor] | None = None,
        function: Guide | Callable[..., Tensor] | None = None,
        weights: str | None = None,
        device: torch.device | str | None = None,
    ) -> "GuidedDiffusion":
        """Load run directories or checkpoints.

        clean_classifier: any module or function from images in [-1, 1] to logits of the model's classes; for another
        range, size or order of classes, `classifiers.off_the_shelf.clean_classifier(..)`. function: any module or
        function from images to log-densities (B,), of the estimate of x_0 unless marked by a `guidance.function`.
        weights: the diffusion model's, such as "ema_0.9999" or "network"; None: its slowest average. device: None takes
        the GPU, if there is one.

        Raises:
            FileNotFoundError: no checkpoint there.
            ValueError: a checkpoint of another kind, weights that it does not have, or a classifier that does not fit
                the model, naming the difference.
        """
        device = default_device() if device is None else device
        model = load_diffusion(Path(diffusion), weights=weights, device=device)
        guide = None if classifier is None else load_classifier(Path(classifier), device=device)
        if clean_classifier is not None and not isinstance(clean_classifier, CleanClassifier):
            clean_classifier = make_clean_classifier(clean_classifier, device=device)
        by_function = None if function is None else guide_of(function, device=device)
        loaded = load_guidance(
            GuidanceConfig(), model=model, classifier=guide, clean=clean_classifier, function=by_function
        )
        return cls(model, guide, loaded.clean, by_function)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes that can be asked for, in label order; a classifier's where the model has none."""
        by = {"classifier": self.classifier, "clean": self.clean_classifier, "function": self.function}
        return Guidance(model=self.model, **by).class_names

    @torch.inference_mode(False)  # as in `load`
    def sample(
        self,
        labels: Sequence[int | str] | Tensor | np.ndarray | str = "all",
        *,
        num_samples: int | None = None,
        scale: float | None = None,
        guidance: GuidanceConfig | None = None,
        sampler: SamplerName | SamplerConfig = SamplerConfig.name,
        **options: Any,  # of `SamplerConfig` and `SamplingConfig`, which check them
    ) -> np.ndarray:
        """uint8 images (N, H, W, C), as Pillow and matplotlib take them.

        labels: a label or class name for each sample, or a rule of scripts/sample.py, such as "all" or "uniform".
        num_samples: None makes one for each label given, or for each class. scale: s of the classifier, or without one
        of the clean classifier, or of the function; None for 1.
        guidance: further settings; networks that it names are loaded at every call. sampler: a name or a
        `SamplerConfig`. options: of the sampler, such as steps, eta, clip, threshold; and seed, precision, batch_size.

        Sample i's pixels are those of scripts/sample.py with the same options, kernels and threads (`cpu_threads`).

        Raises:
            TypeError: an unknown option, or labels without an order.
            ValueError: an unknown class, and all else that scripts/sample.py refuses, as samples that are not finite.
        """
        guidance = guidance or GuidanceConfig()
        if scale is not None:
            guidance = self._scaled(guidance, scale)
        settings = _settings(sampler, options)
        run = SamplingRun.assemble(
            self.model, self.classifier, clean=self.clean_classifier, function=self.function, guidance=guidance,
            settings=settings,
        )  # fmt: skip
        run.log_warnings()
        plan = _plan(run, labels, num_samples)
        run.prepare(plan)
        batches = batches_of(range(plan.num_samples), run.samples_at_a_time)
        images = torch.cat([run.sample(plan.batch(ids, device=run.device)).images.cpu() for ids in batches])
        warn_without_content(images, name="sample()")
        return rearrange(images, "n c h w -> n h w c").numpy()

    def _scaled(self, guidance: GuidanceConfig, scale: float) -> GuidanceConfig:
        by_clean = self.classifier is None and self.clean_classifier is not None
        by_function = self.classifier is None and (self.function is not None or guidance.function is not None)
        name = "clean_classifier.scale" if by_clean else "function_scale" if by_function else "scale"
        if (given := guidance.strengths.get(f"guidance.{name}")) is not None:
            raise ValueError(f"scale {scale:g} and guidance.{name} {given:g} were given; leave one of them out")
        if by_clean:
            return replace(guidance, clean_classifier=replace(guidance.clean_classifier, scale=scale))
        return replace(guidance, **{name: scale})


def _settings(sampler: SamplerName | SamplerConfig, options: dict[str, Any]) -> SamplingConfig:
    of_sampler, others = ([field.name for field in fields(config)] for config in (SamplerConfig, SamplingConfig))
    known = [name for name in of_sampler + others if name not in ("name", "sampler")]
    for name in options:
        if name not in known:
            raise TypeError(f"sample() has no option {name}; besides the sampler it has {', '.join(known)}")
    own = {name: value for name, value in options.items() if name in of_sampler}
    config = replace(sampler, **own) if isinstance(sampler, SamplerConfig) else SamplerConfig(name=sampler, **own)
    return SamplingConfig(sampler=config, **{name: options[name] for name in options.keys() - own.keys()})


def _plan(run: SamplingRun, labels: Sequence[int | str] | Tensor | np.ndarray | str, num_samples: int | None) -> Plan:
    labels = cast(Sequence[int | str], labels.tolist()) if isinstance(labels, Tensor | np.ndarray) else labels
    if not isinstance(labels, Sequence):  # a set has no order, and a mapping's values would go unseen
        raise TypeError(f'labels are a list, or a rule such as "all"; got {type(labels).__name__} {labels}')
    if isinstance(labels, str):
        rule = run.label_rule(labels)
        _, unseen = asked_classes(run.model.config, run.guidance.classifier)
        count = 1 if rule is None else len(run.guidance.class_names) - len(unseen)
    elif not run.guidance.knows_classes:
        raise ValueError(
            f"labels {list(labels)} were asked for, but {run.model.checkpoint.path} is not conditioned on the class "
            f"and there is no classifier; load one: GuidedDiffusion.load(.., classifier=RUN)"
        )
    elif not len(labels):
        raise ValueError('labels are empty; give at least one, or "all"')
    else:
        rule = InTurn(tuple(parse_label(label, run.guidance.class_names) for label in labels))
        count = len(labels)
    count = count if num_samples is None else num_samples
    return Plan(num_samples=count, shard_size=max(count, 1), labels=rule, seed=run.settings.seed)
