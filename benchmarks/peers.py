"""Networks of other packages, built to the size of ours where they allow it, and guidance in the plain way."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
import torch.nn.functional as F
from networks import Size, classifier, randomised, unet
from torch import Tensor, nn

from guided_diffusion.models.blocks import ResidualBlock, SelfAttention


def diffusers_unet(size: Size, *, out_channels: int = 6) -> nn.Module:
    """diffusers' U-Net with our widths, depths, attention and modulation; it takes (x_t, t, y) and returns a record.

    Raises:
        ImportError: no diffusers.
    """
    from diffusers import UNet2DModel

    network = size.network
    sides = [network.image_size >> level for level in range(len(network.channel_mult))]
    attends = [side in network.attention_sizes for side in sides]
    torch.manual_seed(0)
    model = UNet2DModel(
        sample_size=network.image_size,
        in_channels=3,
        out_channels=out_channels,
        layers_per_block=network.blocks_per_level,
        block_out_channels=network.level_channels,
        down_block_types=tuple("AttnDownBlock2D" if one else "ResnetDownsampleBlock2D" for one in attends),
        up_block_types=tuple("AttnUpBlock2D" if one else "ResnetUpsampleBlock2D" for one in reversed(attends)),
        attention_head_dim=network.head_channels or network.level_channels[-1] // (network.heads or 1),
        resnet_time_scale_shift="scale_shift",
        downsample_type="resnet",
        upsample_type="resnet",
        norm_eps=1e-5,
        dropout=network.dropout,
        num_class_embeds=size.classes if size.is_conditional else None,
    )
    return randomised(model)


def ddpm_unet(size: Size) -> nn.Module:
    """denoising-diffusion-pytorch's U-Net of about our size, with its own defaults.

    Raises:
        ImportError: no denoising-diffusion-pytorch.
    """
    from denoising_diffusion_pytorch import Unet

    torch.manual_seed(0)
    return Unet(dim=size.network.base_channels, dim_mults=(1, 2, 4, 8), out_dim=6, flash_attn=True)


def plain_attention(layers: SelfAttention, x: Tensor) -> Tensor:
    """Self-attention by an explicit softmax, computed again in the backward pass, with the layers of ours."""
    return _Recomputed.apply(partial(_attended, layers), 1, x, *layers.parameters())


def _attended(layers: SelfAttention, x: Tensor) -> Tensor:
    batch, channels, height, width = x.shape
    tokens = x.reshape(batch, channels, height * width)
    grouped = F.group_norm(tokens, layers.norm.num_groups, layers.norm.weight, layers.norm.bias, layers.norm.eps)
    qkv = F.conv1d(grouped, layers.to_qkv.weight[..., 0], layers.to_qkv.bias)
    q, k, v = qkv.reshape(batch, 3, layers.heads, channels // layers.heads, height * width).unbind(dim=1)
    scale = (channels // layers.heads) ** -0.25
    weights = torch.softmax(torch.einsum("bhdq,bhdk->bhqk", q * scale, k * scale).float(), dim=-1).to(v.dtype)
    h = torch.einsum("bhqk,bhdk->bhdq", weights, v).reshape(batch, channels, height * width)
    return (tokens + F.conv1d(h, layers.proj.weight[..., 0], layers.proj.bias)).reshape(x.shape)


def plain_residual(layers: ResidualBlock, x: Tensor, e: Tensor) -> Tensor:
    """A residual block, one operation after the other, with the layers of ours."""
    h = layers.conv_in(layers.resample(F.silu(layers.norm_in(x))))
    scale, shift = layers.embedding(F.silu(e))[:, :, None, None].chunk(2, dim=1)
    h = layers.norm_out(h) * (1 + scale) + shift
    return layers.skip(layers.resample(x)) + layers.conv_out(layers.dropout(F.silu(h)))


class _Recomputed(torch.autograd.Function):
    """A function that keeps its inputs alone, and whose backward pass asks for the gradients of its parameters too."""

    @staticmethod
    def forward(ctx, function: Callable[..., Tensor], inputs: int, *tensors: Tensor) -> Tensor:
        ctx.function, ctx.inputs = function, inputs
        ctx.save_for_backward(*tensors)
        return function(*tensors[:inputs])

    @staticmethod
    def backward(ctx, *gradients: Tensor):
        arguments = [tensor.detach().requires_grad_() for tensor in ctx.saved_tensors[: ctx.inputs]]
        parameters = ctx.saved_tensors[ctx.inputs :]
        with torch.enable_grad():
            output = ctx.function(*arguments)
        return None, None, *torch.autograd.grad(output, [*arguments, *parameters], gradients, allow_unused=True)


def plain(network: nn.Module, device: torch.device) -> nn.Module:
    """A network as it is built, without fused operations: NCHW, float32, its parameters with gradients."""
    for module in network.modules():
        if isinstance(module, SelfAttention):
            module.forward = partial(plain_attention, module)
        elif isinstance(module, ResidualBlock):
            module.forward = partial(plain_residual, module)
    return network.to(device).eval()


class PlainGuidance:
    """A guided DDIM step in the plain way: a forward pass, then a classifier's gradient, with no care for speed."""

    def __init__(self, size: Size, device: torch.device) -> None:
        self.size, self.device = size, device
        self.network, self.classifier = plain(unet(size), device), plain(classifier(size), device)
        self.labels = size.is_conditional

    def step(self, x: Tensor, t: Tensor, y: Tensor, alpha_bar: float, alpha_bar_prev: float) -> Tensor:
        """x_s of x_t, by eps - sqrt(1 - alpha_bar) * gradient (ADM Algorithm 2)."""
        with torch.no_grad():
            eps = (self.network(x, t, y) if self.labels else self.network(x, t))[:, :3]
        with torch.enable_grad():
            x_in = x.detach().requires_grad_(True)
            chosen = F.log_softmax(self.classifier(x_in, t), dim=-1)[range(len(y)), y]
            (gradient,) = torch.autograd.grad(chosen.sum(), x_in)
        x0 = ((x - (1 - alpha_bar) ** 0.5 * eps) / alpha_bar**0.5).clamp(-1, 1)
        eps = (x - alpha_bar**0.5 * x0) / (1 - alpha_bar) ** 0.5 - (1 - alpha_bar) ** 0.5 * gradient
        x0 = (x - (1 - alpha_bar) ** 0.5 * eps) / alpha_bar**0.5
        return alpha_bar_prev**0.5 * x0 + (1 - alpha_bar_prev) ** 0.5 * eps

    def sample(self, x: Tensor, y: Tensor, levels: list[tuple[float, float]]) -> Tensor:
        """uint8 images after the levels (timestep, alpha_bar), noisiest first."""
        for index, (t, alpha_bar) in enumerate(levels):
            previous = levels[index + 1][1] if index + 1 < len(levels) else 1.0
            x = self.step(x, torch.full((len(x),), t, device=self.device), y, alpha_bar, previous)
        return ((x + 1) * 127.5).clamp(0, 255).to(torch.uint8)


def plain_iteration(
    network: nn.Module, size: Size, batch: int, *, precision: AbstractContextManager[object] | None = None
) -> Callable[[], None]:
    """An iteration of training as most code writes it: loss, gradients, torch's AdamW.

    precision: of the forward pass, a context that can be entered again.
    """
    device = next(network.parameters()).device
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-6)

    def iteration() -> None:
        with precision or nullcontext():
            loss = simple_loss(network, size, batch, device=device)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return iteration


def simple_loss(network: nn.Module, size: Size, batch: int, *, device: torch.device | str) -> Tensor:
    """L_simple of a network's first three channels, on fresh noise."""
    x0, t, y = size.inputs(batch, device)
    eps = torch.randn_like(x0)
    alpha_bar = torch.linspace(0.99, 0.01, batch, device=device).reshape(-1, 1, 1, 1)
    x_t = alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * eps
    output = network(x_t, t, *((y,) if size.is_conditional else ()))
    return F.mse_loss((output if isinstance(output, Tensor) else output.sample)[:, :3].float(), eps)
