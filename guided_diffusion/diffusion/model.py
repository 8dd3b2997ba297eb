"""Diffusion models and upsamplers as a whole: network, chain, prediction, and names of classes.

An upsampler is a diffusion model whose network sees a low-resolution image as well.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..checkpoint import Checkpoint, load_weights, open_checkpoint
from ..config import from_plain
from ..data.labels import class_name
from ..files import file_sha256
from ..models.memory_format import lay_out, memory_format_of
from ..models.unet import UNet, UNetConfig
from ..models.upsampler import Upsampler, UpsamplerConfig
from .denoiser import Clip, Network, NetworkDenoiser, Prediction, Variance, has_learned_variance
from .schedules import ChainConfig, make_chain

CONTINUOUS_TIME: Mapping[str, tuple[str, ...]] = {
    "variance": ("small", "large"),
    "prediction": ("eps", "x0", "v"),
    "loss": ("simple",),
    "timesteps": ("uniform",),
}
"""Options that fit a chain in continuous time, where no link has a neighbour to learn a variance or a mean of."""

C = TypeVar("C")
N = TypeVar("N", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class DiffusionConfig:
    """A diffusion model apart from its weights: the "model" of its checkpoint's config.json."""

    network: UNetConfig
    """The U-Net."""
    chain: ChainConfig
    """The chain that it was trained on."""
    prediction: Prediction = "eps"
    """Quantity that its first C output channels estimate."""
    variance: Variance = "learned_range"
    """Source of the variance of a step."""
    class_names: tuple[str, ...] = ()
    """Names of the classes in its training data, in label order, also where it is not conditioned on them."""
    unseen_classes: tuple[int, ...] = ()
    """Labels of the classes that have no images in its training data."""

    def __post_init__(self) -> None:
        check_continuous_time(self.chain, prediction=self.prediction, variance=self.variance)
        wanted = self.network.in_channels * (1 + has_learned_variance(self.variance))
        if self.network.out_channels != wanted:
            raise ValueError(
                f"network.out_channels is {self.network.out_channels}; images of {self.network.in_channels} channels "
                f'with variance "{self.variance}" need {wanted}'
            )
        check_class_names(self.class_names, self.network.num_classes)
        if self.prediction == "eps" and float(make_chain(self.chain).alpha_bar[-1]) == 0:
            raise ValueError(
                f"a {self.chain.schedule} chain of {self.chain.num_steps} steps ends without any signal, where eps "
                f'says nothing of x_0; take more steps, or prediction "x0" or "v"'
            )

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the images it was trained on."""
        return self.network.in_channels, self.network.image_size, self.network.image_size

    @property
    def is_conditional(self) -> bool:
        """True where the network is conditioned on the class."""
        return self.network.num_classes is not None

    @property
    def null_label(self) -> int | None:
        """The label of the null class; None where the network has none."""
        return self.network.num_classes if self.network.null_class else None

    def denoiser(self, network: Callable[..., Tensor], y: Tensor | None, *, clip: Clip) -> NetworkDenoiser:
        """`network` as a denoiser, with labels y (B,) bound where it is conditional."""
        bound: Network = partial(network, y=y) if self.is_conditional else network
        trained_on = make_chain(self.chain) if self.prediction == "mean" else None
        return NetworkDenoiser(bound, self.prediction, self.variance, clip, trained_on)


@dataclass(frozen=True, kw_only=True)
class UpsamplerModelConfig(DiffusionConfig):
    """An upsampler apart from its weights: the "model" of its checkpoint's config.json."""

    network: UpsamplerConfig
    """The U-Net, and the size of the images it enlarges."""

    @property
    def low_res_shape(self) -> tuple[int, int, int]:
        """(C, h, w) of the images that it enlarges."""
        return self.network.in_channels, self.network.low_res_size, self.network.low_res_size


