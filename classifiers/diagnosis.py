"""The diagnosis command: a classifier measured on held-out images, noise level by noise level, and what it comes to."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from textwrap import fill
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from guided_diffusion.data.config import DataConfig
from guided_diffusion.data.image_set import ImageSet
from guided_diffusion.data.subset import evenly_spaced
from guided_diffusion.diffusion.chain import DiffusionChain, Step, q_sample
from guided_diffusion.diffusion.noise import SeededNoise
from guided_diffusion.diffusion.schedules import make_chain
from guided_diffusion.distributed import default_device
from guided_diffusion.files import write_json
from guided_diffusion.guidance import classifier_score

from .calibration import (
    accuracy,
    calibrating_scale,
    calibration_error,
    log_likelihood,
    mean_confidence,
    normalized_entropy,
)
from .heldout import level_indices, open_heldout, read_images, step_at
from .model import NoisyClassifier
from .report import diagnosis_figure, format_diagnosis, write_figure
from .slope import correction_ratio, slope_error
from .trained_model import Classifier, load_classifier
from .verdict import Diagnosis, LevelReport, is_informed, verdict

SLOPE_IMAGES = 8
"""Images whose gradients are held against finite differences, at every level."""


@dataclass(frozen=True, kw_only=True)
class DiagnoseConfig:
    """Measure a classifier on held-out images, noise level by noise level, and say whether it is fit to guide."""

    classifier: Path
    """Run directory or checkpoint of the classifier."""
    data: DataConfig
    """Images that it was not trained on."""
    max_images: int = 5000
    """Of more, this many are measured, evenly spaced."""
    levels: int = 11
    """Noise levels, evenly spread over its chain, both ends included."""
    batch_size: int = 64
    """Images at a time; gradients need as much memory as guided sampling does."""
    seed: int = 0
    """Of the noise."""
    out: Path | None = None
    """JSON file to write, a figure beside it; null: diagnosis.json in the classifier's checkpoint's run directory."""

    def __post_init__(self) -> None:
        for name in ("max_images", "levels", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.out is not None and self.out.suffix != ".json":
            raise ValueError(f"out is a JSON file, and the figure beside it ends in .png; got {self.out}, not *.json")


@dataclass(frozen=True)
class LevelMeasurement:
    """What a classifier says of N images at one noise level."""

    t: float
    alpha_bar: float
    log_p: Tensor
    """(N, num_classes) log p(y | x_t), nats, on the CPU."""
    corrections: Tensor
    """(N,) of `correction_ratio`."""
    slope_error: float


def diagnose(config: DiagnoseConfig) -> None:
    """Print the measurements and the verdict; write both as JSON, with a figure beside it if there are several levels.

    Raises:
        ValueError, FileNotFoundError: as `load_classifier` and `open_heldout`; images of one class only.
    """
    classifier = load_classifier(config.classifier, device=default_device())
    diagnosis = measured(classifier, config)
    sentences = verdict(diagnosis)
    print(format_diagnosis(diagnosis), *(fill(sentence, width=100) for sentence in sentences), sep="\n\n")
    out = config.out or classifier.checkpoint.path.parent / "diagnosis.json"
    write_json(out, asdict(diagnosis) | {"verdict": sentences})
    if len(diagnosis.levels) > 1:
        write_figure(out.with_suffix(".png"), diagnosis_figure(diagnosis))
    print(f"\nwritten to {out}")


def measured(classifier: Classifier, config: DiagnoseConfig) -> Diagnosis:
    """The classifier on the images that the config names.

    Raises:
        ValueError: as `open_heldout`; images of one class only.
    """
    folder = open_heldout(config.data, classifier.config)
    chosen = evenly_spaced(len(folder), most=config.max_images)
    y = folder.labels[chosen]
    if len(y.unique()) == 1:
        raise ValueError(
            f"{config.data.path} holds images of one class only, where a constant answer is right; give images of "
            f"several classes"
        )
    chain = None if classifier.config.chain is None else make_chain(classifier.config.chain)
    indices = level_indices(chain, count=config.levels)
    checkpoint = classifier.checkpoint
    return summarize(
        measure_levels(
            classifier.network, chain, folder, chosen, indices=indices, seed=config.seed, batch_size=config.batch_size
        ),
        y,
        classifier=f"{checkpoint.path.parent.name}/{checkpoint.path.name}",
        data=config.data.path,
        trained_on_it=_is_training_folder(config.data.path, checkpoint.run),
        guides=chain is not None,
    )


def measure_levels(
    network: NoisyClassifier,
    chain: DiffusionChain | None,
    folder: ImageSet,
    chosen: Sequence[int],
    *,
    indices: Sequence[int],
    seed: int,
    batch_size: int,
) -> list[LevelMeasurement]:
    """The classifier at each index of the chain, on the chosen images of a folder.

    Each image is read once, and noised at every level with the same eps. chain None: the images as they are, at t = 0.
    """
    found: dict[int, list[tuple[Tensor, Tensor]]] = {k: [] for k in indices}
    device = next(network.parameters()).device
    with tqdm(total=len(chosen) * len(indices), desc="diagnosis", unit="img", leave=False) as bar:
        for first in range(0, len(chosen), batch_size):
            x0, y = (tensor.to(device) for tensor in read_images(folder, chosen[first : first + batch_size]))
            eps = SeededNoise(seed, range(first, first + len(x0)))(x0)
            for k in indices:
                found[k].append(_predicted(network, x0, y, eps, step_at(chain, k, like=x0)))
                bar.update(len(x0))
    slope_errors = measure_slopes(network, chain, folder, chosen, indices=indices, seed=seed)
    return [
        LevelMeasurement(
            t=0.0 if chain is None else float(chain.t[k]),
            alpha_bar=1.0 if chain is None else float(chain.alpha_bar[k]),
            log_p=torch.cat([log_p for log_p, _ in found[k]]),
            corrections=torch.cat([corrections for _, corrections in found[k]]),
            slope_error=error,
        )
        for k, error in zip(indices, slope_errors, strict=True)
    ]


@torch.no_grad()
def _predicted(network: NoisyClassifier, x0: Tensor, y: Tensor, eps: Tensor, step: Step) -> tuple[Tensor, Tensor]:
    """log p (B, num_classes) and `correction_ratio` (B,) of one batch at one step, on the CPU."""
    x_t = q_sample(x0, eps, step)
    gradient = classifier_score(network.log_prob, y, 1.0)(x_t, step)
    return network.log_prob(x_t, step.t).cpu(), correction_ratio(gradient, eps, step).cpu()


@torch.no_grad()
def measure_slopes(
    network: NoisyClassifier,
    chain: DiffusionChain | None,
    folder: ImageSet,
    chosen: Sequence[int],
    *,
    indices: Sequence[int],
    seed: int,
) -> list[float]:
    """`slope_error` of the gradient that guidance uses, at each index, on SLOPE_IMAGES of the chosen images."""
    few = [chosen[i] for i in evenly_spaced(len(chosen), most=SLOPE_IMAGES)]
    x0, y = (tensor.to(next(network.parameters()).device) for tensor in read_images(folder, few))
    noise = SeededNoise(seed, range(len(few)))
    eps, direction = noise(x0), noise(x0)
    exact = deepcopy(network).double()
    term = classifier_score(network.log_prob, y, 1.0)
    errors: list[float] = []
    for k in indices:
        step = step_at(chain, k, like=x0)
        x_t = q_sample(x0, eps, step)
        errors.append(slope_error(term(x_t, step), exact.log_prob, x_t, step.t, y, direction=direction))
    return errors


def summarize(
    levels: Sequence[LevelMeasurement], y: Tensor, *, classifier: str, data: Path, trained_on_it: bool, guides: bool
) -> Diagnosis:
    """The numbers of a diagnosis. y: (N,) the right classes of the images measured.

    Raises:
        ValueError: log-probabilities that are not finite.
    """
    for level in levels:
        if not bool(level.log_p.isfinite().all()):
            raise ValueError(
                f"{classifier} gives log-probabilities that are not finite at t = {level.t:g}: its weights are broken, "
                f"take another checkpoint"
            )
    num_classes = levels[0].log_p.shape[1]
    commonest = max(1 / num_classes, float(y.bincount().max()) / len(y))
    informed = [
        level for level in levels if is_informed(accuracy(level.log_p, y), commonest=commonest, num_images=len(y))
    ]
    return Diagnosis(
        classifier=classifier,
        data=str(data),
        num_images=len(y),
        trained_on_it=trained_on_it,
        guides=guides,
        chance=1 / num_classes,
        commonest=commonest,
        levels=tuple(_report(level, y) for level in levels),
        scale=calibrating_scale(torch.cat([level.log_p for level in informed]), y.repeat(len(informed)))
        if informed
        else None,
    )


def _report(level: LevelMeasurement, y: Tensor) -> LevelReport:
    return LevelReport(
        t=level.t,
        alpha_bar=level.alpha_bar,
        accuracy=accuracy(level.log_p, y),
        log_likelihood=log_likelihood(level.log_p, y),
        confidence=mean_confidence(level.log_p),
        calibration_error=calibration_error(level.log_p, y),
        entropy=normalized_entropy(level.log_p),
        correction=float(level.corrections.mean()),
        slope_error=level.slope_error,
    )


def _is_training_folder(path: Path, run: Mapping[str, Any]) -> bool:
    """An imported classifier's run does not say what data it was trained on."""
    trained_on = run.get("data", {}).get("path")
    return trained_on is not None and Path(trained_on).resolve() == path.resolve()
