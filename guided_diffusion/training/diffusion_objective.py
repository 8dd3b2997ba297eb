"""The objective of diffusion models and upsamplers."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.batches import Batch
from ..data.image_set import ImageSet
from ..diffusion.chain import broadcast_like, diffused
from ..diffusion.denoiser import has_learned_variance
from ..diffusion.losses import Noised, hybrid_loss, min_snr_weight, simple_loss, vlb_loss
from ..diffusion.model import DiffusionConfig, UpsamplerModelConfig
from ..diffusion.noise import SeededNoise
from ..diffusion.schedules import make_chain, training_chain
from ..diffusion.timesteps import LossSecondMoment, TimestepSampler, UniformTimesteps
from ..models.unet import UNetConfig
from .config import DiffusionTrainingConfig, Loss
from .objective import Losses


@dataclass(frozen=True)
class DiffusionObjective:
    """A loss of (improved) DDPM at a link of the chain drawn for each sample.

    An upsampler's network is conditioned on the reduction of x_0 (ADM section 5.2).
    """

    timesteps: TimestepSampler
    config: DiffusionConfig
    loss: Loss
    min_snr_gamma: float | None = None
    """None: L_simple is not weighted."""
    label_dropout: float = 0.0
    """Share of the samples that get the null label."""

    def __call__(self, network: Callable[..., Tensor], batch: Batch, noise: SeededNoise) -> Losses:
        """The mean loss; logged as "mse" is the mean squared error of the prediction.

        Both are means for uniform timesteps, whatever their distribution.
        """
        network = self._conditioned(network, batch.x0, noise)
        drawn = self.timesteps.drawn(noise.uniform(), like=batch.x0)
        noised = Noised.of(batch.x0, noise(batch.x0), drawn.step)
        labels = (self._labels(batch, noise),) if self.config.is_conditional else ()
        output = network(noised.x_t, noised.step.t, *labels)
        prediction, variance = self.config.prediction, self.config.variance
        mse = simple_loss(output, noised, prediction=prediction, variance=variance)
        loss = self._loss(output, noised, mse)
        observed = {"loss": loss.detach()} if drawn.k is None else {"loss": loss.detach(), "k": drawn.k}
        return Losses((drawn.weight * loss).mean(), logged={"mse": (drawn.weight * mse).mean()}, observed=observed)

    def _conditioned(self, network: Callable[..., Tensor], x0: Tensor, noise: SeededNoise) -> Callable[..., Tensor]:
        """An upsampler's network, bound to the reduction of x_0, noised if the config says so; others as they are."""
        if not isinstance(self.config, UpsamplerModelConfig):
            return network
        low_res, largest = area_reduced(x0, self.config.network.low_res_size), self.config.network.conditioning_noise
        if largest is None:
            return partial(network, low_res=low_res)
        rate = broadcast_like(largest * noise.uniform(), low_res)
        noised = diffused(low_res, noise(low_res), alpha_bar=1 - rate.reshape(-1, 1, 1, 1) ** 2)
        return partial(network, low_res=noised, conditioning_noise=rate.to(low_res.dtype))

    def _labels(self, batch: Batch, noise: SeededNoise) -> Tensor:
        if self.label_dropout == 0:  # draws nothing, so that the noise is that of a run without this option
            return batch.y
        assert self.config.null_label is not None
        is_dropped = broadcast_like(noise.uniform() < self.label_dropout, batch.y)
        return torch.where(is_dropped, self.config.null_label, batch.y)

    def _loss(self, output: Tensor, noised: Noised, mse: Tensor) -> Tensor:
        prediction, variance, num_steps = self.config.prediction, self.config.variance, self.config.chain.num_steps
        if self.loss == "vlb":
            return vlb_loss(output, noised, prediction=prediction, variance=variance, num_steps=num_steps)
        weight = 1.0
        if self.min_snr_gamma is not None:
            weight = min_snr_weight(noised.step, prediction=prediction, gamma=self.min_snr_gamma).to(noised.x0.dtype)
        if self.loss == "simple":
            return weight * mse
        return hybrid_loss(
            output, noised, prediction=prediction, variance=variance, num_steps=num_steps, simple_weight=weight
        )


def area_reduced(x0: Tensor, size: int) -> Tensor:
    """Means over areas, (B, C, size, size) of (B, C, H, W), as published: neither quantised nor blurred nor noised."""
    return F.interpolate(x0, size=(size, size), mode="area")


def diffusion_objective(config: DiffusionTrainingConfig, model: DiffusionConfig) -> DiffusionObjective:
    """The objective that a training config describes."""
    timesteps: TimestepSampler = UniformTimesteps(training_chain(config.chain))
    if config.timesteps == "loss_second_moment":
        timesteps = LossSecondMoment(make_chain(config.chain))
    return DiffusionObjective(timesteps, model, config.loss, config.min_snr_gamma, config.label_dropout)


def diffusion_config(config: DiffusionTrainingConfig, data: ImageSet) -> DiffusionConfig:
    """The model that a training config and its data describe."""
    network = UNetConfig(
        **vars(config.network),
        in_channels=data.channels,
        out_channels=data.channels * (1 + has_learned_variance(config.variance)),
        num_classes=len(data.class_names) if config.class_conditional else None,
        null_class=config.label_dropout > 0,
    )
    return DiffusionConfig(
        network=network, chain=config.chain, prediction=config.prediction, variance=config.variance,
        class_names=data.class_names, unseen_classes=data.empty_classes,
    )  # fmt: skip
