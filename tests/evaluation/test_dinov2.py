"""The DINOv2 extractor on a small network of the same layout, against Pillow, torchvision and sums written out."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.testing import assert_close
from torchvision import transforms

from guided_diffusion.evaluation.extractors.dinov2 import (
    WEIGHTS,
    dinov2_features,
    for_224_pixels,
    load_dinov2,
    resized_positions,
    vision_transformer,
)
from guided_diffusion.evaluation.extractors.features import Features, PublishedExtractor
from guided_diffusion.evaluation.extractors.weights import load_weights

pytest.importorskip("timm")

WIDTH, DEPTH, HEADS = 24, 2, 3


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def published_layout(width: int, depth: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of Meta's file for a network of that width and depth."""
    layout = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, 1 + 37 * 37, width),
        "mask_token": (1, width),
        "patch_embed.proj.weight": (width, 3, 14, 14),
        "patch_embed.proj.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }
    linear = {"attn.qkv": (3, 1), "attn.proj": (1, 1), "mlp.fc1": (4, 1), "mlp.fc2": (1, 4)}
    for block in range(depth):
        for name, (rows, columns) in linear.items():
            layout[f"blocks.{block}.{name}.weight"] = (rows * width, columns * width)
            layout[f"blocks.{block}.{name}.bias"] = (rows * width,)
        for name in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias", "ls1.gamma", "ls2.gamma"):
            layout[f"blocks.{block}.{name}"] = (width,)
    return layout


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    """Random weights in the published layout, which keep activations of order one."""
    shapes = published_layout(WIDTH, DEPTH)
    inputs = {name: int(np.prod(shape[1:])) if shape[0] > 1 else WIDTH for name, shape in shapes.items()}
    return {name: randn(*shape, seed=i) / inputs[name] ** 0.5 for i, (name, shape) in enumerate(shapes.items())}


