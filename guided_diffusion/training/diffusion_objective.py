"""Training a diffusion model: its config and its objective."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from ..data.batches import Batch, EndlessBatches
from ..data.config import DataConfig
from ..data.image_set import ImageSet, open_training_set
from ..diffusion.chain import Step, broadcast_like, q_sample
from ..diffusion.denoiser import Prediction, Variance, has_learned_variance
from ..diffusion.losses import hybrid_loss, min_snr_weight, simple_loss, vlb_loss
from ..diffusion.model import DiffusionConfig, check_continuous_time
from ..diffusion.noise import SeededNoise
from ..diffusion.schedules import ChainConfig, make_chain, training_chain
from ..diffusion.timesteps import LossSecondMoment, TimestepSampler, UniformTimesteps
from ..models.unet import EncoderConfig, UNet, UNetConfig
from .config import LoopConfig
from .dry_run import rehearse
from .loop import fit
from .objective import Losses, Objective, Observe
from .previews import PreviewConfig, diffusion_previews, preview_classifier
from .resume import Identity, check_run_directory


@dataclass(frozen=True, kw_only=True)
class TrainDiffusionConfig:
    """Train a diffusion model on a folder of images."""

    out: Path
    """Run directory: checkpoints, metrics.jsonl, previews."""
    data: DataConfig
    """The images; they decide channels and classes."""
    network: EncoderConfig
    """The U-Net."""
    training: LoopConfig
    """Budget, optimiser, averages, checkpoints."""
    chain: ChainConfig = ChainConfig()
    """The noise levels."""
    prediction: Prediction = "eps"
    """What the network estimates."""
    variance: Variance = "learned_range"
    """Where the variance of a step comes from."""
    loss: Literal["simple", "hybrid", "vlb"] = "hybrid"
    """L_simple (DDPM), L_hybrid (improved DDPM and ADM; needs a learned variance) or L_vlb."""
    timesteps: Literal["uniform", "loss_second_moment"] = "uniform"
    """Timesteps drawn all alike, or in proportion to the root mean square of their last losses, which makes L_vlb less
    noisy (improved DDPM section 3.3)."""
    min_snr_gamma: float | None = None
    """Weigh L_simple so that squared errors of x_0 count min(SNR, gamma) times (2303.09556; gamma 5 there); null: as
    the prediction has it."""
    class_conditional: bool = False
    """Tell the network the class. A classifier guides an unconditional network as well."""
    label_dropout: float = 0.0
    """Share of samples, 0..1, whose class is not told, so that the network can guide itself without a classifier
    (2207.12598; 0.1 or 0.2 there); needs class_conditional."""
    preview: PreviewConfig = PreviewConfig()
    """Samples made as training goes, every training.observe_every_iterations."""
    resume: Literal["auto"] | None = None
    """auto: continue from the newest checkpoint in `out` if there is one."""
    dry_run: bool = False
    """Measure speed and memory, tell what the training would cost, and write nothing."""

    def __post_init__(self) -> None:
        check_continuous_time(
            self.chain,
            variance=self.variance,
            prediction=self.prediction,
            loss=self.loss,
            timesteps=self.timesteps,
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
    loss: Literal["simple", "hybrid", "vlb"]
    min_snr_gamma: float | None = None
    """None: L_simple is not weighed."""
    label_dropout: float = 0.0
    """Share of the samples that are told the null class."""

    def __call__(self, network: Callable[..., Tensor], batch: Batch, noise: SeededNoise) -> Losses:
        """The mean loss of batch; logged as "mse" is the mean squared error of the prediction.

        Both means are over uniform timesteps, however they are drawn. Observed are each sample's "loss" and, where the
        timesteps are drawn by it, their index "k".
        """
        x0 = batch.x0
        drawn = self.timesteps.drawn(noise.uniform(), like=x0)
        step, eps = drawn.step, noise(x0)
        x_t = q_sample(x0, eps, step)
        output = (
            network(x_t, step.t, self._labels(batch, noise)) if self.config.is_conditional else network(x_t, step.t)
        )
        prediction, variance = self.config.prediction, self.config.variance
        mse = simple_loss(output, x0, eps, x_t, step, prediction=prediction, variance=variance)
        loss = self._loss(mse, output, x0, eps, x_t, step)
        observed = {"loss": loss.detach()} if drawn.k is None else {"loss": loss.detach(), "k": drawn.k}
        return Losses(
            total=(drawn.weight * loss).mean(), logged={"mse": (drawn.weight * mse).mean()}, observed=observed
        )

    def _labels(self, batch: Batch, noise: SeededNoise) -> Tensor:
        if self.label_dropout == 0:  # draws nothing, so that such a run sees the noise that it always saw
            return batch.y
        assert self.config.null_label is not None
        is_dropped = broadcast_like(noise.uniform() < self.label_dropout, batch.y)
        return torch.where(is_dropped, self.config.null_label, batch.y)

    def _loss(self, mse: Tensor, output: Tensor, x0: Tensor, eps: Tensor, x_t: Tensor, step: Step) -> Tensor:
        prediction, variance, num_steps = self.config.prediction, self.config.variance, self.config.chain.num_steps
        weight = self._simple_weight(step, x0)
        if self.loss == "simple":
            return weight * mse
        if self.loss == "vlb":
            return vlb_loss(output, x0, x_t, step, prediction=prediction, variance=variance, num_steps=num_steps)
        return hybrid_loss(
            output,
            x0,
            eps,
            x_t,
            step,
            prediction=prediction,
            variance=variance,
            num_steps=num_steps,
            simple_weight=weight,
        )

    def _simple_weight(self, step: Step, x0: Tensor) -> Tensor | float:
        if self.min_snr_gamma is None:
            return 1.0
        return min_snr_weight(step, prediction=self.config.prediction, gamma=self.min_snr_gamma).to(x0.dtype)


@dataclass(frozen=True)
class AdaptiveObjective:
    """An objective whose timesteps are drawn by the losses that it has had: what the loop knows as `Adaptive`."""

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
        """The history of losses, all that there is to remember."""
        return {"history": self.timesteps.history}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from such a history."""
        self.timesteps.history.copy_(state["history"])


