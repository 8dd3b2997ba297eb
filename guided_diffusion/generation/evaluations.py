"""Networks as sampling runs call them: in the precision asked for, and counted."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, TypeVar, cast

import torch
from torch import Tensor

from ..guide import CleanGuide, Guide
from ..model import DiffusionModel, UpsamplerModel
from .guided import Guidance

Precision = Literal["float32", "bfloat16", "float16"]

NETWORK = "network"
CLASSIFIER = "classifier"

M = TypeVar("M", DiffusionModel, UpsamplerModel)


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

    def noisy(guide: Guide) -> Guide:
        return replace(guide, log_prob=Evaluated(guide.log_prob, evaluations, CLASSIFIER, precision=precision))

    def clean(guide: CleanGuide) -> CleanGuide:
        return replace(guide, logits=Evaluated(guide.logits, evaluations, CLASSIFIER, precision=precision))

    others = guidance.others
    weak = None if others.weak is None else counted_model(others.weak, evaluations, precision=precision)
    return replace(
        guidance,
        model=counted_model(guidance.model, evaluations, precision=precision),
        guide=None if guidance.guide is None else noisy(guidance.guide),
        others=replace(
            others,
            further=tuple(noisy(guide) for guide in others.further),
            weak=weak,
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
