"""The objective of diffusion models and its settings, which upsamplers share."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ..data.batches import Batch
from ..data.image_set import ImageSet
from ..diffusion.chain import Step, broadcast_like
from ..diffusion.denoiser import Prediction, Variance, has_learned_variance
from ..diffusion.losses import Noised, hybrid_loss, min_snr_weight, simple_loss, vlb_loss
from ..diffusion.model import DiffusionConfig, check_continuous_time
from ..diffusion.noise import SeededNoise
from ..diffusion.schedules import ChainConfig, make_chain, training_chain
from ..diffusion.timesteps import LossSecondMoment, TimestepSampler, UniformTimesteps
from ..models.unet import UNetConfig
from .config import TrainingConfig
from .objective import Losses, Objective

Loss = Literal["simple", "hybrid", "vlb"]


@dataclass(frozen=True, kw_only=True)
class DiffusionTrainingConfig(TrainingConfig):
    """Settings of the training of diffusion models and upsamplers."""

    chain: ChainConfig = ChainConfig()
    """The noise levels."""
    prediction: Prediction = "eps"
    """What the network estimates."""
    variance: Variance = "learned_range"
    """Where the variance of a step comes from."""
    loss: Loss = "hybrid"
    """L_simple (DDPM), L_hybrid (improved DDPM and ADM; needs a learned variance) or L_vlb."""
    timesteps: Literal["uniform", "loss_second_moment"] = "uniform"
    """Distribution of the timesteps: uniform, or importance sampling in proportion to the root mean square of their
    last losses, which makes L_vlb less noisy (improved DDPM section 3.3)."""
    min_snr_gamma: float | None = None
    """Weigh L_simple so that squared errors of x_0 count min(SNR, gamma) times (2303.09556; gamma 5 there); null: the
    weight that follows from the prediction."""
    class_conditional: bool = False
    """Condition the network on the class. A classifier guides an unconditional network as well."""
    label_dropout: float = 0.0
    """Share of samples, 0..1, whose label is dropped, for classifier-free guidance (2207.12598; 0.1 or 0.2 there);
    needs class_conditional."""

    def __post_init__(self) -> None:
        check_continuous_time(
            self.chain, variance=self.variance, prediction=self.prediction, loss=self.loss, timesteps=self.timesteps
        )
        self._check_loss()
        if not 0 <= self.label_dropout < 1:
            raise ValueError(f"label_dropout is a share of the samples below 1, got {self.label_dropout}")
        if self.label_dropout and not self.class_conditional:
            raise ValueError(
                f"label_dropout {self.label_dropout} drops labels that the network is never told; add "
                f"--class_conditional true or leave it out"
            )

    def _check_loss(self) -> None:
        learned = has_learned_variance(self.variance)
        if learned == (self.loss == "simple"):
            wanted = 'loss "hybrid" or "vlb"' if learned else 'loss "simple" or "vlb"'
            if self.loss != "vlb":
                raise ValueError(f'variance "{self.variance}" cannot be trained with loss "{self.loss}"; take {wanted}')
        if self.min_snr_gamma is None:
            return
        if self.min_snr_gamma <= 0:
            raise ValueError(f"min_snr_gamma is a signal-to-noise ratio above 0, or null; got {self.min_snr_gamma}")
        if self.loss == "vlb" or self.prediction == "mean":
            raise ValueError(
                f'min_snr_gamma weighs L_simple of eps, x0 or v; with prediction "{self.prediction}" and loss '
                f'"{self.loss}" there is nothing for it to weigh: leave it out'
            )


@dataclass(frozen=True)
class DiffusionObjective:
    """A loss of (improved) DDPM at a link of the chain drawn for each sample."""

    timesteps: TimestepSampler
    config: DiffusionConfig
    loss: Loss
    min_snr_gamma: float | None = None
    """None: L_simple is not weighted."""
    label_dropout: float = 0.0
    """Share of the samples that get the null label."""

    def __call__(self, network: Callable[..., Tensor], batch: Batch, noise: SeededNoise) -> Losses:
        """The mean loss; logged as "mse" is the mean squared error of the prediction.

        Both are means for uniform timesteps, whatever their distribution. Observed are each sample's "loss" and, where
        timesteps are drawn by it, their index "k".
        """
        drawn = self.timesteps.drawn(noise.uniform(), like=batch.x0)
        noised = Noised.of(batch.x0, noise(batch.x0), drawn.step)
        labels = (self._labels(batch, noise),) if self.config.is_conditional else ()
        output = network(noised.x_t, noised.step.t, *labels)
        prediction, variance = self.config.prediction, self.config.variance
        mse = simple_loss(output, noised, prediction=prediction, variance=variance)
        loss = self._loss(output, noised, mse)
        observed = {"loss": loss.detach()} if drawn.k is None else {"loss": loss.detach(), "k": drawn.k}
        return Losses(
            total=(drawn.weight * loss).mean(), logged={"mse": (drawn.weight * mse).mean()}, observed=observed
        )

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
        weight = self._simple_weight(noised.step, noised.x0)
        if self.loss == "simple":
            return weight * mse
        return hybrid_loss(
            output, noised, prediction=prediction, variance=variance, num_steps=num_steps, simple_weight=weight
        )

    def _simple_weight(self, step: Step, x0: Tensor) -> Tensor | float:
        if self.min_snr_gamma is None:
            return 1.0
        return min_snr_weight(step, prediction=self.config.prediction, gamma=self.min_snr_gamma).to(x0.dtype)


@dataclass(frozen=True)
class AdaptiveObjective:
    """An objective whose timesteps are drawn by their past losses: an `Adaptive` one for the loop."""

    objective: Objective
    timesteps: LossSecondMoment
    """The sampler that `objective` draws by."""

    def __call__(self, network: nn.Module, batch: Batch, noise: SeededNoise) -> Losses:
        """As of `objective`."""
        return self.objective(network, batch, noise)

    def update(self, observed: Mapping[str, Tensor]) -> None:
        """Learn from each sample's "loss" at index "k", both (B,), of a whole batch in the order of its stream."""
        self.timesteps.learn(observed["k"], observed["loss"])

    def state_dict(self) -> dict[str, Tensor]:
        """The history of losses."""
        return {"history": self.timesteps.history}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from such a history."""
        self.timesteps.history.copy_(state["history"])


def diffusion_objective(config: DiffusionTrainingConfig, model: DiffusionConfig) -> DiffusionObjective:
    """The objective that a training config describes."""
    timesteps: TimestepSampler = UniformTimesteps(training_chain(config.chain))
    if config.timesteps == "loss_second_moment":
        timesteps = LossSecondMoment(make_chain(config.chain))
    return DiffusionObjective(timesteps, model, config.loss, config.min_snr_gamma, config.label_dropout)


def adaptive(objective: Objective, timesteps: TimestepSampler) -> Objective:
    """The objective, made adaptive if `timesteps`, by which it draws, learn from its losses."""
    return AdaptiveObjective(objective, timesteps) if isinstance(timesteps, LossSecondMoment) else objective


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
        network=network,
        chain=config.chain,
        prediction=config.prediction,
        variance=config.variance,
        class_names=data.class_names,
    )
