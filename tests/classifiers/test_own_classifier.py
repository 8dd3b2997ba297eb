"""A user's own classifiers of clean images: their names, normalisation, classes, and refusals."""

import sys

import pytest
import torch
from small_classifier import pictures, small
from torch import nn
from torch.testing import assert_close

from classifiers.off_the_shelf import CleanClassifier, clean_classifier, fitted, load_clean_classifier

OWN = """
import torch
from torch import nn
from classifiers.off_the_shelf import clean_classifier

def network():
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    nn.init.ones_(net[1].weight)
    nn.init.zeros_(net[1].bias)
    net.class_names = ("light", "dark")
    return net

NET = network()

def by_function():
    return lambda x: torch.stack([x.mean(dim=(1, 2, 3)), -x.mean(dim=(1, 2, 3))], dim=1)

def normalised():
    return clean_classifier(network(), class_names=("light", "dark"), mean=0.0, std=1.0)
"""


@pytest.fixture
def own(tmp_path, monkeypatch) -> str:
    """The name of a module in the working directory, which is not on Python's path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    name = f"own_{abs(hash(tmp_path)) % 10**9}"
    (tmp_path / f"{name}.py").write_text(OWN)
    return name


def test_a_users_own_network_is_named_by_its_module(own):
    x_0 = pictures(channels=1, side=8)
    by_factory, by_name, normalised, function = (
        load_clean_classifier(f"{own}:{attribute}", smooth=True, device="cpu")
        for attribute in ("network", "NET", "normalised", "by_function")
    )
    assert by_factory.name == f"{own}:network"
    assert by_factory.class_names == normalised.class_names == ("light", "dark")
    assert by_factory.sha256 == by_name.sha256 == normalised.sha256
    assert (function.sha256, function.class_names) == (None, ())
    assert_close(by_factory.network(x_0), x_0.sum(dim=(1, 2, 3))[:, None].expand(-1, 2))
    assert torch.equal(by_factory.network(x_0), by_name.network(x_0))
    assert_close(normalised.network(x_0), ((x_0 + 1) / 2).sum(dim=(1, 2, 3))[:, None].expand(-1, 2))
    assert_close(function.network(x_0)[:, 0], x_0.mean(dim=(1, 2, 3)))


def test_the_recorded_hash_is_of_the_weights_and_a_users_network_is_not_changed():
    network = small().train()
    first = clean_classifier(network).sha256
    assert network.training
    assert all(one.requires_grad for one in network.parameters())
    guide = clean_classifier(network)
    before = guide.network(pictures())
    with torch.no_grad():
        network[5].bias += 1.0
    assert clean_classifier(network).sha256 != first == guide.sha256
    assert torch.equal(guide.network(pictures()), before)


@pytest.mark.parametrize(("mean", "std", "low", "high"), [(0.5, 0.5, -1, 1), (0, 1, 0, 1), (0, 1 / 255, 0, 255)])
def test_a_normalisation_is_the_range_that_a_network_takes(mean, std, low, high):
    seen = []
    guide = clean_classifier(lambda x: seen.append(x) or x.flatten(1)[:, :2], mean=mean, std=std)
    guide.network(torch.tensor([-1.0, 1.0]).reshape(1, 1, 1, 2))
    assert_close(seen[0].flatten(), torch.tensor([low, high]).float())


def tried(network, *, class_names=("dark", "light"), **settings) -> CleanClassifier:
    guide = clean_classifier(network, **settings)
    return fitted(guide, image_shape=(1, 8, 8), class_names=class_names, device=torch.device("cpu"))


def two(x):
    return x.flatten(1)[:, :2]


def test_a_classifier_without_names_has_the_models_classes():
    assert tried(two).class_names == ("dark", "light")
    assert tried(two, class_names=()).class_names == ("0", "1")
    own = fitted(
        clean_classifier(two, class_names=("b", "a")),
        image_shape=(1, 8, 8),
        class_names=("a",),
        device=torch.device("cpu"),
    )
    assert own.labels_of(("a",)) == (1,)


UNFIT = {
    r"two.* gives 2 logits, but there are 3 classes in the model; name the class of each": (two, ("a", "b", "c")),
    r"must give logits \(2, num_classes\) of 2 images, got \(2, 1, 8, 8\)": (lambda x: x, ("a", "b")),
    r"must give logits \(2, num_classes\) of 2 images, got \(2,\)": (lambda x: x.flatten(1).sum(1), ("a", "b")),
    "not differentiable: its logits have no gradient": (lambda x: two(x.detach()), ("a", "b")),
    "gives logits that are not finite; look at its weights": (lambda x: two(x) / 0, ("a", "b")),
    r"fails on images .* \(2, 1, 8, 8\): RuntimeError: .*channels": (nn.Conv2d(3, 2, 8), ("a", "b")),
    "fails on images .*: AttributeError: 'tuple' object": (lambda x: (x, x), ("a", "b")),
}


@pytest.mark.parametrize("message", UNFIT)
def test_a_users_classifier_that_cannot_guide_the_model_is_refused(message):
    network, class_names = UNFIT[message]
    with pytest.raises(ValueError, match=message):
        tried(network, class_names=class_names)
