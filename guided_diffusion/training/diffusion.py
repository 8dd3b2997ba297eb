"""Training a diffusion model: its config, its objective, its previews."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from ..chain import DiffusionChain, q_sample
from ..config import to_plain
from ..data.batches import Batch, EndlessBatches
from ..data.folder import ClassFolder, DataConfig, open_class_folder
from ..data.pictures import write_png
from ..images import grid, to_uint8
from ..losses import hybrid_loss, simple_loss, uniform_indices, vlb_loss
from ..model import DiffusionConfig
from ..models.unet import EncoderConfig, UNet, UNetConfig
from ..noise import SeededNoise
from ..prediction import Prediction, Variance, has_learned_variance
from ..sampling import ddim
from ..schedules import ChainConfig, make_chain
from .loop import Identity, Losses, Objective, Observe, fit
from .loop_config import LoopConfig

PREVIEW_BATCH = 16
"""Preview images at a time: fewer than a training batch on one GPU, beside whose memory they must fit."""


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
    class_conditional: bool = False
    """Tell the network the class. A classifier guides an unconditional network as well."""
    resume: Literal["auto"] | None = None
    """auto: continue from the newest checkpoint in `out` if there is one."""

    def __post_init__(self) -> None:
        learned = has_learned_variance(self.variance)
        if learned == (self.loss == "simple"):
            wanted = 'loss "hybrid" or "vlb"' if learned else 'loss "simple" or "vlb"'
            if self.loss != "vlb":
                raise ValueError(f'variance "{self.variance}" cannot be trained with loss "{self.loss}"; take {wanted}')


@dataclass(frozen=True)
class DiffusionObjective:
    """A loss of (improved) DDPM at a uniformly drawn index of the chain for each sample."""

    chain: DiffusionChain
    config: DiffusionConfig
    loss: Literal["simple", "hybrid", "vlb"]

    def __call__(self, network: Callable[..., Tensor], batch: Batch, noise: SeededNoise) -> Losses:
        """The mean loss of batch; logged as "mse" is the mean squared error of the prediction."""
        x0 = batch.x0
        step = self.chain.at(uniform_indices(noise.uniform(), len(self.chain)), like=x0)
        eps = noise(x0)
        x_t = q_sample(x0, eps, step)
        output = network(x_t, step.t, batch.y) if self.config.is_conditional else network(x_t, step.t)
        prediction, variance, num_steps = self.config.prediction, self.config.variance, len(self.chain)
        mse = simple_loss(output, x0, eps, x_t, step, prediction=prediction, variance=variance)
        loss = mse
        if self.loss == "vlb":
            loss = vlb_loss(output, x0, x_t, step, prediction=prediction, variance=variance, num_steps=num_steps)
        elif self.loss == "hybrid":
            loss = hybrid_loss(
                output, x0, eps, x_t, step, prediction=prediction, variance=variance, num_steps=num_steps
            )
        return Losses(total=loss.mean(), logged={"mse": mse.mean()})


def train_diffusion(config: TrainDiffusionConfig) -> None:
    """Train as configured; see `fit` for how it ends.

    Raises:
        ValueError, FileNotFoundError: as the data, the network and `fit` raise them, before anything is written.
    """
    folder = training_folder(config)
    model = diffusion_config(config, folder)
    train_as(
        config,
        folder,
        Identity("diffusion", to_plain(model), to_plain(config)),
        make_network=partial(UNet, model.network),
        objective=DiffusionObjective(make_chain(config.chain), model, config.loss),
        observe=partial(_preview, model=model, directory=config.out / "previews"),
    )


def training_folder(config: TrainDiffusionConfig) -> ClassFolder:
    """The images that a config trains on.

    Raises:
        ValueError, FileNotFoundError: as `open_class_folder`.
    """
    return open_class_folder(config.data, image_size=config.network.image_size, seed=config.training.seed)


def train_as(
    config: TrainDiffusionConfig,
    folder: ClassFolder,
    identity: Identity,
    *,
    make_network: Callable[[], nn.Module],
    objective: Objective,
    observe: Observe,
) -> None:
    """Train a fresh network, its weights drawn from the config's seed, as diffusion models and upsamplers both are."""
    torch.manual_seed(config.training.seed)
    fit(
        make_network(),
        objective,
        EndlessBatches(
            folder,
            batch_size=config.training.batch_size,
            seed=config.training.seed,
            num_workers=config.data.num_workers,
        ),
        config.training,
        config.out,
        identity=identity,
        observe=observe,
        resume=config.resume == "auto",
    )


def diffusion_config(config: TrainDiffusionConfig, folder: ClassFolder) -> DiffusionConfig:
    """The model that a training config and its data describe."""
    channels = folder.channels
    network = UNetConfig(
        **vars(config.network),
        in_channels=channels,
        out_channels=channels * (1 + has_learned_variance(config.variance)),
        num_classes=len(folder.class_names) if config.class_conditional else None,
    )
    return DiffusionConfig(
        network=network,
        chain=config.chain,
        prediction=config.prediction,
        variance=config.variance,
        class_names=folder.class_names,
    )


def _preview(
    network: nn.Module, iteration: int, *, model: DiffusionConfig, directory: Path, count: int = 64
) -> Mapping[str, float]:
    """Write a grid of samples, cycling through the classes where the network is told them."""
    device = next(network.parameters()).device
    y = torch.arange(count, device=device) % (model.network.num_classes or 1)
    chunks = range(0, count, PREVIEW_BATCH)
    images = [preview_samples(network, model, y[start : start + PREVIEW_BATCH], first=start) for start in chunks]
    write_png(directory / f"{iteration:07d}.png", grid(torch.cat(images), columns=8))
    return {}


@torch.no_grad()
def preview_samples(network: Callable[..., Tensor], model: DiffusionConfig, y: Tensor, *, first: int = 0) -> Tensor:
    """uint8 (B, C, H, W): DDIM samples in 25 steps or so for labels y (B,), from seeds that never change.

    first: number of the first of them, which its seed follows from.
    """
    chain = make_chain(model.chain)
    chain = chain.shortened(torch.arange(0, len(chain), max(1, len(chain) // 25)))
    noise = SeededNoise(0, range(first, first + len(y)))
    x_T = noise(torch.empty(len(y), *model.image_shape, device=y.device))
    return to_uint8(ddim(model.denoiser(network, y, clip=1.0), chain, x_T, noise))