@pytest.fixture(scope="module")
def extractor(published: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> PublishedExtractor:
    """As `load_dinov2` loads it, but with a small network."""
    path = tmp_path_factory.mktemp("weights") / "small.pth"
    torch.save(published, path)
    network = vision_transformer(width=WIDTH, depth=DEPTH, heads=HEADS)
    sha256 = load_weights(network, path, WEIGHTS, convert=for_224_pixels)
    network = network.eval().requires_grad_(False)
    return PublishedExtractor(network, sha256, WEIGHTS, "", dinov2_features)


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randint(0, 256, (3, 3, 40, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def features(extractor: PublishedExtractor, images: Tensor) -> Features:
    return extractor(images)


def cubic(distance: np.ndarray) -> np.ndarray:
    """Keys's kernel with a = -0.75, torch's for bicubic interpolation."""
    d, a = np.abs(distance), -0.75
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    return np.where(d <= 1, near, np.where(d < 2, a * (d**3 - 5 * d**2 + 8 * d - 4), 0))


def interpolation(given: int, asked: int, factor: float) -> np.ndarray:
    """Matrix (asked, given) of bicubic interpolation at (i + 0.5) / factor - 0.5, edges repeated."""
    weights = np.zeros((asked, given))
    for row in range(asked):
        position = (row + 0.5) / factor - 0.5
        for tap in range(int(np.floor(position)) - 1, int(np.floor(position)) + 3):
            weights[row, min(max(tap, 0), given - 1)] += cubic(np.array(position - tap))
    return weights


def test_positions_are_interpolated_with_the_published_tenth_of_a_patch(published: dict[str, Tensor]) -> None:
    found = resized_positions(published["pos_embed"].double(), side=16)
    assert torch.equal(found[:, 0].float(), published["pos_embed"][:, 0])
    along = interpolation(37, 16, factor=16.1 / 37)
    grid = published["pos_embed"][0, 1:].double().numpy().reshape(37, 37, WIDTH)
    expected = np.einsum("yi,xj,ijd->yxd", along, along, grid).reshape(1, 256, WIDTH)
    assert_close(found[:, 1:].numpy(), expected, rtol=0, atol=1e-12)
    without = np.einsum("yi,xj,ijd->yxd", *[interpolation(37, 16, factor=16 / 37)] * 2, grid).reshape(1, 256, WIDTH)
    assert np.abs(without - expected).max() > 0.01  # the tenth is seen


def attention(h: Tensor, weights: dict[str, Tensor], block: str) -> Tensor:
    q, k, v = F.linear(h, weights[f"{block}.attn.qkv.weight"], weights[f"{block}.attn.qkv.bias"]).chunk(3, dim=-1)
    size = WIDTH // HEADS
    heads = []
    for head in range(HEADS):
        part = slice(head * size, (head + 1) * size)
        scores = (q[..., part] @ k[..., part].mT / size**0.5).softmax(dim=-1)
        heads.append(scores @ v[..., part])
    joined = torch.cat(heads, dim=-1)
    return F.linear(joined, weights[f"{block}.attn.proj.weight"], weights[f"{block}.attn.proj.bias"])


def perceptron(h: Tensor, weights: dict[str, Tensor], block: str) -> Tensor:
    hidden = F.linear(h, weights[f"{block}.mlp.fc1.weight"], weights[f"{block}.mlp.fc1.bias"])
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
    return F.linear(hidden, weights[f"{block}.mlp.fc2.weight"], weights[f"{block}.mlp.fc2.bias"])


def class_tokens(x: Tensor, weights: dict[str, Tensor]) -> Tensor:
    """The published network written out, in the arithmetic of its arguments, on images (N, 3, 224, 224)."""

    def norm(h: Tensor, name: str) -> Tensor:
        return F.layer_norm(h, (WIDTH,), weights[f"{name}.weight"], weights[f"{name}.bias"], eps=1e-6)

    patches = F.conv2d(x, weights["patch_embed.proj.weight"], weights["patch_embed.proj.bias"], stride=14)
    h = torch.cat([weights["cls_token"].expand(len(x), -1, -1), patches.flatten(2).mT], dim=1)
    h = h + resized_positions(weights["pos_embed"], side=16)
    for block in (f"blocks.{i}" for i in range(DEPTH)):
        h = h + weights[f"{block}.ls1.gamma"] * attention(norm(h, f"{block}.norm1"), weights, block)
        h = h + weights[f"{block}.ls2.gamma"] * perceptron(norm(h, f"{block}.norm2"), weights, block)
    return norm(h[:, 0], "norm")


def test_features_are_the_class_token_of_the_picture_that_pillow_resized(
    features: Features, images: Tensor, published: dict[str, Tensor]
) -> None:
    """The reference's own preprocessing, from torchvision, and the network written out in float64."""
    preprocess = transforms.Compose(
        [
            transforms.Resize((224, 224), transforms.InterpolationMode.BICUBIC),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    x = torch.stack([preprocess(picture) for picture in pictures]).double()
    expected = class_tokens(x, {name: weight.double() for name, weight in published.items()})
    assert expected.std(dim=0).mean() > 5e-3  # images differ
    assert_close(features.pooled.double(), expected, rtol=0, atol=2e-6)


def test_there_are_pooled_features_alone(features: Features) -> None:
    assert features.pooled.shape == (3, WIDTH)
    assert features.pooled.dtype == torch.float32
    assert features.spatial is None
    assert features.probabilities is None


def test_the_network_is_meta_s_vit_large_without_registers() -> None:
    """Layout, and with it the size of the published file: 1,217,586,395 bytes, of which the archive takes 0.01%."""
    layout = published_layout(1024, 24)
    shapes = {name: tuple(weight.shape) for name, weight in vision_transformer().state_dict().items()}
    del shapes["pos_embed"]
    assert shapes == {name: shape for name, shape in layout.items() if name not in ("pos_embed", "mask_token")}
    num_bytes = 4 * sum(int(np.prod(shape)) for shape in layout.values())
    assert 1_217_586_395 * 0.9999 < num_bytes < 1_217_586_395


def test_every_picture_is_measured_by_itself(extractor: PublishedExtractor, images: Tensor, features: Features) -> None:
    # Matrix products differ between batch sizes; features are of order one.
    assert_close(extractor(images[1:2]).pooled, features.pooled[1:2], rtol=0, atol=1e-5)


def test_grey_images_are_repeated_to_three_channels(extractor: PublishedExtractor, images: Tensor) -> None:
    grey = images[:2, :1]
    assert torch.equal(extractor(grey).pooled, extractor(grey.repeat(1, 3, 1, 1)).pooled)


def test_what_is_not_a_uint8_image_is_refused(extractor: PublishedExtractor, images: Tensor) -> None:
    with pytest.raises(ValueError, match=r"DINOv2 ViT-L/14 takes uint8 images \(N, 1 or 3, H, W\), got torch.float32"):
        extractor(images.float())


def test_other_weights_are_not_called_dinov2(extractor: PublishedExtractor) -> None:
    assert extractor.published is None
    assert extractor.name == f"dinov2-vitl14-weights-{extractor.sha256[:8]}"
    published = replace(extractor, sha256=WEIGHTS.sha256)
    assert published.published is WEIGHTS
    assert published.name == "dinov2-vitl14"


def test_a_file_of_something_else_is_refused(published: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(published, tmp_path / "small.pth")  # of another width and depth
    with pytest.raises(ValueError, match=r"small\.pth does not hold the published DINOv2 ViT-L/14 weights .*Missing"):
        load_dinov2(tmp_path / "small.pth")
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other\.pth does not hold .*pos_embed"):
        load_dinov2(tmp_path / "other.pth")


def test_arithmetic_keeps_all_bits_of_float32(extractor: PublishedExtractor, images: Tensor) -> None:
    seen: list[str] = []
    watch = extractor.network.register_forward_hook(
        lambda *_: seen.extend([torch.backends.cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision])
    )
    with watch:
        extractor(images[:1])
    assert seen == ["ieee", "ieee"]
