"""Who guides, as those who sample see it: how strongly, and whether it fits the diffusion model.

Classifiers of noisy images (`Guide`), classifiers of clean ones (`CleanGuide`), and diffusion models to extrapolate
from. How they act together in a run is the business of `generation.guided`. Over 300 lines because the settings are
read beside the checks that they fit.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor

from ..diffusion.model import DiffusionConfig, DiffusionModel, class_difference, load_diffusion
from ..diffusion.schedules import ChainConfig
from . import GradientAt, LogProb


@dataclass(frozen=True, kw_only=True)
class GuidanceConfig:
    """What guides, and how strongly."""

    scale: float | None = None
    """s in s * grad log p(y | x_t) of --classifier; null: 1, which is Bayes' rule. Tuned values lie between 0.5 and 10
    (ADM table 14)."""
    class_scales: dict[int | str, float] = field(default_factory=dict[int | str, float])
    """Other scales for some classes, by label or name: '{3: 2.5, cat: 4}'; the others keep `scale`."""
    entropy_scaled: bool = False
    """Divide each classifier's scale by the entropy of its prediction over the largest possible, for each sample
    (ED-DPM, 2206.11474): 1 is then Bayes' rule only where it knows nothing, and more elsewhere."""
    gradient_at: GradientAt = "x_t"
    """Where ddpm's mean shift takes the classifiers' gradients: at the state before the link, as in the published code,
    or at the mean after it, with that one's timestep and noise level, as ADM's Algorithm 1 prints."""
    further: dict[str, float] = field(default_factory=dict[str, float])
    """More classifiers trained on the same noise, with scales of their own, whose scores are added to --classifier's:
    '{runs/other: 2.0}', run directories or checkpoints."""
    free_weight: float | None = None
    """w of classifier-free guidance, D_null + w (D_y - D_null), by a model trained with label_dropout (2207.12598): 0
    leaves the class out, 1 is the conditional model as it is. null: none. The paper's own w is one less."""
    weak: str | None = None
    """A weaker diffusion model to extrapolate away from (autoguidance, 2406.02507), on the same chain: a run directory
    or checkpoint, and after a colon which of its weights, such as runs/small or runs/big:ema_0.999."""
    weak_weight: float | None = None
    """w of that, D_weak + w (D - D_weak): 1 is no guidance; about 2 is usual."""
    off_the_shelf: str | None = None
    """A classifier of clean images, asked about the estimate of x_0: torchvision:resnet50 and the like with ImageNet's
    classes, torchvision:resnet50:FILE with weights of that file, or classifier:RUN, trained here without --diffusion.
    It tilts the estimate under every sampler, ddpm too."""
    off_the_shelf_scale: float | None = None
    """s of its gradient; null: 1, which is no more than about right (EluCD took 1 to 1.5)."""
    off_the_shelf_gradient: Literal["x_0", "x_t"] = "x_0"
    """With respect to what: the estimate of x_0, by EluCD's recipe (2310.11311: Softplus for ReLU, tempered logits and,
    under ddpm, a sine schedule), or x_t, through the network, which costs its backward pass as well."""
    sigma_min: float = 0.0
    """Guide only above this noise level, sqrt(1 / alpha_bar - 1), by whatever means; below it those are not called."""
    sigma_max: float = float("inf")
    """Guide only up to this noise level."""

    def __post_init__(self) -> None:
        if not 0 <= self.sigma_min < self.sigma_max:
            raise ValueError(
                f"guidance is limited to sigma_min < sigma <= sigma_max, got {self.sigma_min:g} and {self.sigma_max:g}"
            )
        if (self.weak is None) != (self.weak_weight is None):
            raise ValueError(
                f"a weaker model and the weight to extrapolate by go together; got guidance.weak {self.weak} and "
                f"guidance.weak_weight {self.weak_weight}"
            )
        if self.weak is not None and self.free_weight is not None:
            raise ValueError(
                "guidance.free_weight and guidance.weak both extrapolate, each away from another model; give one"
            )
        default_gradient = type(self).off_the_shelf_gradient
        asked = self.off_the_shelf_scale is not None or self.off_the_shelf_gradient != default_gradient
        if self.off_the_shelf is None and asked:
            raise ValueError(
                "guidance.off_the_shelf_* were given, but no classifier; add --guidance.off_the_shelf NAME"
            )
        for name, value in self._strengths():
            if not math.isfinite(value):
                raise ValueError(f"guidance.{name} must be a number, got {value}")

    def _strengths(self) -> list[tuple[str, float]]:
        single = {name: getattr(self, name) for name in ("scale", "free_weight", "weak_weight", "off_the_shelf_scale")}
        several = {"class_scales": self.class_scales, "further": self.further}
        return [
            *((name, value) for name, value in single.items() if value is not None),
            *((name, value) for name, scales in several.items() for value in scales.values()),
        ]


