"""Training a classifier: on the noise of a diffusion model, to guide it, or on clean images, to judge what it made."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from guided_diffusion.checkpoint import Checkpoint, open_checkpoint
from guided_diffusion.config import from_plain
from guided_diffusion.data.batches import Batch, EndlessBatches
from guided_diffusion.data.config import CHANNELS, DataConfig
from guided_diffusion.data.image_set import ImageSet, open_training_set
from guided_diffusion.data.subset import evenly_spaced
from guided_diffusion.diffusion.chain import DiffusionChain, TrainingChain, q_sample
from guided_diffusion.diffusion.model import DiffusionConfig, class_difference
from guided_diffusion.diffusion.noise import SeededNoise
from guided_diffusion.diffusion.schedules import ChainConfig, make_chain, training_chain
from guided_diffusion.models.unet import EncoderConfig
from guided_diffusion.training.config import LoopConfig
from guided_diffusion.training.dry_run import rehearse
from guided_diffusion.training.loop import fit
from guided_diffusion.training.objective import Losses
from guided_diffusion.training.resume import Identity, check_run_directory

from .calibration import accuracy, kl_to_uniform, log_likelihood
from .heldout import level_indices, open_heldout, predictions, read_images
from .model import ClassifierConfig, NoisyClassifier, Pooling
from .trained_model import ClassifierModelConfig

HELDOUT_LIKELIHOOD = "heldout_log_likelihood"
"""The metric that knows the best checkpoint: it falls where a classifier overfits while its accuracy still rises."""


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
    """Images not trained on, as data.path takes them: their accuracy and log-likelihood are logged as training goes."""
    heldout_images: int = 2000
    """Of more held-out images, this many are measured, evenly spaced."""
    pooling: Pooling = "attention"
    """attention (ADM) fixes the image size; adaptive takes any."""
    entropy_weight: float = 0.0
    """Of KL(p || uniform) added to the loss, against overconfidence (ED-DPM, 2206.11474: 0.1); 0 is ADM's loss."""
    resume: Literal["auto"] | None = None
    """auto: continue from the newest checkpoint in `out` if there is one."""
    dry_run: bool = False
    """Measure speed and memory, tell what the training would cost, and write nothing."""

    def __post_init__(self) -> None:
        if not 0 <= self.entropy_weight < math.inf:
            raise ValueError(f"entropy_weight weighs a penalty: 0 or more, as published 0.1; got {self.entropy_weight}")
        if self.heldout_images < 1:
            raise ValueError(
                f"heldout_images must be at least 1, got {self.heldout_images}; no --heldout measures none"
            )
        if self.training.stop_after_worse is not None and self.heldout is None:
            raise ValueError(
                "training.stop_after_worse stops when held-out images grow less likely, and there are none: give "
                "--heldout PATH, or leave it out"
            )


@dataclass(frozen=True)
class ClassifierObjective:
    """Cross-entropy of the class of q(x_t | x_0) at a uniformly drawn index of the chain (ADM section 4.1), nats.

    With an entropy weight w, plus w KL(p || uniform) = w (log C - H(p)): ED-DPM's entropy constraint (2206.11474), as
    its authors' released training code has it. A prediction pays for being sure, so that the gradient does not vanish
    as soon as the class of a noisy image can be told.
    """

    chain: TrainingChain | None
    """None: images as they are, at t = 0."""
    entropy_weight: float = 0.0
    """w; 0 is ADM's loss."""

    def __call__(self, network: nn.Module, batch: Batch, noise: SeededNoise) -> Losses:
        """The mean loss; logged with its two terms and the share of the batch that is classified rightly."""
        x_t, t = self.noised(batch.x0, noise)
        log_p = F.log_softmax(network(x_t, t).float(), dim=1)
        cross_entropy, certainty = F.nll_loss(log_p, batch.y), kl_to_uniform(log_p).mean()
        right = (log_p.argmax(dim=1) == batch.y).float().mean()
        return Losses(
            total=cross_entropy + self.entropy_weight * certainty,
            logged={"accuracy": right, "cross_entropy": cross_entropy, "kl_to_uniform": certainty},
        )

    def noised(self, x0: Tensor, noise: SeededNoise) -> tuple[Tensor, Tensor]:
        """x_t (B, C, H, W) and t (B,)."""
        if self.chain is None:
            return x0, torch.zeros(len(x0), device=x0.device)
        step = self.chain.drawn(noise.uniform(), like=x0)
        return q_sample(x0, noise(x0), step), step.t


