"""The Inception extractor with seeded random weights, against torch-fidelity's own route through the same layers."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from einops import rearrange
from torch import Tensor, nn
from torch.testing import assert_close

from guided_diffusion.evaluation.extractors.features import Features, PublishedExtractor
from guided_diffusion.evaluation.extractors.inception import (
    WEIGHTS,
    InceptionNetwork,
    load_inception,
    resized_like_tensorflow,
)
from guided_diffusion.evaluation.metrics.frechet import frechet_distance
from guided_diffusion.evaluation.metrics.inception_score import inception_score
from guided_diffusion.evaluation.metrics.kernel import kernel_distance
from guided_diffusion.evaluation.metrics.neighbours import precision_recall
from guided_diffusion.evaluation.statistics import gaussian, moments

fidelity = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x  # noqa: E402


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file like the published one, with random weights that keep activations alive to the last layer."""
    network = InceptionNetwork()
    rng = torch.Generator().manual_seed(0)
    for name, tensor in network.state_dict().items():
        if tensor.ndim > 1:
            tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5, generator=rng)
        elif name.endswith("running_var"):  # equal ones would be rounded alike in all channels, and errors add up
            tensor.uniform_(0.5, 1.5, generator=rng)
        elif name.endswith(("bias", "running_mean")):
            tensor.normal_(0, 0.1, generator=rng)
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def extractor(weights: Path) -> PublishedExtractor:
    return load_inception(weights)


@pytest.fixture(scope="module")
def images() -> Tensor:
    """Six images of noise and six of coarser and darker noise, so that there is something to tell apart."""
    rng = torch.Generator().manual_seed(0)
    fine = torch.randint(0, 256, (6, 3, 32, 40), dtype=torch.uint8, generator=rng)
    coarse = torch.randint(0, 160, (6, 3, 4, 5), dtype=torch.uint8, generator=rng)
    return torch.cat([fine, coarse.repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)])


@pytest.fixture(scope="module")
def ours(extractor: PublishedExtractor, images: Tensor) -> Features:
    return extractor(images)


@pytest.fixture(scope="module")
def theirs(weights: Path, images: Tensor) -> dict[str, Tensor]:
    names = ["2048", "logits_unbiased", "logits"]
    network = fidelity.FeatureExtractorInceptionV3("inception", names, feature_extractor_weights_path=str(weights))
    found: dict[str, Tensor] = {}
    network.Mixed_6d.branch1x1.register_forward_hook(lambda module, given, output: found.update(branch=output.clone()))
    with torch.no_grad():
        return dict(zip(names, network(images), strict=True)) | found


def assert_close_to_rounding(found: Tensor, expected: Tensor) -> None:
    """To 1e-5 of the largest: up to 94 convolutions in float32, of 7 digits, whose sums are taken in another order."""
    assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_features_are_torch_fidelitys_to_rounding(ours: Features, theirs: dict[str, Tensor]) -> None:
    assert theirs["2048"].std() > 1e-3  # not dead
    assert_close_to_rounding(ours.pooled, theirs["2048"])
    assert_close_to_rounding(ours.probabilities, theirs["logits_unbiased"].softmax(dim=1))
    biased = theirs["logits"].softmax(dim=1)
    assert (ours.probabilities - biased).abs().max() > 1e-3 * biased.max()  # the bias is left out


def test_features_are_those_of_float64_arithmetic_to_rounding(
    weights: Path, ours: Features, theirs: dict[str, Tensor], images: Tensor
) -> None:
    """Ours, of folded weights, as torch-fidelity's."""
    network = InceptionNetwork().eval()
    network.load_state_dict(torch.load(weights, weights_only=True))
    h = (resized_like_tensorflow(images[4:8].float(), size=299) - 128) / 128
    with torch.inference_mode():
        exact = nn.Sequential(*list(network.children())[:-1]).double()(h.double()).flatten(1)
    for pooled in (ours.pooled, theirs["2048"]):
        assert (pooled[4:8] - exact).norm() < 1e-6 * exact.norm()


def test_spatial_features_are_seven_channels_height_first_and_channel_last(ours: Features, theirs) -> None:
    assert ours.spatial is not None
    assert ours.spatial.shape == (12, 2023)
    expected = rearrange(theirs["branch"][:, :7], "b c h w -> b (h w c)")
    assert_close_to_rounding(ours.spatial, expected)
    assert ours.spatial.min() == 0  # after the activation
    assert ours.spatial.max() > 0


def quarters(features: Tensor) -> Tensor:
    """Features (N, 2048) summed up to four, in float64. With more dimensions than images, torch-fidelity's Fréchet
    distance adds up roots of eigenvalues that are zero but for rounding; and all 2048 take it seconds."""
    return rearrange(features.double(), "n (quarter d) -> n quarter d", quarter=4).sum(dim=2)


def test_the_spatial_distance_is_the_one_written_out_on_the_same_features(ours: Features, theirs) -> None:
    """By the images' inner products: tr (C_1 C_2)^(1/2) is the sum of the singular values of X_1 X_2^T / (N - 1)."""

    def written_out(spatial: np.ndarray) -> float:
        one, other = spatial[:6], spatial[6:]
        means = one.mean(axis=0), other.mean(axis=0)
        one, other = one - means[0], other - means[1]
        shared = np.linalg.svd(one @ other.T, compute_uv=False).sum()
        return float(np.sum((means[0] - means[1]) ** 2) + (np.sum(one**2) + np.sum(other**2) - 2 * shared) / 5)

    assert ours.spatial is not None
    first, second = (gaussian(moments(ours.spatial[rows])) for rows in (slice(0, 6), slice(6, 12)))
    found = frechet_distance(first.mean, first.cov, second.mean, second.cov)
    assert found == pytest.approx(written_out(ours.spatial.double().numpy()), rel=1e-9)
    branch = theirs["branch"].permute(0, 2, 3, 1)[..., :7].reshape(12, -1)
    assert found == pytest.approx(written_out(branch.double().numpy()), rel=1e-5)  # features to float32's rounding