@dataclass(frozen=True)
class DiffusionModel:
    """A diffusion model ready for use: in evaluation mode, its parameters frozen."""

    config: DiffusionConfig
    network: nn.Module
    """A `UNet`, or one in an `EvaluatedNetwork`."""
    checkpoint: Checkpoint
    weights: str
    """Name of these weights in the checkpoint: "network", "ema_0.9999", .."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the images it was trained on."""
        return self.config.image_shape

    @property
    def device(self) -> torch.device:
        """The device of the network's parameters."""
        return next(self.network.parameters()).device

    def denoiser(self, y: Tensor | None, *, clip: Clip = 1.0) -> NetworkDenoiser:
        """The network as a Denoiser, with labels y (B,) bound where it is conditional; otherwise y is not used."""
        return self.config.denoiser(self.network, y, clip=clip)


@dataclass(frozen=True)
class UpsamplerModel:
    """An upsampler ready for use: in evaluation mode, its parameters frozen."""

    config: UpsamplerModelConfig
    network: nn.Module
    """An `Upsampler`, or one in an `EvaluatedNetwork`."""
    checkpoint: Checkpoint
    weights: str
    """Name of these weights in the checkpoint: "network", "ema_0.9999", .."""

    def denoiser(
        self, y: Tensor | None, *, low_res: Tensor, conditioning_noise: float = 0.0, clip: Clip = 1.0
    ) -> NetworkDenoiser:
        """The network as a Denoiser of enlargements of low_res (B, C, h, w) in [-1, 1], with labels y if conditional.

        conditioning_noise: the noise rate that low_res already has.

        Raises:
            ValueError: a noise rate that it was not trained on.
        """
        check_conditioning_noise(self.config, conditioning_noise, called=str(self.checkpoint.path))
        network = partial(self.network, low_res=low_res)
        if self.config.network.conditioning_noise is not None:
            network = partial(network, conditioning_noise=low_res.new_full((len(low_res),), conditioning_noise))
        return self.config.denoiser(network, y, clip=clip)


def check_continuous_time(chain: ChainConfig, **chosen: str) -> None:
    """Refuse what a chain in continuous time cannot have; chosen: of the options in `CONTINUOUS_TIME`.

    Raises:
        ValueError: such a choice, naming it and what there is in its place.
    """
    wrong = [name for name, value in chosen.items() if value not in CONTINUOUS_TIME[name]]
    if chain.is_continuous and wrong:
        allowed = ", ".join(f"{name} " + " or ".join(f'"{value}"' for value in CONTINUOUS_TIME[name]) for name in wrong)
        given = ", ".join(f'{name} "{chosen[name]}"' for name in wrong)
        raise ValueError(
            f"the {chain.schedule} schedule is continuous in time: it has no numbered links, whose variance could be "
            f"learned or likelihood bounded. Take {allowed}; got {given}"
        )


def check_class_names(names: Sequence[str], num_classes: int | None) -> None:
    """Refuse names of another number of classes than a network has; none, or an unconditional network, pass.

    Raises:
        ValueError: naming both numbers.
    """
    if names and num_classes not in (None, len(names)):
        raise ValueError(f"class_names has {len(names)} names, but network.num_classes is {num_classes}")


def check_conditioning_noise(config: UpsamplerModelConfig, rate: float, *, called: str) -> None:
    """Refuse a noise rate of low-resolution images that an upsampler was not trained on; called: its name in messages.

    Raises:
        ValueError: a rate outside [0, the largest in training].
    """
    largest = config.network.conditioning_noise or 0.0
    if not 0 <= rate <= largest:
        known = f"on rates from 0 to {largest:g}" if largest else "on clean low-resolution images alone, rate 0"
        raise ValueError(f"conditioning_noise {rate:g} was asked for, but {called} was trained {known}")


def load_diffusion(path: Path, *, weights: str | None = None, device: torch.device | str = "cpu") -> DiffusionModel:
    """The diffusion model of a checkpoint or run directory, with the named weights or the slowest average.

    Raises:
        FileNotFoundError: no checkpoint there.
        ValueError: a checkpoint of another kind, or weights that are missing or do not fit.
    """
    return DiffusionModel(*load_network(path, "diffusion", DiffusionConfig, UNet, weights=weights, device=device))