def train_classifier(config: TrainClassifierConfig) -> None:
    """Train as configured; see `fit` for how it ends.

    Raises:
        ValueError, FileNotFoundError: as the data, the network, the diffusion run and `fit` raise them, before anything
            is written.
    """
    check_run_directory(config.out, resume=config.resume == "auto")
    guided = None if config.diffusion is None else open_checkpoint(config.diffusion, "diffusion")
    size, seed = config.network.image_size, config.training.seed
    folder = open_training_set(config.data, image_size=size)
    model = ClassifierModelConfig(
        network=ClassifierConfig(
            **vars(config.network),
            num_classes=len(folder.class_names),
            in_channels=folder.channels,
            pooling=config.pooling,
        ),
        chain=None if guided is None else chain_of(guided, folder),
        class_names=folder.class_names,
    )
    chain = None if model.chain is None else make_chain(model.chain)
    observe = None
    if config.heldout is not None:
        heldout = open_heldout(replace(config.data, path=config.heldout), model)
        images, labels = read_images(heldout, evenly_spaced(len(heldout), most=config.heldout_images))
        observe = partial(_measure, chain=chain, images=images, labels=labels)
    torch.manual_seed(seed)
    (rehearse if config.dry_run else fit)(
        NoisyClassifier(model.network),
        ClassifierObjective(None if model.chain is None else training_chain(model.chain), config.entropy_weight),
        EndlessBatches(folder, batch_size=config.training.batch.size, seed=seed, num_workers=config.data.num_workers),
        config.training,
        config.out,
        identity=Identity("classifier", model, config),
        observe=observe,
        best_by=HELDOUT_LIKELIHOOD,
        resume=config.resume == "auto",
    )


def chain_of(checkpoint: Checkpoint, folder: ImageSet) -> ChainConfig:
    """The chain of a diffusion run, so that a classifier trained on `folder` cannot disagree with it about noise.

    Raises:
        ValueError: a diffusion model of other images or other classes, which the classifier could not guide.
    """
    model = from_plain(DiffusionConfig, checkpoint.model, source=str(checkpoint.path / "config.json"))
    channels, side, _ = model.image_shape
    mode = {count: mode for mode, count in CHANNELS.items()}[channels]
    if (mode, side) != (folder.mode, folder.image_size):
        raise ValueError(
            f"{checkpoint.path} was trained on {mode} images of {side} pixels, but this classifier would see "
            f"{folder.mode} images of {folder.image_size} pixels and could not guide it; give --network.image_size "
            f"{side} and --data.mode {mode}"
        )
    other = class_difference(model.class_names, folder.class_names)
    if other is not None:
        raise ValueError(f"a classifier trained on {folder.path} could not guide {checkpoint.path}: {other}")
    return model.chain


def _measure(
    network: nn.Module, iteration: int, *, chain: DiffusionChain | None, images: Tensor, labels: Tensor
) -> Mapping[str, float]:
    """Held-out accuracy at five noise levels, or of clean images, and the log-likelihood, nats, averaged over them."""

    def log_prob(x_t: Tensor, t: Tensor) -> Tensor:
        return F.log_softmax(network(x_t, t).float(), dim=1)

    device = next(network.parameters()).device
    indices = level_indices(chain, count=5)
    log_ps = [predictions(log_prob, chain, images, k=k, seed=0, device=device) for k in indices]
    ts = [0.0 if chain is None else float(chain.t[k]) for k in indices]
    accuracies = {f"heldout_accuracy_t{t:g}": accuracy(log_p, labels) for t, log_p in zip(ts, log_ps, strict=True)}
    likelihoods = [log_likelihood(log_p, labels) for log_p in log_ps]
    return accuracies | {HELDOUT_LIKELIHOOD: sum(likelihoods) / len(likelihoods)}
