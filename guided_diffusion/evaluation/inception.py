"""The 2015 Inception network behind FID, with its exact preprocessing, giving all three kinds of features in one pass.

Layers, resize and weights are torch-fidelity's, which reproduce the TensorFlow graph; only the route through them is
ours. torch-fidelity is imported when a network is built, so that other extractors do without it.
"""

import logging
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.hub import download_url_to_file, get_dir

from guided_diffusion.checkpoint import file_sha256
from guided_diffusion.evaluation.features import Features, PublishedNetwork

WEIGHTS_VARIABLE = "GUIDED_DIFFUSION_INCEPTION_WEIGHTS"
WEIGHTS_URL = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
)
WEIGHTS_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"

_SPATIAL_CHANNELS = 7

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class InceptionConfig:
    """Where the network's weights come from."""

    weights: Path | None = None
    """File of torch-fidelity's weights.

    None: the environment variable GUIDED_DIFFUSION_INCEPTION_WEIGHTS, or a download.
    """


class InceptionNetwork(nn.Module):
    """The Inception network TensorFlow released on 2015-12-05, 1008 classes; parameters named as torch-fidelity's."""

    def __init__(self) -> None:
        super().__init__()
        for name, layer in _layers().items():
            self.add_module(name, layer)

    def forward(self, images_uint8: Tensor) -> Features:
        """Features of images (N, 3, H, W) uint8: pooled (N, 2048), spatial (N, 2023), probabilities (N, 1008).

        Spatial is the first 7 channels of mixed_6's 1x1 branch after its activation, 17 x 17, flattened height first
        and channel last as published. Probabilities leave out the classifier's bias, as the published Inception Score
        does.
        """
        h = _preprocessed(images_uint8)
        spatial = h
        for name, layer in self.named_children():
            if name == "fc":
                break
            if name == "Mixed_6d":  # TensorFlow's mixed_6: its count starts at the first 35x35 block
                # Computed twice, which costs 0.75% of the network and keeps the block as torch-fidelity has it.
                spatial = layer.get_submodule("branch1x1")(h)[:, :_SPATIAL_CHANNELS]
            h = layer(h)
        pooled = torch.flatten(h, 1)
        logits = pooled @ self.get_parameter("fc.weight").T
        return Features(pooled, rearrange(spatial, "b c h w -> b (h w c)"), logits.softmax(dim=1))


@dataclass(frozen=True)
class InceptionExtractor:
    """Is a FeatureExtractor. Grey images are repeated to three channels."""

    network: InceptionNetwork
    sha256: str
    class_names: None = None

    @property
    def published(self) -> PublishedNetwork | None:
        """With other weights than the published ones, the numbers are not called FID."""
        return "inception-2015" if self.sha256 == WEIGHTS_SHA256 else None

    @property
    def name(self) -> str:
        """inception-2015, or with other weights than the published the beginning of their hash as well."""
        return "inception-2015" if self.published else f"inception-2015-weights-{self.sha256[:8]}"

    @torch.inference_mode()
    def __call__(self, images_uint8: Tensor) -> Features:
        """Features of images (N, 1 or 3, H, W) uint8. Raises ValueError for other types and channel counts."""
        if images_uint8.dtype != torch.uint8 or images_uint8.ndim != 4 or images_uint8.shape[1] not in (1, 3):
            raise ValueError(
                f"Inception takes uint8 images (N, 1 or 3, H, W), got {images_uint8.dtype} {tuple(images_uint8.shape)}"
            )
        device = self.network.get_parameter("fc.weight").device
        return self.network(images_uint8.expand(-1, 3, -1, -1).to(device))


def load_inception(config: InceptionConfig, *, device: torch.device | str = "cpu") -> InceptionExtractor:
    """The extractor with its weights, ready to use on `device`, in float32.

    Raises FileNotFoundError if the weights can be had in none of the three ways, ValueError if the file holds something
    else, ImportError without torch-fidelity.
    """
    path = find_weights(config)
    network = InceptionNetwork()
    try:
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # torch.load has no exception type of its own: pickle's, zipfile's, RuntimeError
        raise ValueError(
            f"{path} does not hold torch-fidelity's 2015 Inception weights ({str(error)[:300]}); get {WEIGHTS_URL}"
        ) from error
    sha256 = file_sha256(path)
    if sha256 != WEIGHTS_SHA256:
        _logger.warning("%s is not the published file (SHA-256 %s): results will not be called FID", path, sha256)
    return InceptionExtractor(network.eval().requires_grad_(False).to(device), sha256)


def find_weights(config: InceptionConfig) -> Path:
    """The weights' file: the configured path, else the environment variable's, else torch's hub cache.

    The cache is filled by a download if need be.

    Raises FileNotFoundError for a given path that is missing, and for a download that fails, naming the three ways.
    """
    named = config.weights or (Path(given) if (given := os.environ.get(WEIGHTS_VARIABLE)) else None)
    if named is not None:
        if not named.is_file():
            raise FileNotFoundError(f"there are no Inception weights at {named}, which was given; {_three_ways()}")
        return named
    cached = Path(get_dir()) / "checkpoints" / WEIGHTS_URL.rsplit("/", 1)[1]
    if not cached.is_file():
        cached.parent.mkdir(parents=True, exist_ok=True)
        try:
            # Downloads beside the target and renames it once the hash agrees.
            download_url_to_file(WEIGHTS_URL, str(cached), hash_prefix=WEIGHTS_SHA256)
        except (OSError, RuntimeError) as error:
            raise FileNotFoundError(
                f"the Inception weights could not be downloaded ({error}); {_three_ways()}"
            ) from error
    return cached


def _three_ways() -> str:
    return (
        f"get {WEIGHTS_URL} (91 MiB) on a machine that can, and either give its path with --inception.weights PATH, "
        f"or put the path into the environment variable {WEIGHTS_VARIABLE}, "
        f"or copy the file to {Path(get_dir()) / 'checkpoints'}"
    )


def _preprocessed(images_uint8: Tensor) -> Tensor:
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

    resized = interpolate_bilinear_2d_like_tensorflow1x(images_uint8.float(), size=(299, 299), align_corners=False)
    return (resized - 128) / 128


def _layers() -> dict[str, nn.Module]:
    """All layers in the order of their use, under the names that the weights' file has."""
    try:
        from torch_fidelity import feature_extractor_inceptionv3 as blocks
    except ImportError as error:
        raise ImportError("the Inception extractor needs torch-fidelity: pip install torch-fidelity") from error
    return {
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