def test_metrics_on_the_same_images_are_torch_fidelitys(ours: Features, theirs: dict[str, Tensor]) -> None:
    """Ours on our features and theirs on theirs: all that an evaluation does with the same images and weights."""
    from torch_fidelity import metric_fid, metric_isc, metric_kid, metric_prc

    their_sides = theirs["2048"].double().split(6)
    statistics = [metric_fid.fid_features_to_statistics(quarters(side)) for side in their_sides]
    expected = metric_fid.fid_statistics_to_metric(*statistics, False)["frechet_inception_distance"]
    generated, real = ours.pooled.split(6)
    one, other = (gaussian(moments(quarters(side))) for side in (generated, real))
    assert frechet_distance(one.mean, one.cov, other.mean, other.cov) == pytest.approx(expected, rel=1e-6)

    score = metric_isc.isc_features_to_metric(theirs["logits_unbiased"].double(), splits=2, shuffle=False)
    expected = score["inception_score_mean"], score["inception_score_std"]
    assert expected[0] > 1.005  # it is 1 where images have all the same probabilities
    # The deviation over splits is of the score's size, and so is its rounding.
    assert inception_score(ours.probabilities, split_size=6) == pytest.approx(expected, rel=1e-6, abs=1e-6)

    expected = metric_kid.kid_features_to_metric(*their_sides, kid_subsets=3, kid_subset_size=5)
    found, _ = kernel_distance(generated=generated, real=real, subsets=3, subset_size=5)
    assert found == pytest.approx(expected["kernel_inception_distance_mean"], rel=1e-6)

    expected = metric_prc.calculate_precision_recall_full(*theirs["2048"].split(6))
    assert precision_recall(generated=generated, real=real) == pytest.approx(expected, abs=1e-6)


SIZES = [(1, 1), (2, 3), (8, 8), (28, 32), (32, 32), (64, 48), (149, 150), (298, 299), (299, 300), (598, 256), (700, 5)]


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_the_resize_is_torch_fidelitys_bit_for_bit(height: int, width: int) -> None:
    rng = torch.Generator().manual_seed(height)
    image = torch.randint(0, 256, (2, 3, height, width), generator=rng).float()
    expected = interpolate_bilinear_2d_like_tensorflow1x(image, size=(299, 299), align_corners=False)
    assert torch.equal(resized_like_tensorflow(image, size=299), expected)
    channels_last = image.to(memory_format=torch.channels_last)
    assert torch.equal(resized_like_tensorflow(channels_last, size=299), expected)


def test_the_resize_looks_at_pixels_corners_and_repeats_the_last() -> None:
    """Twice as wide: every second pixel is an old one, the rest are means of two, but the last has no neighbour."""
    row = torch.tensor([0.0, 4.0, 8.0]).view(1, 1, 1, 3).expand(1, 1, 6, 3)
    resized = resized_like_tensorflow(row, size=6)
    assert torch.equal(resized[0, 0, 3], torch.tensor([0.0, 2.0, 4.0, 6.0, 8.0, 8.0]))


def test_arithmetic_keeps_all_bits_of_float32(extractor: PublishedExtractor, images: Tensor) -> None:
    seen: list[str] = []
    watch = extractor.network.get_submodule("Mixed_5b").register_forward_hook(
        lambda *_: seen.append(torch.backends.cudnn.conv.fp32_precision)
    )
    before = torch.backends.cudnn.conv.fp32_precision
    with watch:
        extractor(images[:1])
    assert seen == ["ieee"]
    assert before == torch.backends.cudnn.conv.fp32_precision != "ieee"


def test_an_image_does_not_depend_on_its_neighbours(extractor, images: Tensor, ours: Features) -> None:
    alone = extractor(images[:1])
    for name in ("pooled", "spatial", "probabilities"):
        # Convolution kernels differ between batch sizes; features are of order one.
        assert_close(getattr(alone, name), getattr(ours, name)[:1], atol=1e-4, rtol=1e-4)


def test_grey_images_are_repeated_to_three_channels(extractor, images: Tensor) -> None:
    grey = images[:2, :1]
    found, expected = extractor(grey), extractor(grey.repeat(1, 3, 1, 1))
    assert torch.equal(found.pooled, expected.pooled)


def test_what_is_not_a_uint8_image_is_refused(extractor, images: Tensor) -> None:
    for wrong in (images.float(), images[0], images[:, :2]):
        with pytest.raises(ValueError, match=r"Inception takes uint8 images \(N, 1 or 3, H, W\), got"):
            extractor(wrong)


def test_other_weights_are_not_called_inception(weights: Path, extractor, caplog) -> None:
    assert extractor.published is None
    assert extractor.name == f"inception-2015-weights-{extractor.sha256[:8]}"
    load_inception(weights)
    assert "is not the published file" in caplog.text
    published = replace(extractor, sha256=WEIGHTS.sha256)
    assert published.published is WEIGHTS
    assert published.name == "inception-2015"


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    torch.save({"fc.weight": torch.zeros(2, 2)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other\.pth does not hold the published Inception weights"):
        load_inception(tmp_path / "other.pth")
    (tmp_path / "junk.pth").write_bytes(b"junk")
    with pytest.raises(ValueError, match=r"junk\.pth does not hold"):
        load_inception(tmp_path / "junk.pth")
