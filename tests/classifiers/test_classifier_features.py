"""A classifier of clean images as a feature extractor."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from classifiers.trained_model import load_classifier
from guided_diffusion.diffusion.images import from_uint8
from guided_diffusion.evaluation.extractors.classifier_features import load_classifier_features
from guided_diffusion.evaluation.extractors.config import ExtractorConfig, open_extractor

IMAGES = torch.randint(0, 256, (5, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def extractor(judge_run):
    return load_classifier_features(judge_run, device="cpu")


def test_features_are_the_classifiers_own(extractor, judge_run):
    network = load_classifier(judge_run).network
    features = extractor(IMAGES)
    logits = network(from_uint8(IMAGES), torch.zeros(5))
    assert torch.allclose(features.probabilities, logits.softmax(dim=1), rtol=0, atol=1e-6)
    assert torch.allclose(network.head(features.pooled), logits, rtol=0, atol=1e-6)


def test_probabilities_sum_to_one(extractor):
    probabilities = extractor(IMAGES).probabilities
    assert probabilities.shape == (5, 2)
    assert torch.allclose(probabilities.sum(dim=1), torch.ones(5), rtol=0, atol=1e-6)


def test_spatial_features_are_seven_channels_as_height_width_channel(extractor):
    network = extractor.classifier.network
    feature_map = network.feature_map(from_uint8(IMAGES), torch.zeros(5))
    spatial = extractor(IMAGES).spatial
    assert spatial.shape == (5, 8 * 8 * 7)
    assert torch.equal(spatial.reshape(5, 8, 8, 7)[2, 3, 4], feature_map[2, :7, 3, 4])


def test_every_picture_is_measured_by_itself(extractor):
    together, alone = extractor(IMAGES), extractor(IMAGES[3:4])
    assert torch.allclose(together.pooled[3:4], alone.pooled, rtol=0, atol=1e-5)  # float32, other kernels


def test_features_need_no_gradient_and_are_not_called_inception(extractor, judge_run):
    assert not extractor(IMAGES).pooled.requires_grad
    assert extractor.published is None
    assert extractor.name == f"classifier:{judge_run}"
    assert extractor.class_names == ("dark", "light")
    assert len(extractor.sha256) == 64


def test_arithmetic_keeps_all_bits_of_float32(extractor):
    seen = []
    watch = extractor.classifier.network.head.register_forward_hook(
        lambda *_: seen.extend([torch.backends.cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision])
    )
    with watch:
        extractor(IMAGES)
    assert seen == ["ieee", "ieee"]


def test_extractors_are_opened_by_name(judge_run, tmp_path):
    def opened(name, missing=tmp_path / "absent.pth"):
        return open_extractor(ExtractorConfig(name=name, weights=missing), device=torch.device("cpu"))

    assert opened(f"classifier:{judge_run}", missing=None).name == f"classifier:{judge_run}"
    with pytest.raises(FileNotFoundError, match=r"no Inception weights at .*absent\.pth"):
        opened("inception")
    with pytest.raises(FileNotFoundError, match=r"no DINOv2 ViT-L/14 weights at .*absent\.pth"):
        opened("dinov2")
    with pytest.raises(ValueError, match='no extractor "vgg"; give inception, dinov2 or classifier:RUN'):
        opened("vgg")
    with pytest.raises(ValueError, match="--extractor.weights is for inception and dinov2; .* has its own weights"):
        opened(f"classifier:{judge_run}")


def test_a_classifier_of_noisy_pictures_is_refused_as_a_judge(classifier_run):
    with pytest.raises(ValueError, match="trained on noisy .* would judge its own guidance; .*: --diffusion null"):
        load_classifier_features(classifier_run, device="cpu")


def test_pictures_of_another_shape_are_refused(extractor):
    with pytest.raises(ValueError, match="takes images of 8x8 pixels, got 16x16; --protocol.image_size 8 crops"):
        extractor(torch.zeros(1, 1, 16, 16, dtype=torch.uint8))
    with pytest.raises(ValueError, match="was trained on images of 1 channels, got 3; take an extractor"):
        extractor(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))


class Watching(TorchDispatchMode):
    """Notes the names of torch's operations."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_a_network_is_loaded_without_drawing_the_values_that_the_file_replaces(judge_run):
    """On the meta device these draws import torch's compiler, which takes longer than all else."""
    with Watching() as watching:
        network = load_classifier(judge_run, device="cpu").network
    assert not watching.seen & {"randn", "normal_"}
    assert {parameter.device.type for parameter in network.parameters()} == {"cpu"}
