"""Whether a noisy classifier is any good: how well it tells classes apart at each noise level, on held-out images."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from classifiers.checkpoint import ClassifierModelConfig, load_classifier
from guided_diffusion.chain import DiffusionChain, q_sample
from guided_diffusion.data.folder import DataConfig, open_class_folder
from guided_diffusion.data.shards import write_json
from guided_diffusion.device import default_device
from guided_diffusion.noise import SeededNoise
from guided_diffusion.schedules import make_chain


@dataclass(frozen=True, kw_only=True)
class DiagnoseConfig:
    """Measure a classifier on held-out images, noise level by noise level."""

    classifier: Path
    """Run directory or checkpoint of the classifier."""
    data: DataConfig
    """Class folder of images that it was not trained on."""
    max_images: int = 5000
    """Of a larger folder, this many are measured, evenly spaced."""
    levels: int = 11
    """Noise levels, evenly spread over its chain, both ends included."""
    seed: int = 0
    """Of the noise."""
    out: Path | None = None
    """JSON file to write; null: diagnosis.json in the classifier's checkpoint's run directory."""

    def __post_init__(self) -> None:
        for name in ("max_images", "levels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True)
class LevelReport:
    """A classifier at one noise level."""

    t: float
    """Timestep, as networks are told it."""
    alpha_bar: float
    """Signal power."""
    accuracy: float
    """Share of the images classified rightly, 0..1."""
    log_likelihood: float
    """Mean log-probability of the right class, nats; -log(num_classes) is chance."""


def level_indices(chain: DiffusionChain | None, *, count: int) -> list[int]:
    """`count` indices spread evenly over the chain, both ends included; just [0] without a chain."""
    return [0] if chain is None else torch.linspace(0, len(chain) - 1, count).round().long().tolist()


def heldout_images(data: DataConfig, model: ClassifierModelConfig, *, most: int) -> tuple[Tensor, Tensor]:
    """Images of a class folder (N, C, H, W) in [-1, 1] and their labels (N,) in the classifier's numbering.

    most: of a larger folder, that many are read, evenly spaced. They are kept in memory.

    Raises:
        ValueError: a class that the classifier does not know, or images of another channel count.
    """
    folder = open_class_folder(data, image_size=model.network.image_size, class_names=model.class_names)
    if folder.channels != model.network.in_channels:
        raise ValueError(
            f"{data.path} holds images of {folder.channels} channels, the classifier takes "
            f"{model.network.in_channels}; --data.mode converts"
        )
    chosen = torch.linspace(0, len(folder) - 1, min(most, len(folder))).round().long()
    return torch.stack([folder[i][0] for i in chosen.tolist()]), folder.labels[chosen]


@torch.no_grad()
def accuracy_by_level(
    network: nn.Module,
    chain: DiffusionChain | None,
    images: Tensor,
    labels: Tensor,
    *,
    indices: Sequence[int],
    seed: int,
    batch_size: int = 256,
) -> list[LevelReport]:
    """The classifier at each index of the chain; every image has the same noise eps at all of them.

    images: (N, C, H, W) in [-1, 1]; labels: (N,). chain None: the images as they are, at t = 0.
    """
    device = next(network.parameters()).device
    return [
        _at_level(network, chain, images.split(batch_size), labels.to(device), k=k, seed=seed, device=device)
        for k in indices
    ]


def _at_level(
    network: nn.Module,
    chain: DiffusionChain | None,
    batches: Sequence[Tensor],
    labels: Tensor,
    *,
    k: int,
    seed: int,
    device: torch.device,
) -> LevelReport:
    logits: list[Tensor] = []
    t, alpha_bar, first = 0.0, 1.0, 0
    for x0 in (batch.to(device) for batch in batches):
        if chain is None:
            logits.append(network(x0, torch.zeros(len(x0), device=device)))
        else:
            step = chain.at(k, like=x0)
            t, alpha_bar = float(chain.t[k]), float(chain.alpha_bar[k])
            eps = SeededNoise(seed, range(first, first + len(x0)))(x0)
            logits.append(network(q_sample(x0, eps, step), step.t))
        first += len(x0)
    log_p = F.log_softmax(torch.cat(logits).double(), dim=1)
    return LevelReport(
        t=t,
        alpha_bar=alpha_bar,
        accuracy=float((log_p.argmax(dim=1) == labels).double().mean()),
        log_likelihood=float(log_p.gather(1, labels[:, None]).mean()),
    )


def diagnose(config: DiagnoseConfig) -> None:
    """Print accuracy and log-likelihood per noise level, and write them as JSON.

    Raises:
        ValueError, FileNotFoundError: as `load_classifier` and `heldout_images`.
    """
    device = default_device()
    classifier = load_classifier(config.classifier, device=device)
    images, labels = heldout_images(config.data, classifier.config, most=config.max_images)
    chain = None if classifier.config.chain is None else make_chain(classifier.config.chain)
    levels = accuracy_by_level(
        classifier.network, chain, images, labels, indices=level_indices(chain, count=config.levels), seed=config.seed
    )
    chance = 1 / len(classifier.config.class_names)
    print(f"{len(images)} held-out images of {config.data.path}; chance: {chance:.1%}, {math.log(chance):.3f} nats")
    print(f"{'t':>6}  {'signal power':>12}  {'accuracy':>8}  {'log-likelihood':>14}")
    for level in levels:
        print(f"{level.t:6g}  {level.alpha_bar:12.5f}  {level.accuracy:8.1%}  {level.log_likelihood:14.3f}")
    out = config.out or classifier.checkpoint.path.parent / "diagnosis.json"
    record = {"num_images": len(images), "data": str(config.data.path), "chance": chance}
    write_json(out, record | {"levels": [asdict(level) for level in levels]})
    print(f"written to {out}")