FOR_CLASSIFIERS = ("scale", "class_scales", "entropy_scaled", "gradient_at", "further")
"""Fields of `GuidanceConfig` that say something of `--classifier`."""


@dataclass(frozen=True)
class Guide:
    """A classifier as those who sample see it: a function, and what must agree with the diffusion model."""

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


@dataclass(frozen=True)
class CleanGuide:
    """A classifier of clean images as those who sample see it."""

    logits: Callable[[Tensor], Tensor]
    """x_0 (B, C, H, W), nominally in [-1, 1], to (B, num_classes), differentiable with respect to x_0."""
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int] | None
    """(C, H, W) of the images it takes; None: it resizes whatever it is given."""
    name: str
    """For messages and the manifest, such as "torchvision:resnet50"."""
    sha256: str
    """Of its weights."""

    def labels_of(self, class_names: Sequence[str]) -> tuple[int, ...]:
        """Its own label of each of a model's classes; all of its labels for a model without class names.

        Classes go by their names. A thousand sorted WordNet ids (n01440764, ..) are ImageNet's classes in their order.

        Raises:
            ValueError: classes that it does not know, naming one.
        """
        if not class_names or (_are_imagenet(class_names) and len(self.class_names) == len(class_names)):
            return tuple(range(len(self.class_names)))
        known = {name: label for label, name in enumerate(self.class_names)}
        unknown = [name for name in class_names if name not in known]
        if unknown:
            shown = ", ".join(self.class_names[:5]) + (", .." if len(self.class_names) > 5 else "")
            raise ValueError(
                f"{self.name} does not know {len(unknown)} of the model's {len(class_names)} classes, the first "
                f'"{unknown[0]}"; it knows {len(self.class_names)}: {shown}'
            )
        return tuple(known[name] for name in class_names)


@dataclass(frozen=True)
class OtherGuides:
    """Who guides beside the classifier, or without one."""

    further: tuple[Guide, ...] = ()
    """In the order of `GuidanceConfig.further`."""
    weak: DiffusionModel | None = None
    clean: CleanGuide | None = None


class LoadGuide(Protocol):
    """How a driver that knows no classifiers gets one: `guides.load_guide`, handed in by the script."""

    def __call__(self, path: Path | None, *, device: torch.device | str) -> Guide | None:
        """The classifier of a run or checkpoint on `device`; None for none."""
        ...


def load_weak(name: str, *, device: torch.device | str) -> DiffusionModel:
    """The diffusion model "RUN" or "RUN:WEIGHTS" of `GuidanceConfig.weak`.

    Raises:
        FileNotFoundError, ValueError: as `load_diffusion`.
    """
    path, colon, weights = name.rpartition(":")
    if not colon or Path(name).exists():  # a directory's own name may hold a colon
        path, weights = name, None
    return load_diffusion(Path(path), weights=weights, device=device)


def check_guide(
    model: DiffusionModel, guide: Guide | None, guidance: GuidanceConfig, others: OtherGuides | None = None
) -> None:
    """Refuse guidance that nobody can give, or that does not fit this model.

    Raises:
        ValueError: other classes, images or noise, naming the difference; a model that cannot be guided so; or a scale
            with nobody to guide.
    """
    others = others or OtherGuides()
    _check_present(guide, guidance, others)
    called, run = model.checkpoint.path, model.checkpoint.path.parent
    for classifier in (*([guide] if guide else []), *others.further):
        check_fits(model.config, classifier, called=called, run=run)
    if guide is not None:
        _check_together(guide, others.further)
    if guidance.free_weight is not None:
        _check_null_class(model)
    if others.weak is not None:
        _check_weak(model, others.weak)
    if others.clean is not None:
        _check_clean(model, others.clean, model.config.class_names or (guide.class_names if guide else ()))


