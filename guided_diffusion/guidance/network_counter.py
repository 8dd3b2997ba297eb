"""Networks as sampling runs call them: in the precision asked for, and counted."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal, TypeVar, cast

import torch
from torch import Tensor

from ..diffusion.model import DiffusionModel, UpsamplerModel
from .config import CleanGuide, Guide
from .run import Guidance

Precision = Literal["float32", "bfloat16", "float16"]

NETWORK = "network"
CLASSIFIER = "classifier"

M = TypeVar("M", DiffusionModel, UpsamplerModel)

Function = Callable[..., Tensor]
"""Of images (B, C, H, W) and whatever else it takes."""


class Evaluated:
    """A network whose arithmetic is done in a precision of its own, and which counts the images it is given.

    Its output has its input's dtype. Parameters stay in float32, and autocast keeps softmaxes and norms in it too.
    """

    def __init__(
        self, network: Callable[..., Tensor], evaluations: Counter[str], name: str, *, precision: Precision
    ) -> None:
        """evaluations: of images by networks; this one's are added up under `name`, beginning with 0."""
        self._network, self._evaluations, self._name = network, evaluations, name
        self._dtype: torch.dtype = getattr(torch, precision)
        evaluations[name] += 0

    def __call__(self, x_t: Tensor, *given: Any, **named: Any) -> Tensor:
        """The network's answer to images x_t (B, ...) and whatever else it takes."""
        self._evaluations[self._name] += len(x_t)
        with torch.autocast(x_t.device.type, dtype=self._dtype, enabled=self._dtype != torch.float32):
            return self._network(x_t, *given, **named).to(x_t.dtype)


def counted_model(model: M, evaluations: Counter[str], *, precision: Precision) -> M:
    """The model, its network counted among the networks."""
    network: Any = Evaluated(model.network, evaluations, NETWORK, precision=precision)
    return cast(M, replace(model, network=network))  # whoever samples only calls it


def counted_guidance(guidance: Guidance, evaluations: Counter[str], *, precision: Precision) -> Guidance:
    """The same guidance, every network of it counted: denoising ones among the networks, the others as classifiers."""

    def denoising(model: DiffusionModel) -> DiffusionModel:
        return counted_model(model, evaluations, precision=precision)

    def classifying(function: Function, _: Sequence[str]) -> Function:
        return Evaluated(function, evaluations, CLASSIFIER, precision=precision)

    return _with_networks(guidance, denoising, classifying)


def idle(guidance: Guidance) -> Guidance:
    """The same guidance with functions of no cost for its networks, on the CPU: it asks each as often as its own.

    Denoising networks return what they are given, and classifiers hold all classes for equally likely.
    """

    def denoising(model: DiffusionModel) -> DiffusionModel:
        widened = model.config.network.out_channels // model.config.network.in_channels

        def network(x_t: Tensor, *_: Any, **__: Any) -> Tensor:
            return x_t.repeat(1, widened, 1, 1)

        return replace(model, network=cast(Any, network))  # whoever samples only calls it

    def classifying(_: Function, class_names: Sequence[str]) -> Function:
        def log_prob(x: Tensor, *_: Any) -> Tensor:
            return x.flatten(1).sum(dim=1, keepdim=True).expand(-1, len(class_names)).log_softmax(dim=1)

        return log_prob

    return _with_networks(guidance, denoising, classifying)


def _with_networks(
    guidance: Guidance,
    denoising: Callable[[DiffusionModel], DiffusionModel],
    classifying: Callable[[Function, Sequence[str]], Function],
) -> Guidance:
    """The same guidance by other networks: what the two functions make of its models, and of its classifiers' functions
    and class names."""

    def noisy(guide: Guide) -> Guide:
        return replace(guide, log_prob=classifying(guide.log_prob, guide.class_names))

    def clean(guide: CleanGuide) -> CleanGuide:
        return replace(guide, logits=classifying(guide.logits, guide.class_names))

    others = guidance.others
    return replace(
        guidance,
        model=denoising(guidance.model),
        guide=None if guidance.guide is None else noisy(guidance.guide),
        others=replace(
            others,
            further=tuple(noisy(guide) for guide in others.further),
            weak=None if others.weak is None else denoising(others.weak),
            clean=None if others.clean is None else clean(others.clean),
        ),
    )


def check_precision(precision: Precision, device: torch.device) -> None:
    """Refuse what a device cannot do.

    Raises:
        ValueError: float16 without a GPU.
    """
    if precision == "float16" and device.type == "cpu":
        raise ValueError("precision float16 needs a GPU; take bfloat16 or float32 here")
