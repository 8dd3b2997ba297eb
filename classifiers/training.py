"""Training a classifier: on the noise of a diffusion model, to guide it, or on clean images, to judge what it made."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from classifiers.checkpoint import ClassifierModelConfig
from classifiers.diagnostics import LevelReport, accuracy_by_level, heldout_images, level_indices
from classifiers.model import ClassifierConfig, NoisyClassifier, Pooling
from guided_diffusion.chain import DiffusionChain, q_sample
from guided_diffusion.checkpoint import open_checkpoint
from guided_diffusion.config import from_plain, to_plain
from guided_diffusion.data.batches import Batch, EndlessBatches
from guided_diffusion.data.folder import ClassFolder, DataConfig, open_class_folder
from guided_diffusion.losses import uniform_indices
from guided_diffusion.model import DiffusionConfig, class_difference
from guided_diffusion.models.unet import EncoderConfig
from guided_diffusion.noise import SeededNoise
from guided_diffusion.schedules import ChainConfig, make_chain
from guided_diffusion.training.loop import Identity, Losses, fit
from guided_diffusion.training.loop_config import LoopConfig


@dataclass(frozen=True, kw_only=True)
class TrainClassifierConfig:
    """Train a classifier on a folder of images."""

    out: Path
    """Run directory: checkpoints and metrics.jsonl."""
    data: DataConfig
    """The images; they decide channels and classes."""
    network: EncoderConfig
    """The encoder."""
    training: LoopConfig
    """Budget, optimiser, checkpoints."""
    diffusion: Path | None = None
    """The diffusion run to be guided, whose chain gives the noise levels; null: clean images only, for a judge."""
    heldout: Path | None = None
    """Class folder of images not trained on; accuracy on it is logged as training goes."""
    heldout_images: int = 2000
    """Of a larger held-out folder, this many are measured, evenly spaced."""
    pooling: Pooling = "attention"
    """attention (ADM) fixes the image size; adaptive takes any."""
    resume: Literal["auto"] | None = None
    """auto: continue from the newest checkpoint in `out` if there is one."""


@dataclass(frozen=True)
class ClassifierObjective:
    """Cross-entropy of the class of q(x_t | x_0) at a uniformly drawn index of the chain (ADM section 4.1), nats."""

    chain: DiffusionChain | None
    """None: images as they are, at t = 0."""

    def __call__(self, network: nn.Module, batch: Batch, noise: SeededNoise) -> Losses:
        """The mean cross-entropy; logged with the share of the batch that is classified rightly."""
        x_t, t = self.noised(batch.x0, noise)
        logits = network(x_t, t).float()
        accuracy = (logits.argmax(dim=1) == batch.y).float().mean()
        return Losses(total=F.cross_entropy(logits, batch.y), logged={"accuracy": accuracy})

    def noised(self, x0: Tensor, noise: SeededNoise) -> tuple[Tensor, Tensor]:
        """x_t (B, C, H, W) and t (B,)."""
        if self.chain is None:
            return x0, torch.zeros(len(x0), device=x0.device)
        step = self.chain.at(uniform_indices(noise.uniform(), len(self.chain)), like=x0)
        return q_sample(x0, noise(x0), step), step.t


def train_classifier(config: TrainClassifierConfig) -> None:
    """Train as configured; see `fit` for how it ends.

    Raises:
        ValueError, FileNotFoundError: as the data, the network, the diffusion run and `fit` raise them, before anything
            is written.
    """
    size, seed = config.network.image_size, config.training.seed
    folder = open_class_folder(config.data, image_size=size, seed=seed)
    model = ClassifierModelConfig(
        network=ClassifierConfig(
            **vars(config.network),
            num_classes=len(folder.class_names),
            in_channels=folder.channels,
            pooling=config.pooling,
        ),
        chain=None if config.diffusion is None else chain_of(config.diffusion, folder),
        class_names=folder.class_names,
    )
    chain = None if model.chain is None else make_chain(model.chain)
    observe = None
    if config.heldout is not None:
        heldout_config = replace(config.data, path=config.heldout)
        images, labels = heldout_images(heldout_config, model, most=config.heldout_images)
        observe = partial(_measure, chain=chain, images=images, labels=labels)
    torch.manual_seed(seed)
    fit(
        NoisyClassifier(model.network),
        ClassifierObjective(chain),
        EndlessBatches(folder, batch_size=config.training.batch_size, seed=seed, num_workers=config.data.num_workers),
        config.training,
        config.out,
        identity=Identity("classifier", to_plain(model), to_plain(config)),
        observe=observe,
        resume=config.resume == "auto",
    )


def chain_of(diffusion: Path, folder: ClassFolder) -> ChainConfig:
    """The chain of a diffusion run, so that a classifier trained on `folder` cannot disagree with it about noise.

    Raises:
        ValueError: a diffusion model of other images or other classes, which the classifier could not guide.
    """
    checkpoint = open_checkpoint(diffusion, "diffusion")
    model = from_plain(DiffusionConfig, checkpoint.model, source=str(checkpoint.path / "config.json"))
    found = (model.network.in_channels, model.network.image_size)
    ours = (folder.channels, folder.image_size)
    if found != ours:
        raise ValueError(
            f"{checkpoint.path} was trained on images of {found[0]} channels and {found[1]} pixels, but this "
            f"classifier would see {ours[0]} channels and {ours[1]} pixels; it could not guide it"
        )
    other = class_difference(model.class_names, folder.class_names)
    if other is not None:
        raise ValueError(f"a classifier trained on {folder.config.path} could not guide {checkpoint.path}: {other}")
    return model.chain


def _measure(
    network: nn.Module, iteration: int, *, chain: DiffusionChain | None, images: Tensor, labels: Tensor
) -> Mapping[str, float]:
    """Held-out accuracy over five noise levels, or of clean images."""
    levels: list[LevelReport] = accuracy_by_level(
        network, chain, images, labels, indices=level_indices(chain, count=5), seed=0
    )
    return {f"heldout_accuracy_t{level.t:g}": level.accuracy for level in levels}
