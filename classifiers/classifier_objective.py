"""The objective of classifiers, and the chain that they share with the diffusion model to be guided."""

import logging
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from guided_diffusion.checkpoint import Checkpoint
from guided_diffusion.config import from_plain, to_plain
from guided_diffusion.data.batches import Batch
from guided_diffusion.data.config import CHANNELS
from guided_diffusion.data.image_set import ImageSet
from guided_diffusion.diffusion.chain import TrainingChain, q_sample
from guided_diffusion.diffusion.model import DiffusionConfig, class_difference
from guided_diffusion.diffusion.noise import SeededNoise
from guided_diffusion.diffusion.schedules import ChainConfig
from guided_diffusion.guidance.compatibility import doubted_classes
from guided_diffusion.training.objective import Losses

from .calibration import kl_to_uniform
from .trained_model import DISCRIMINATOR_CLASSES

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClassifierObjective:
    """Cross-entropy of the class of q(x_t | x_0) at a uniformly drawn index of the chain (ADM section 4.1), nats.

    With an entropy weight w, plus w KL(p || uniform) = w (log C - H(p)): ED-DPM's entropy constraint (2206.11474), as
    in its authors' released training code. It penalises confidence, so that the gradient does not vanish as soon as
    the class of a noisy image can be told.
    """

    chain: TrainingChain | None
    """None: clean images, at t = 0."""
    entropy_weight: float = 0.0
    """w; 0 is ADM's loss."""

    def __call__(self, network: nn.Module, batch: Batch, noise: SeededNoise) -> Losses:
        """The mean loss; logged with its two terms and the accuracy on the batch."""
        log_p = F.log_softmax(network(*noised(self.chain, batch.x0, noise)).float(), dim=1)
        cross_entropy, certainty = F.nll_loss(log_p, batch.y), kl_to_uniform(log_p).mean()
        accuracy = (log_p.argmax(dim=1) == batch.y).float().mean()
        return Losses(
            total=cross_entropy + self.entropy_weight * certainty,
            logged={"accuracy": accuracy, "cross_entropy": cross_entropy, "kl_to_uniform": certainty},
        )


def noised(chain: TrainingChain | None, x0: Tensor, noise: SeededNoise) -> tuple[Tensor, Tensor]:
    """x_t and t (B,) at uniformly drawn indices of the chain; None: x0 itself, at t = 0."""
    if chain is None:
        return x0, torch.zeros(len(x0), device=x0.device)
    step = chain.drawn(noise.uniform(), like=x0)
    return q_sample(x0, noise(x0), step), step.t


def guided_chain(checkpoint: Checkpoint, data: ImageSet) -> ChainConfig:
    """The chain of the diffusion run to be guided by a classifier trained on `data`, so that noise levels agree.

    Images without class names fit a model of any classes. A model that is not conditioned on the class can be guided
    to others than its data's, with a warning. A discriminator has classes of its own.

    Raises:
        ValueError: a diffusion model of other images, or a conditional one of other classes, which the classifier could
            not guide.
    """
    model = from_plain(DiffusionConfig, checkpoint.model, source=str(checkpoint.path / "config.json"))
    channels, side, _ = model.image_shape
    mode = {count: mode for mode, count in CHANNELS.items()}[channels]
    if (mode, side) != (data.mode, data.image_size):
        raise ValueError(
            f"{checkpoint.path} was trained on {mode} images of {side} pixels, but this classifier would see "
            f"{data.mode} images of {data.image_size} pixels and could not guide it; give --network.image_size "
            f"{side} and --data.mode {mode}, or for a classifier of clean images --diffusion null"
        )
    difference = class_difference(model.class_names if data.class_names else (), data.class_names)
    if difference is not None and data.class_names != DISCRIMINATOR_CLASSES and not model.is_conditional:
        if (doubt := doubted_classes(model, data.class_names)) is not None:
            _logger.warning("%s", doubt)
    elif difference is not None and data.class_names != DISCRIMINATOR_CLASSES:
        raise ValueError(
            f"a classifier trained on {data.path} could not guide {checkpoint.path}: {difference}; give the same "
            f"classes, or for a classifier of clean images --diffusion null"
        )
    window, own = checkpoint.run.get("data", {}).get("window"), to_plain(data.window)
    if window != own:
        _logger.warning(
            "%s was trained with --data.window %s, this classifier with %s: the same picture has other greys to it; "
            "give the same window, unless it is in prepared images already", checkpoint.path, window, own,
        )  # fmt: skip
    return model.chain
