"""Classifiers of clean images as guides: their input, their classes, and where their weights come from."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from small_classifier import pictures, small
from torch import nn
from torch.testing import assert_close
from torchvision.models import squeezenet1_1
from torchvision.transforms.functional import normalize, resize

from classifiers import off_the_shelf
from classifiers.off_the_shelf import CleanClassifier, clean_classifier, load_clean_classifier
from classifiers.trained_model import load_classifier
from guided_diffusion.data.labels import imagenet_class_names
from guided_diffusion.diffusion.denoiser import NetworkDenoiser
from guided_diffusion.diffusion.schedules import chain_from_betas, linear_betas
from guided_diffusion.guidance import clean_log_density, guided_at_estimate, guided_through

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CHAIN = chain_from_betas(linear_betas(1000))


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """A state dict of torchvision's SqueezeNet 1.1, random."""
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("weights") / "random.safetensors"
    save_file(squeezenet1_1(weights=None).state_dict(), file)
    return file


@pytest.fixture(scope="module")
def network(weights) -> nn.Module:
    torch.manual_seed(0)
    return squeezenet1_1(weights=None).eval()


@pytest.fixture(scope="module")
def guide(weights) -> CleanClassifier:
    return load_clean_classifier(f"torchvision:squeezenet1_1:{weights}", smooth=False, device="cpu")


def small_guide(network: nn.Module, **changes) -> CleanClassifier:
    own = {"class_names": ("dark", "light"), "size": 24, "mean": MEAN, "std": STD}
    return clean_classifier(network, **(own | changes))


def test_a_torchvision_network_is_given_what_its_weights_were_trained_on(guide, network):
    """In [0, 1], at 224 pixels, normalised, as torchvision's own transforms do it."""
    x_0 = pictures()
    prepared = normalize(resize((x_0 + 1) / 2, [224, 224], antialias=True), list(MEAN), list(STD))
    assert_close(guide.network(x_0), network(prepared), rtol=1e-4, atol=1e-4)
    assert guide.class_names == imagenet_class_names()
    assert guide.name == "torchvision:squeezenet1_1"
    assert guide.image_shape is None


def test_grey_images_are_given_as_three_equal_channels(guide):
    grey = pictures(channels=1)
    assert torch.equal(guide.network(grey), guide.network(grey.expand(-1, 3, -1, -1)))


def test_images_of_the_networks_own_size_are_not_resampled():
    network = small()
    expected = network.eval()(normalize((pictures() + 1) / 2, list(MEAN), list(STD)))
    assert_close(small_guide(network).network(pictures()), expected)


def test_a_picture_is_judged_alone_whatever_its_batch():
    guide = small_guide(small().train())
    assert_close(guide.network(pictures())[:1], guide.network(pictures()[:1]), rtol=1e-5, atol=1e-6)


def test_float64_images_get_float64_logits(guide):
    assert guide.network(pictures(1).double()).dtype == torch.float64


def test_smooth_and_exact_networks_of_one_file_differ_by_their_activations_alone(weights, guide):
    smooth = load_clean_classifier(f"torchvision:squeezenet1_1:{weights}", smooth=True, device="cpu")
    assert smooth.sha256 == guide.sha256
    difference = (smooth.network(pictures()) - guide.network(pictures())).abs().max()
    assert float(difference) > 1e-6


@pytest.mark.parametrize("guided", [guided_through, guided_at_estimate])
def test_a_torchvision_network_guides_each_sample_to_its_class(weights, guided):
    """One step along the gradient, 0.2 at most in any pixel, raises each sample's log p(y) by 0.003 or more."""
    guide = load_clean_classifier(f"torchvision:squeezenet1_1:{weights}", smooth=True, device="cpu")
    x_t, y = pictures(), torch.tensor([1, 207, 950])
    denoiser, step = NetworkDenoiser(lambda x, t: 0.9 * x, "x0", "small", clip=None), CHAIN.at(300, like=x_t)

    def log_prob(x):
        return guide.network(x).log_softmax(dim=1)

    plain = denoiser(x_t, step).x0
    scale = 100.0 if guided is guided_through else 100.0 * step.alpha_bar**-0.5  # equal moves
    moved = guided(denoiser, clean_log_density(log_prob, y), scale)(x_t, step).x0
    before, after = (log_prob(x).gather(1, y[:, None]) for x in (plain, moved))
    assert (after > before + 0.003).all()
    alone = guided(denoiser, clean_log_density(log_prob, y[1:2]), scale)(x_t[1:2], CHAIN.at(300, like=x_t[:1])).x0
    assert_close(moved[1:2], alone, rtol=1e-4, atol=1e-5)


