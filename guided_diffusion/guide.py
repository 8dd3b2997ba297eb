"""A classifier as those who sample see it: how strongly it guides, and whether it fits the diffusion model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from .guidance import LogProb, ScoreTerm, classifier_score, within
from .model import DiffusionConfig, DiffusionModel, class_difference
from .schedules import ChainConfig


@dataclass(frozen=True, kw_only=True)
class GuidanceConfig:
    """How a classifier guides."""

    scale: float | None = None
    """s in s * grad log p(y | x_t); null: 1 with a classifier. Tuned values lie between 0.5 and 10 (ADM table 14)."""
    sigma_min: float = 0.0
    """Guide only above this noise level, sqrt(1 / alpha_bar - 1); below it the classifier is not called."""
    sigma_max: float = float("inf")
    """Guide only up to this noise level."""

    def __post_init__(self) -> None:
        if not 0 <= self.sigma_min < self.sigma_max:
            raise ValueError(
                f"guidance is limited to sigma_min < sigma <= sigma_max, got {self.sigma_min:g} and {self.sigma_max:g}"
            )


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


class LoadGuide(Protocol):
    """How a driver that knows no classifiers gets one: `classifiers.guide.load_guide`, handed in by the script."""

    def __call__(self, path: Path | None, *, device: torch.device | str) -> Guide | None:
        """The classifier of a run or checkpoint on `device`; None for none."""
        ...


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
        if guidance != GuidanceConfig():
            given = ", ".join(f"{name} {value:g}" for name, value in guidance_record(guidance).items())
            raise ValueError(f"guidance ({given}) was asked for without a classifier; add --classifier RUN")
        return
    check_fits(model.config, guide, called=model.checkpoint.path, run=model.checkpoint.path.parent)


def check_fits(model: DiffusionConfig, guide: Guide, *, called: Path, run: Path) -> None:
    """Refuse a classifier of other noise, images or classes than the model's.

    called, run: the model and its run directory, for messages.

    Raises:
        ValueError: naming the difference.
    """
    if guide.chain is None:
        raise ValueError(
            f"{guide.name} was trained on clean images only and cannot guide; train one with --diffusion {run}"
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


def guidance_record(config: GuidanceConfig) -> dict[str, float]:
    """What a manifest says of the guidance."""
    record = {"scale": 1.0 if config.scale is None else config.scale}
    if config.sigma_min > 0:
        record["sigma_min"] = config.sigma_min
    if config.sigma_max < float("inf"):  # JSON knows no infinity
        record["sigma_max"] = config.sigma_max
    return record
