"""The Inception extractor with seeded random weights, against torch-fidelity's own route through the same layers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from guided_diffusion.evaluation import inception
from guided_diffusion.evaluation.features import Features
from guided_diffusion.evaluation.inception import (
    WEIGHTS_VARIABLE,
    InceptionConfig,
    InceptionExtractor,
    InceptionNetwork,
    find_weights,
    load_inception,
)
from guided_diffusion.evaluation.metrics import frechet_distance, inception_score, precision_recall
from guided_diffusion.evaluation.statistics import gaussian, moments

fidelity = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file like the published one, with random weights that keep activations alive to the last layer."""
    network = InceptionNetwork()
    rng = torch.Generator().manual_seed(0)
    for name, tensor in network.state_dict().items():
        if tensor.ndim > 1:
            tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5, generator=rng)
        elif name.endswith(("bias", "running_mean")):
            tensor.normal_(0, 0.1, generator=rng)
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def extractor(weights: Path) -> InceptionExtractor:
    return load_inception(InceptionConfig(weights=weights))


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randint(0, 256, (8, 3, 32, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def ours(extractor: InceptionExtractor, images: Tensor) -> Features:
    return extractor(images)


@pytest.fixture(scope="module")
def theirs(weights: Path, images: Tensor) -> dict[str, Tensor]:
    names = ["2048", "logits_unbiased", "logits"]
    network = fidelity.FeatureExtractorInceptionV3("inception", names, feature_extractor_weights_path=str(weights))
    found: dict[str, Tensor] = {}
    network.Mixed_6d.branch1x1.register_forward_hook(lambda module, given, output: found.update(branch=output.clone()))
    with torch.no_grad():
        return dict(zip(names, network(images), strict=True)) | found


def test_features_are_torch_fidelitys_bit_for_bit(ours: Features, theirs: dict[str, Tensor]) -> None:
    assert theirs["2048"].std() > 1e-3  # not dead
    assert torch.equal(ours.pooled, theirs["2048"])
    assert torch.equal(ours.probabilities, theirs["logits_unbiased"].softmax(dim=1))
    assert not torch.allclose(ours.probabilities, theirs["logits"].softmax(dim=1))  # the bias is left out


def test_spatial_features_are_seven_channels_height_first_and_channel_last(ours: Features, theirs) -> None:
    assert ours.spatial.shape == (8, 2023)
    expected = theirs["branch"].permute(0, 2, 3, 1)[..., :7].numpy()
    np.testing.assert_array_equal(ours.spatial.numpy(), expected.reshape(8, -1))
    assert ours.spatial.min() == 0  # after the activation
    assert ours.spatial.max() > 0


def test_metrics_on_the_same_images_are_torch_fidelitys(ours: Features, theirs: dict[str, Tensor]) -> None:
    from torch_fidelity import metric_fid, metric_isc, metric_prc

    first, second = ours.pooled[:4], ours.pooled[4:]
    one, other = gaussian(moments(first)), gaussian(moments(second))
    # The whole 2048-d distance takes torch-fidelity seconds; a subspace of 30 dimensions says the same.
    part = slice(0, 30)
    statistics = [
        metric_fid.fid_features_to_statistics(theirs["2048"][rows, part].double())
        for rows in (slice(0, 4), slice(4, 8))
    ]
    expected = metric_fid.fid_statistics_to_metric(*statistics, False)["frechet_inception_distance"]
    found = frechet_distance(one.mean[part], one.cov[part, part], other.mean[part], other.cov[part, part])
    # Four images in 30 dimensions: theirs adds up 27 roots of eigenvalues that are zero but for rounding.
    assert found == pytest.approx(expected, rel=1e-6)
    score = metric_isc.isc_features_to_metric(theirs["logits_unbiased"], splits=2, shuffle=False)
    assert inception_score(ours.probabilities, split_size=4)[0] == pytest.approx(
        score["inception_score_mean"], rel=1e-6
    )
    expected = metric_prc.calculate_precision_recall_full(first, second)
    assert precision_recall(generated=first, real=second) == pytest.approx(expected, abs=1e-6)


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
    load_inception(InceptionConfig(weights=weights))
    assert "is not the published file" in caplog.text
    published = InceptionExtractor(extractor.network, inception.WEIGHTS_SHA256)
    assert published.published == "inception-2015"
    assert published.name == "inception-2015"


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    torch.save({"fc.weight": torch.zeros(2, 2)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other\.pth does not hold torch-fidelity's 2015 Inception weights"):
        load_inception(InceptionConfig(weights=tmp_path / "other.pth"))
    (tmp_path / "junk.pth").write_bytes(b"junk")
    with pytest.raises(ValueError, match=r"junk\.pth does not hold"):
        load_inception(InceptionConfig(weights=tmp_path / "junk.pth"))


def test_weights_are_looked_for_in_the_argument_the_variable_and_the_cache(tmp_path: Path, monkeypatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("nothing was to be downloaded")

    monkeypatch.setattr(inception, "download_url_to_file", fail)
    monkeypatch.setattr(inception, "get_dir", lambda: str(tmp_path / "hub"))
    argument, variable = tmp_path / "argument.pth", tmp_path / "variable.pth"
    cached = tmp_path / "hub" / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth"
    for path in (argument, variable, cached):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(variable))
    assert find_weights(InceptionConfig(weights=argument)) == argument
    assert find_weights(InceptionConfig()) == variable
    monkeypatch.delenv(WEIGHTS_VARIABLE)
    assert find_weights(InceptionConfig()) == cached


def test_without_a_network_the_error_says_all_three_ways(tmp_path: Path, monkeypatch) -> None:
    def offline(url: str, target: str, *, hash_prefix: str) -> None:
        assert hash_prefix == inception.WEIGHTS_SHA256
        raise OSError("no route to host")

    monkeypatch.setattr(inception, "download_url_to_file", offline)
    monkeypatch.setattr(inception, "get_dir", lambda: str(tmp_path))
    monkeypatch.delenv(WEIGHTS_VARIABLE, raising=False)
    with pytest.raises(FileNotFoundError, match="no route to host") as caught:
        find_weights(InceptionConfig())
    for way in ("--inception.weights PATH", WEIGHTS_VARIABLE, f"copy the file to {tmp_path / 'checkpoints'}"):
        assert way in str(caught.value)


def test_a_given_file_that_is_missing_is_not_replaced_by_another(tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(FileNotFoundError, match=r"no Inception weights at .*absent\.pth, which was given"):
        find_weights(InceptionConfig(weights=tmp_path / "absent.pth"))
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(tmp_path / "gone.pth"))
    with pytest.raises(FileNotFoundError, match=r"gone\.pth"):
        find_weights(InceptionConfig())