def test_a_judge_trained_here_is_asked_at_timestep_zero(judge_run):
    guide, judge = (
        load_clean_classifier(f"classifier:{judge_run}", smooth=True, device="cpu"),
        load_classifier(judge_run),
    )
    x_0 = pictures(channels=1, side=8)
    assert torch.equal(guide.network(x_0), judge.network(x_0, torch.zeros(3)))
    assert guide.class_names == ("dark", "light")
    assert guide.image_shape == (1, 8, 8)


def test_classes_go_by_their_names(guide):
    assert guide.labels_of(("goldfish", "tench")) == (1, 0)
    assert guide.labels_of(()) == tuple(range(1000))
    assert small_guide(small()).labels_of(("light", "dark")) == (1, 0)


def test_a_thousand_sorted_wordnet_ids_are_imagenets_classes(guide):
    ids = [f"n{number:08d}" for number in range(1000)]
    assert guide.labels_of(ids) == tuple(range(1000))
    for others in (ids[:999], ids[::-1]):
        with pytest.raises(ValueError, match="does not know"):
            guide.labels_of(others)


def test_classes_that_a_classifier_does_not_know_are_refused_naming_one(guide):
    with pytest.raises(ValueError, match='does not know 2 of the .* 3 classes, the first "cat"; it knows 1000: te'):
        guide.labels_of(("tench", "cat", "dog"))


def test_published_weights_are_taken_from_the_cache_or_the_message_says_how_to_bring_them(
    tmp_path, monkeypatch, network
):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def offline(url, file, **options):
        raise OSError("no route to host")

    monkeypatch.setattr(off_the_shelf, "download_url_to_file", offline)
    with pytest.raises(OSError, match=r"squeezenet1_1 could not be downloaded \(no route to host\); get ") as refusal:
        load_clean_classifier("torchvision:squeezenet1_1", smooth=False, device="cpu")
    assert "give its path: --guidance.clean_classifier.name torchvision:squeezenet1_1:FILE" in str(refusal.value)
    torch.save(network.state_dict(), tmp_path / "hub" / "checkpoints" / "squeezenet1_1-b8a52dc0.pth")
    with pytest.raises(
        ValueError, match="b8a52dc0.pth is damaged: its SHA-256 does not begin with b8a52dc0; remove it"
    ):
        load_clean_classifier("torchvision:squeezenet1_1", smooth=False, device="cpu")
    monkeypatch.setattr(off_the_shelf, "file_sha256", lambda file: "b8a52dc0" + 56 * "0")
    guide = load_clean_classifier("torchvision:squeezenet1_1", smooth=False, device="cpu")
    assert guide.network(pictures(1)).shape == (1, 1000)


REFUSED = {
    'there is no clean classifier "resnet50"; give torchvision:NAME, ': "resnet50",
    'there is no clean classifier "torchvision:"': "torchvision:",
    "name nowhere:net gives no classifier .ModuleNotFoundError: No module named 'nowhere'.; MODULE must": "nowhere:net",
    "name math:pi gives no classifier .TypeError: 'float' object is not callable": "math:pi",
    "name math:sine gives no classifier .AttributeError: module 'math' has no attribute 'sine'": "math:sine",
    'torchvision has no classifier "resnet5"; it has alexnet, ': "torchvision:resnet5",
    "there are no weights /nowhere.pth; expected a state dict": "torchvision:resnet18:/nowhere.pth",
}


@pytest.mark.parametrize("message", REFUSED)
def test_names_of_nothing_are_refused(message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_clean_classifier(REFUSED[message], smooth=False, device="cpu")


def test_weights_of_another_network_are_refused(weights):
    with pytest.raises(ValueError, match=r"random.safetensors do not fit AlexNet: .*Missing key"):
        load_clean_classifier(f"torchvision:alexnet:{weights}", smooth=False, device="cpu")


def test_a_file_that_would_have_to_run_code_is_refused(tmp_path):
    file = tmp_path / "module.pth"
    torch.save(nn.Linear(2, 2), file)
    with pytest.raises(ValueError, match=r"module.pth holds no state dict that can be read without running its code"):
        load_clean_classifier(f"torchvision:alexnet:{file}", smooth=False, device="cpu")


def test_a_classifier_of_noisy_images_is_refused_here(classifier_run):
    with pytest.raises(ValueError, match="was trained on noisy images and .*: give it as --classifier"):
        load_clean_classifier(f"classifier:{classifier_run}", smooth=False, device="cpu")
