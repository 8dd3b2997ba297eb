"""DINOv2 ViT-L/14 as Stein et al. 2023 use it (FD-DINOv2; their code is layer6ai-labs/dgm-eval).

Pictures are resized to 224 x 224 by Pillow's bicubic filter, antialiased and rounded to uint8, whatever their shape,
and normalised by ImageNet's mean and standard deviation. The feature is the class token after the last layer norm
(1024 numbers, not normalised). The network is Meta's without registers (Oquab et al. 2023), its layers timm's, with the
same parameter names. timm, an optional package, is imported when a network is built.
"""

import math
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .features import Features, PublishedExtractor, on_device
from .weights import PublishedWeights, find_weights, load_weights

WEIGHTS = PublishedWeights(
    name="dinov2-vitl14",
    network="DINOv2 ViT-L/14",
    number="FD-DINOv2",
    suffix="DINOv2",
    url="https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth",
    # Meta publishes no hash of it; this is the one that independent copies and records of that address agree on.
    sha256="d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428",
    mebibytes=1161,
    variable="GUIDED_DIFFUSION_DINOV2_WEIGHTS",
)

_INPUT_SIZE = 224
_RESIZE = f"bicubic to {_INPUT_SIZE}x{_INPUT_SIZE}, antialiased and rounded to uint8, as Pillow does it"
_PATCH_SIZE = 14
_MEAN = (0.485, 0.456, 0.406)
_DEVIATION = (0.229, 0.224, 0.225)


def dinov2_features(network: nn.Module, images: Tensor, device: torch.device) -> Features:
    """Pooled features of images (N, 1 or 3, H, W) uint8."""
    resized = on_device(resized_by_pillow(images.expand(-1, 3, -1, -1), size=_INPUT_SIZE), device)
    mean, deviation = (_by_channel(each, device) for each in (_MEAN, _DEVIATION))
    return Features(network((resized.float() / 255 - mean) / deviation))


@lru_cache
def _by_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    """(3, 1, 1). Cached, since the host waits for the device to copy it there."""
    return torch.tensor(values, device=device).view(3, 1, 1)


def load_dinov2(weights: Path | None = None, *, device: torch.device | str = "cpu") -> PublishedExtractor:
    """The extractor in float32 on `device`; weights: Meta's dinov2_vitl14_pretrain.pth, see `find_weights`."""
    path = find_weights(WEIGHTS, weights)
    network = vision_transformer()
    sha256 = load_weights(network, path, WEIGHTS, convert=for_224_pixels)
    network = network.eval().requires_grad_(False).to(device)
    return PublishedExtractor(network, sha256, WEIGHTS, _RESIZE, dinov2_features)


def vision_transformer(*, width: int = 1024, depth: int = 24, heads: int = 16) -> nn.Module:
    """Normalised images (N, 3, 224, 224) to class tokens (N, width); the defaults are ViT-L. On the meta device."""
    try:
        from timm.models.vision_transformer import VisionTransformer
    except ImportError as error:
        raise ImportError("the DINOv2 extractor needs timm: pip install timm") from error
    with torch.device("meta"):  # 300 million numbers that the file replaces would take seconds to draw
        # init_values: there are layer scales; the file holds them.
        return VisionTransformer(
            _INPUT_SIZE, _PATCH_SIZE, embed_dim=width, depth=depth, num_heads=heads, init_values=1.0, num_classes=0
        )


def resized_by_pillow(images_uint8: Tensor, *, size: int) -> Tensor:
    """Images (N, 3, H, W) uint8 as (N, 3, size, size) uint8, on the CPU, by Pillow's bicubic filter."""
    from PIL import Image  # here, so that choosing an extractor does not import it

    resized = [
        np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC))
        for image in rearrange(images_uint8.cpu(), "n c h w -> n h w c").contiguous().numpy()
    ]
    return rearrange(torch.from_numpy(np.stack(resized)), "n h w c -> n c h w")


def resized_positions(pos_embed: Tensor, *, side: int) -> Tensor:
    """Embeddings (1, 1 + M * M, D) of the class token and M x M patches for side x side patches, bicubically.

    As Meta's network does it, without antialiasing and by the factor (side + 0.1) / M instead of side / M. Meta added
    the tenth to keep the number of patches from being rounded down, and the published features have it.
    """
    class_token, patches = pos_embed[:, :1], pos_embed[:, 1:]
    given = math.isqrt(patches.shape[1])
    grid = rearrange(patches, "1 (y x) d -> 1 d y x", y=given, x=given)
    factor = (side + 0.1) / given
    grid = F.interpolate(grid, scale_factor=(factor, factor), mode="bicubic")
    return torch.cat([class_token, rearrange(grid, "1 d y x -> 1 (y x) d")], dim=1)


def for_224_pixels(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Meta's weights, made for 518 pixels, without the token that stood for masked patches in training."""
    positions = resized_positions(weights["pos_embed"].float(), side=_INPUT_SIZE // _PATCH_SIZE)
    return {name: weight for name, weight in weights.items() if name != "mask_token"} | {"pos_embed": positions}