def load_upsampler(path: Path, *, weights: str | None = None, device: torch.device | str = "cpu") -> UpsamplerModel:
    """The upsampler of a checkpoint or run directory; arguments and errors are those of `load_diffusion`."""
    loaded = load_network(path, "upsampler", UpsamplerModelConfig, Upsampler, weights=weights, device=device)
    return UpsamplerModel(*loaded)


class _Undrawn(TorchFunctionMode):
    """Networks without initial values, since a file's replace them. To draw these on the meta device, torch imports its
    compiler, which takes a second and a half."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # torch's own form
        if func is nn.init.normal_:
            return kwargs["tensor"]
        if func is torch.randn:  # for values that are computed with; those on a CPU are replaced as well
            return torch.zeros(*args, device="cpu")
        return func(*args, **(kwargs or {}))


@torch.inference_mode(False)  # of a caller, whose tensors could not take part in a gradient
def load_network(
    path: Path,
    kind: str,
    config_class: type[C],
    network_class: Callable[[Any], N],  # of the `network` of its config class
    *,
    weights: str | None,
    device: torch.device | str,
) -> tuple[C, N, Checkpoint, str]:
    """Config, frozen network, checkpoint and name of the weights of a checkpoint or run directory of a kind."""
    checkpoint = open_checkpoint(path, kind)
    source, file = str(checkpoint.path / "config.json"), checkpoint.weights_file(weights)
    config = from_plain(config_class, checkpoint.model, source=source)
    parameters, size = cast(Any, config).network.least_parameters, file.stat().st_size
    if parameters > size:  # before building, which would take time and memory for each of its layers
        raise ValueError(
            f"{source} describes a network of {parameters:.3g} parameters or more, but {file} has {size} bytes"
        )
    try:
        with torch.device("meta"), _Undrawn():
            network = network_class(cast(Any, config).network)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"{source} describes a network that cannot be built: {error}") from None
    load_weights(network, checkpoint, weights)
    network.eval().requires_grad_(False).to(device)
    lay_out(network, memory_format_of(torch.device(device), cast(Any, config).network.image_size))
    return config, network, checkpoint, file.stem


def weights_record(model: DiffusionModel | UpsamplerModel) -> dict[str, Any]:
    """The weights of a model, as manifests record them."""
    sha256 = file_sha256(model.checkpoint.weights_file(model.weights))
    return {"name": model.checkpoint.name, "weights": model.weights, "sha256": sha256} | model.checkpoint.origin


def chain_difference(model: ChainConfig, other: ChainConfig, *, other_called: str = "the classifier") -> str | None:
    """The differences of the chain that a network was trained on from a model's, in words; None without any."""
    different = [
        field.name for field in fields(ChainConfig) if getattr(model, field.name) != getattr(other, field.name)
    ]
    named = [
        f"chain.{name} is {getattr(model, name)} to the diffusion model, but {getattr(other, name)} to {other_called}"
        for name in different
    ]
    return f"{', and '.join(named)}, so they mean different noise by a timestep" if named else None


def class_difference(
    model: Sequence[str],
    other: Sequence[str],
    *,
    model_called: str = "the diffusion model",
    other_called: str = "the classifier",
) -> str | None:
    """The first difference of the classes of a classifier from those of a model's data, in words; None without any.

    A model without class names, such as an imported unconditional one, takes any other's.
    """
    if not model:
        return None
    for label, (ours, theirs) in enumerate(zip(model, other, strict=False)):
        if class_name(ours) != class_name(theirs):
            return f'label {label} is "{theirs}" to {other_called}, but "{ours}" to {model_called}'
    if len(model) != len(other):
        return f"{other_called} knows {len(other)} classes, {model_called}'s data had {len(model)}"
    return None
