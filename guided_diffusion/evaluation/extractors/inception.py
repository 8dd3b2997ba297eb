"""The 2015 Inception network of FID, with its exact preprocessing: all three kinds of features in one pass.

Layers and weights are torch-fidelity's, which reproduce the TensorFlow graph. The resize, bit for bit torch-fidelity's,
and the forward pass are implemented here. Features differ from torch-fidelity's by less than 1e-6 of their scale, since
batch normalisations are folded into convolutions and memory is channels last; that is 1.5 times as fast
(benchmarks/features.py). torch-fidelity, an optional package, is imported when a network is built.
"""

from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .features import Features, PublishedExtractor, on_device
from .weights import PublishedWeights, find_weights, load_weights

WEIGHTS = PublishedWeights(
    name="inception-2015",
    network="Inception",
    number="FID",
    suffix=None,
    url="https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
    sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    mebibytes=91,
    variable="GUIDED_DIFFUSION_INCEPTION_WEIGHTS",
)

_INPUT_SIZE = 299
_RESIZE = f"bilinear to {_INPUT_SIZE}x{_INPUT_SIZE}, as TensorFlow 1 does it"
_SPATIAL_CHANNELS = 7
_CPU_BLOCK = 8
"""Images of one forward pass on a CPU, which is no faster with more: 8 take 100 MiB, 32 take 320."""


class InceptionNetwork(nn.Module):
    """The Inception network TensorFlow released on 2015-12-05, 1008 classes; parameters named as torch-fidelity's."""

    def __init__(self) -> None:
        super().__init__()
        # Layers in the order of their use, under the names that the weights' file has.
        try:
            from torch_fidelity import feature_extractor_inceptionv3 as blocks
        except ImportError as error:
            raise ImportError("the Inception extractor needs torch-fidelity: pip install torch-fidelity") from error
        layers = {
            "Conv2d_1a_3x3": blocks.BasicConv2d(3, 32, kernel_size=3, stride=2),
            "Conv2d_2a_3x3": blocks.BasicConv2d(32, 32, kernel_size=3),
            "Conv2d_2b_3x3": blocks.BasicConv2d(32, 64, kernel_size=3, padding=1),
            "MaxPool_1": nn.MaxPool2d(kernel_size=3, stride=2),
            "Conv2d_3b_1x1": blocks.BasicConv2d(64, 80, kernel_size=1),
            "Conv2d_4a_3x3": blocks.BasicConv2d(80, 192, kernel_size=3),
            "MaxPool_2": nn.MaxPool2d(kernel_size=3, stride=2),
            "Mixed_5b": blocks.InceptionA(192, pool_features=32),
            "Mixed_5c": blocks.InceptionA(256, pool_features=64),
            "Mixed_5d": blocks.InceptionA(288, pool_features=64),
            "Mixed_6a": blocks.InceptionB(288),
            "Mixed_6b": blocks.InceptionC(768, channels_7x7=128),
            "Mixed_6c": blocks.InceptionC(768, channels_7x7=160),
            "Mixed_6d": blocks.InceptionC(768, channels_7x7=160),
            "Mixed_6e": blocks.InceptionC(768, channels_7x7=192),
            "Mixed_7a": blocks.InceptionD(768),
            "Mixed_7b": blocks.InceptionE_1(1280),
            "Mixed_7c": blocks.InceptionE_2(2048),
            "AvgPool": nn.AdaptiveAvgPool2d(output_size=(1, 1)),
            "fc": nn.Linear(2048, 1008),
        }
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, images_uint8: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pooled (N, 2048), spatial (N, 2023) and probabilities (N, 1008) of images (N, 3, H, W) uint8.

        Spatial is the first 7 channels of mixed_6's 1x1 branch after its activation, 17 x 17, flattened height first
        and channel last as published. Probabilities leave out the classifier's bias, as the published Inception Score
        does.
        """
        h = (resized_like_tensorflow(images_uint8.float(), size=_INPUT_SIZE) - 128) / 128
        spatial = h
        for name, layer in self.named_children():
            if name == "fc":
                break
            h = layer(h)
            if name == "Mixed_6d":  # TensorFlow's mixed_6: its count starts at the first 35x35 block
                spatial = h[:, :_SPATIAL_CHANNELS]  # the 1x1 branch comes first of the block's four
        pooled = torch.flatten(h, 1)
        logits = pooled @ self.get_parameter("fc.weight").T
        return pooled, rearrange(spatial, "b c h w -> b (h w c)"), logits.softmax(dim=1)


def inception_features(network: nn.Module, images: Tensor, device: torch.device) -> Features:
    """All three kinds of features of images (N, 1 or 3, H, W) uint8."""
    block = _CPU_BLOCK if device.type == "cpu" else max(1, len(images))
    blocks = on_device(images, device).expand(-1, 3, -1, -1).split(block)
    pooled, spatial, probabilities = (torch.cat(kind) for kind in zip(*map(network, blocks), strict=True))
    return Features(pooled, spatial, probabilities)


def load_inception(weights: Path | None = None, *, device: torch.device | str = "cpu") -> PublishedExtractor:
    """The extractor in float32 on `device`; weights: torch-fidelity's file, see `find_weights`."""
    path = find_weights(WEIGHTS, weights)
    network = InceptionNetwork()
    sha256 = load_weights(network, path, WEIGHTS)
    fold_batch_norms(network.eval().requires_grad_(False))
    network = network.to(memory_format=torch.channels_last).to(device)
    return PublishedExtractor(network, sha256, WEIGHTS, _RESIZE, inception_features)


def fold_batch_norms(network: InceptionNetwork) -> None:
    """Merge every convolution and the batch normalisation after it into one convolution with a bias, in place.

    The new weights are computed in float64 and rounded once.
    """
    for block in network.modules():
        conv, norm = getattr(block, "conv", None), getattr(block, "bn", None)
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            block.conv, block.bn = fuse_conv_bn_eval(conv.double(), norm.double()).float(), nn.Identity()


def resized_like_tensorflow(images: Tensor, *, size: int) -> Tensor:
    """Images (N, C, H, W) float32 as (N, C, size, size), bilinearly as TensorFlow 1 resizes without align_corners.

    Output pixel i looks at i * H / size, not at pixels' centres, and nothing is averaged when images shrink. The same
    float32 operations as torch-fidelity's four gathered corners, in the same order, but along one axis at a time.
    """
    for dim in (3, 2):
        length = images.shape[dim]
        scale = torch.tensor(length / size, dtype=torch.float32)
        position = torch.arange(size, dtype=torch.float32, device=images.device) * scale
        low = position.long()
        fraction = (position - low).unsqueeze(1) if dim == 2 else position - low
        lower = images.index_select(dim, low)
        upper = images.index_select(dim, (low + 1).clamp_max(length - 1))
        images = upper.sub_(lower).mul_(fraction).add_(lower)
    return images