def diffusion_objective(config: TrainDiffusionConfig, model: DiffusionConfig) -> DiffusionObjective:
    """The objective that a training config describes."""
    timesteps: TimestepSampler = UniformTimesteps(training_chain(config.chain))
    if config.timesteps == "loss_second_moment":
        timesteps = LossSecondMoment(make_chain(config.chain))
    return DiffusionObjective(
        timesteps, model, config.loss, min_snr_gamma=config.min_snr_gamma, label_dropout=config.label_dropout
    )


def with_memory(objective: Objective, timesteps: TimestepSampler) -> Objective:
    """The objective, such that the loop tells `timesteps`, by which it draws, of the losses if they learn from them."""
    return AdaptiveObjective(objective, timesteps) if isinstance(timesteps, LossSecondMoment) else objective


def train_diffusion(config: TrainDiffusionConfig) -> None:
    """Train as configured; see `fit` for how it ends.

    Raises:
        ValueError, FileNotFoundError: as the data, the network and `fit` raise them, before anything is written.
    """
    check_run_directory(config.out, resume=config.resume == "auto")
    folder = training_folder(config)
    model = diffusion_config(config, folder)
    objective = diffusion_objective(config, model)
    train_as(
        config,
        folder,
        Identity("diffusion", model, config),
        make_network=partial(UNet, model.network),
        objective=with_memory(objective, objective.timesteps),
        observe=diffusion_previews(
            config.preview,
            model,
            folder,
            classifier_on=preview_classifier(config.preview, model, run=config.out),
            decay=max(config.training.ema_decays, default=None),
            out=config.out / "previews",
        ),
    )


def training_folder(config: TrainDiffusionConfig) -> ImageSet:
    """The images that a config trains on.

    Raises:
        ValueError, FileNotFoundError: as `open_training_set`.
    """
    return open_training_set(config.data, image_size=config.network.image_size)


def train_as(
    config: TrainDiffusionConfig,
    folder: ImageSet,
    identity: Identity,
    *,
    make_network: Callable[[], nn.Module],
    objective: Objective,
    observe: Observe | None,
) -> None:
    """Train a fresh network, its weights drawn from the config's seed, as diffusion models and upsamplers both are."""
    torch.manual_seed(config.training.seed)
    (rehearse if config.dry_run else fit)(
        make_network(),
        objective,
        EndlessBatches(
            folder,
            batch_size=config.training.batch.size,
            seed=config.training.seed,
            num_workers=config.data.num_workers,
        ),
        config.training,
        config.out,
        identity=identity,
        observe=observe,
        resume=config.resume == "auto",
    )


def diffusion_config(config: TrainDiffusionConfig, folder: ImageSet) -> DiffusionConfig:
    """The model that a training config and its data describe."""
    channels = folder.channels
    network = UNetConfig(
        **vars(config.network),
        in_channels=channels,
        out_channels=channels * (1 + has_learned_variance(config.variance)),
        num_classes=len(folder.class_names) if config.class_conditional else None,
        null_class=config.label_dropout > 0,
    )
    return DiffusionConfig(
        network=network,
        chain=config.chain,
        prediction=config.prediction,
        variance=config.variance,
        class_names=folder.class_names,
    )