def check_fits(model: DiffusionConfig, guide: Guide, *, called: Path, run: Path) -> None:
    """Refuse a classifier of other noise, images or classes than the model's.

    called, run: the model and its run directory, for messages.

    Raises:
        ValueError: naming the difference.
    """
    if guide.chain is None:
        raise ValueError(
            f"{guide.name} was trained on clean images only and cannot guide; train one with --diffusion {run}, or "
            f"have it asked about estimates of clean images: --guidance.off_the_shelf classifier:RUN"
        )
    if guide.chain != model.chain:
        raise ValueError(f"{guide.name} was trained on the noise of {guide.chain}, but {called} has {model.chain}")
    if guide.image_shape != model.image_shape:
        raise ValueError(
            f"{guide.name} takes images (channels, height, width) {guide.image_shape}, but {called} makes "
            f"{model.image_shape}"
        )
    difference = class_difference(model.class_names, guide.class_names)
    if difference is not None:
        raise ValueError(f"{guide.name} cannot guide {called}: {difference}")


def _check_present(guide: Guide | None, guidance: GuidanceConfig, others: OtherGuides) -> None:
    plain = GuidanceConfig()
    asked = [name for name in _names() if getattr(guidance, name) != getattr(plain, name)]
    of_classifiers = [name for name in asked if name in FOR_CLASSIFIERS]
    somebody = guide is not None or any(name in asked for name in ("free_weight", "weak", "off_the_shelf"))
    if guide is None and (of_classifiers or (asked and not somebody)):
        given = ", ".join(f"{name} {_shown(getattr(guidance, name))}" for name in of_classifiers or asked)
        raise ValueError(f"guidance ({given}) was asked for without a classifier; add --classifier RUN")
    agree = {
        "further": len(guidance.further) == len(others.further),
        "weak": (guidance.weak is None) == (others.weak is None),
        "off_the_shelf": (guidance.off_the_shelf is None) == (others.clean is None),
    }
    for name in (name for name in agree if not agree[name]):
        raise ValueError(
            f"guidance.{name} and the guides handed in do not agree; guides.load_other_guides loads those "
            f"that a config names"
        )


def _names() -> list[str]:
    return [field.name for field in fields(GuidanceConfig)]


def _check_together(guide: Guide, further: Sequence[Guide]) -> None:
    for other in further:
        difference = class_difference(guide.class_names, other.class_names, model_called=guide.name)
        if difference is not None:
            raise ValueError(f"{other.name} cannot guide beside {guide.name}: {difference}")


def _check_null_class(model: DiffusionModel) -> None:
    if model.null_label is None:
        called, reason = model.checkpoint.path, "was trained without label_dropout and has no null class"
        if not model.is_conditional:
            reason = "is not told the class at all"
        raise ValueError(
            f"guidance.free_weight extrapolates from a model without the class to the same with it, but {called} "
            f"{reason}; train one with --class_conditional true --label_dropout 0.1, or guide by a classifier"
        )


def _check_weak(model: DiffusionModel, weak: DiffusionModel) -> None:
    called, ours = weak.checkpoint.path, model.checkpoint.path
    if (called, weak.weights) == (ours, model.weights):
        raise ValueError(f"guidance.weak is {ours} with its weights {weak.weights}, the very model that is guided")
    if weak.config.chain != model.config.chain:
        raise ValueError(f"{called} has the chain {weak.config.chain}, but {ours} has {model.config.chain}")
    if weak.image_shape != model.image_shape:
        raise ValueError(
            f"{called} makes images (channels, height, width) {weak.image_shape}, but {ours} makes {model.image_shape}"
        )
    if weak.is_conditional and not model.is_conditional:
        raise ValueError(f"{called} is told the class, but {ours} is not: extrapolating would lead away from the class")
    names = {"model_called": "the diffusion model", "other_called": "the weaker model"}
    difference = class_difference(model.config.class_names, weak.config.class_names, **names)
    if weak.is_conditional and difference is not None:
        raise ValueError(f"{called} cannot guide {ours}: {difference}")


def _check_clean(model: DiffusionModel, clean: CleanGuide, class_names: Sequence[str]) -> None:
    if clean.image_shape is not None and clean.image_shape != model.image_shape:
        raise ValueError(
            f"{clean.name} takes images (channels, height, width) {clean.image_shape}, but {model.checkpoint.path} "
            f"makes {model.image_shape}"
        )
    clean.labels_of(class_names)


def _are_imagenet(class_names: Sequence[str]) -> bool:
    are_ids = all(re.fullmatch(r"n\d{8}", name) for name in class_names)
    return len(class_names) == 1000 and are_ids and list(class_names) == sorted(class_names)


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
