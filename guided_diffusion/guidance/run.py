"""Who guides a sampling run, put together: the denoiser and the score term of each batch, and what the manifest says.

    tilted(between(guided_at_estimate(bounded(extrapolated(D, reference, w), clip), ..), bounded(D, clip), lo, hi),
           within(summed(score, ..), lo, hi))

with whatever was not asked for left out; `ddpm` takes the score as its mean shift in place of the outer `tilted`, and
gradients through the network, `guided_through`, come before the clip. Scores of x_t and EluCD's gradient come after it,
as published, and their result is not clipped again.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..diffusion.chain import DiffusionChain, Step
from ..diffusion.denoiser import Clip, Denoiser, bounded
from ..diffusion.model import DiffusionModel, UpsamplerModel
from ..files import file_sha256
from ..generation.label_rules import parse_label
from . import (
    Scale,
    ScoreTerm,
    between,
    classifier_score,
    entropy_scaled_score,
    extrapolated,
    guided_at_estimate,
    guided_through,
    joint_log_prob,
    sine_schedule,
    summed,
    within,
)
from .config import CleanGuide, GuidanceConfig, Guide, OtherGuides, check_guide


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """All that guides a model's samples.

    Raises:
        ValueError: as `check_guide`, or scales for a class that is not there, or two for one class.
    """

    model: DiffusionModel
    guide: Guide | None
    others: OtherGuides = OtherGuides()
    config: GuidanceConfig = GuidanceConfig()
    schedule: Callable[[Step], float] | None = None
    """What the scale of an off-the-shelf classifier is multiplied by at each step; None: 1."""

    def __post_init__(self) -> None:
        check_guide(self.model, self.guide, self.config, self.others)
        self._scale_of(torch.zeros(0, dtype=torch.int64))  # refuses unknown classes, and one named twice

    @property
    def knows_classes(self) -> bool:
        """Whether anyone is told the class, the model or who guides it."""
        return self.model.is_conditional or self.guide is not None or self.others.clean is not None

    @property
    def class_names(self) -> tuple[str, ...]:
        """The diffusion model's, or where that has none those of who guides."""
        return self.model.config.class_names or next(
            (guide.class_names for guide in (self.guide, self.others.clean) if guide is not None), ()
        )

    def denoiser(self, y: Tensor, *, clip: Clip) -> Denoiser:
        """The model's, for labels y (B,), with all guidance that is not a score of x_t."""
        extrapolating = self._extrapolating(y)
        if self.others.clean is not None:
            guided = self._asked(self.others.clean, extrapolating, y, clip=clip)
        else:
            guided = bounded(extrapolating, clip)
        if not self._is_limited:
            return guided
        return between(guided, self.model.denoiser(y, clip=clip), self.config.sigma_min, self.config.sigma_max)

    def term(self, y: Tensor) -> ScoreTerm | None:
        """The score of the classifiers of noisy images for labels y (B,); None without any."""
        if self.guide is None:
            return None
        score = entropy_scaled_score if self.config.entropy_scaled else classifier_score
        own = score(self.guide.log_prob, y, self._scale_of(y))
        strengths = zip(self.others.further, self.config.further.values(), strict=True)
        more = [score(guide.log_prob, y, strength) for guide, strength in strengths]
        term = summed(own, *more) if more else own
        return within(term, self.config.sigma_min, self.config.sigma_max) if self._is_limited else term

    def record(self) -> dict[str, Any] | None:
        """What a manifest says of the guidance; None where nobody guides."""
        config, others = self.config, self.others
        record: dict[str, Any] = {} if self.guide is None else {"scale": _scale(config)}
        if config.sigma_min > 0:
            record["sigma_min"] = config.sigma_min
        if config.sigma_max < float("inf"):  # JSON knows no infinity
            record["sigma_max"] = config.sigma_max
        if config.class_scales:
            record["class_scales"] = {str(label): scale for label, scale in self._class_scales.items()}
        if config.entropy_scaled:
            record["entropy_scaled"] = True
        if config.gradient_at != "x_t":
            record["gradient_at"] = config.gradient_at
        if others.further:
            strengths = zip(others.further, config.further.values(), strict=True)
            record["further"] = [guide_record(guide) | {"scale": strength} for guide, strength in strengths]
        if config.free_weight is not None:
            record["free_weight"] = config.free_weight
        if others.weak is not None:
            record["weak"] = weights_record(others.weak) | {"weight": config.weak_weight}
        if others.clean is not None:
            how = {"scale": _clean_scale(config), "gradient": config.off_the_shelf_gradient}
            record["off_the_shelf"] = guide_record(others.clean) | how
        return record or None

    @property
    def _is_limited(self) -> bool:
        return self.config.sigma_min > 0 or self.config.sigma_max < float("inf")

    def _extrapolating(self, y: Tensor) -> Denoiser:
        """The model's denoiser away from its reference, if any; not clipped."""
        own = self.model.denoiser(y, clip=None)
        if self.config.free_weight is not None:
            null = torch.full_like(y, self.model.null_label or 0)
            return extrapolated(own, self.model.denoiser(null, clip=None), self.config.free_weight)
        if self.others.weak is not None and self.config.weak_weight is not None:
            return extrapolated(own, self.others.weak.denoiser(y, clip=None), self.config.weak_weight)
        return own

    def _asked(self, clean: CleanGuide, denoiser: Denoiser, y: Tensor, *, clip: Clip) -> Denoiser:
        """An unclipped `denoiser`, guided by a classifier of clean images and clipped."""
        labels = torch.tensor(clean.labels_of(self.class_names), device=y.device)[y]
        scale = _clean_scale(self.config)

        def log_prob(x_0: Tensor) -> Tensor:
            return clean.logits(x_0).log_softmax(dim=1)

        def joint(x_0: Tensor) -> Tensor:
            return joint_log_prob(clean.logits(x_0))

        if self.config.off_the_shelf_gradient == "x_t":
            return bounded(guided_through(denoiser, log_prob, labels, scale), clip)
        return guided_at_estimate(bounded(denoiser, clip), joint, labels, scale, schedule=self.schedule)

    def _scale_of(self, y: Tensor) -> Scale:
        scales = self._class_scales
        if not scales:
            return _scale(self.config)
        every = [scales.get(label, _scale(self.config)) for label in range(len(self.class_names))]
        return torch.tensor(every, dtype=torch.float64, device=y.device)[y]

    @property
    def _class_scales(self) -> dict[int, float]:
        """Scales by label, in the order of labels, of classes that have one of their own."""
        named: dict[int, int | str] = {}
        for key in self.config.class_scales:
            label = parse_label(str(key), self.class_names)
            if label in named:
                raise ValueError(
                    f'guidance.class_scales has two scales for class {label}, "{self.class_names[label]}": under '
                    f'"{named[label]}" and "{key}"; give one'
                )
            named[label] = key
        return {label: self.config.class_scales[key] for label, key in sorted(named.items())}


def clean_schedule(config: GuidanceConfig, chain: DiffusionChain, *, sampler: str) -> Callable[[Step], float] | None:
    """EluCD's schedule of an off-the-shelf classifier's scale, where it was published: ancestral sampling."""
    is_asked = config.off_the_shelf is not None and config.off_the_shelf_gradient == "x_0"
    return sine_schedule(chain) if is_asked and sampler == "ddpm" else None


def guide_record(guide: Guide | CleanGuide) -> dict[str, Any]:
    """What a manifest says of a classifier."""
    return {"name": guide.name, "sha256": guide.sha256}


def weights_record(model: DiffusionModel | UpsamplerModel) -> dict[str, Any]:
    """What a manifest says of the weights that were sampled from."""
    path = model.checkpoint.path
    return {
        "name": f"{path.parent.name}/{path.name}",
        "weights": model.weights,
        "sha256": file_sha256(model.checkpoint.weights_file(model.weights)),
    }


def _scale(config: GuidanceConfig) -> float:
    return 1.0 if config.scale is None else config.scale


def _clean_scale(config: GuidanceConfig) -> float:
    return 1.0 if config.off_the_shelf_scale is None else config.off_the_shelf_scale
