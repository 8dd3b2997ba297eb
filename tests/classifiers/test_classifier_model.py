"""The classifier network: what goes in, what comes out, and what it refuses."""

import pytest
import tiny
import torch
from torch import Tensor

from classifiers.model import ClassifierConfig, NoisyClassifier

BATCH, CLASSES = 3, 5
T = torch.tensor([0.0, 10.0, 999.0])


def classifier(*, pooling="attention", in_channels=1, dtype=torch.float32, **changes) -> NoisyClassifier:
    torch.manual_seed(0)
    settings = {
        "image_size": 8, "base_channels": 32, "channel_mult": (1.0, 2.0), "attention_sizes": (4,),
        "blocks_per_level": 1, "head_channels": 32,
    }  # fmt: skip
    config = ClassifierConfig(**(settings | changes), num_classes=CLASSES, in_channels=in_channels, pooling=pooling)
    return tiny.awakened(NoisyClassifier(config)).to(dtype).eval()


def images(height: int = 8, width: int = 8, channels: int = 1, dtype=torch.float32) -> Tensor:
    return torch.randn(BATCH, channels, height, width, generator=torch.Generator().manual_seed(1)).to(dtype)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("pooling", ["attention", "adaptive"])
def test_logits_are_one_row_a_picture_and_one_column_a_class(pooling, channels):
    logits = classifier(pooling=pooling, in_channels=channels)(images(channels=channels), T)
    assert logits.shape == (BATCH, CLASSES)
    assert bool(logits.isfinite().all())


def test_logits_are_a_linear_function_of_the_pooled_vector():
    network = classifier()
    pooled = network.pooled(network.feature_map(images(), T))
    assert pooled.shape == (BATCH, 64)
    assert torch.equal(network.head(pooled), network(images(), T))


def test_log_prob_is_the_logarithm_of_probabilities_that_sum_to_one():
    network = classifier(dtype=torch.float64)
    log_p = network.log_prob(images(dtype=torch.float64), T.double())
    assert log_p.dtype == torch.float64
    assert torch.allclose(log_p.exp().sum(dim=1), torch.ones(BATCH, dtype=torch.float64), rtol=0, atol=1e-12)
    logits = network(images(dtype=torch.float64), T.double())
    assert torch.allclose(log_p[:, 0] - log_p[:, 1], logits[:, 0] - logits[:, 1], rtol=0, atol=1e-12)


def test_log_prob_is_float32_where_the_network_is_bfloat16():
    network = classifier(dtype=torch.bfloat16)
    assert network(images(dtype=torch.bfloat16), T).dtype == torch.bfloat16
    assert network.log_prob(images(dtype=torch.bfloat16), T).dtype == torch.float32


def test_every_picture_is_classified_by_itself():
    network = classifier()
    together = network(images(), T)
    alone = torch.cat([network(images()[i : i + 1], T[i : i + 1]) for i in range(BATCH)])
    assert torch.allclose(together, alone, rtol=0, atol=1e-5)  # float32, other kernels for other batch sizes


def test_the_timestep_matters():
    network = classifier()
    assert not torch.allclose(network(images(), T), network(images(), T.flip(0)))


def test_adaptive_pooling_takes_pictures_that_are_not_square():
    network = classifier(pooling="adaptive")
    feature_map = network.feature_map(images(4, 12), T)
    assert feature_map.shape == (BATCH, 64, 2, 6)
    assert torch.allclose(network.pooled(feature_map), feature_map.mean(dim=(2, 3)))
    assert network(images(4, 12), T).shape == (BATCH, CLASSES)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (8, 4), (4, 16)])
def test_attention_pooling_refuses_another_size(height, width):
    """Also 4x16 pixels, as many as 8x8, since each of its learned positions is a place in the 8x8 image."""
    message = rf'the places of a 8x8 image, got {height}x{width}, whose pixels lie elsewhere; .* pooling "adaptive"'
    with pytest.raises(ValueError, match=message):
        classifier()(images(height, width), T)


def test_sides_that_cannot_be_halved_are_refused_with_those_that_can():
    with pytest.raises(ValueError, match=r"width 9 .* down-factor 2; the next sizes that work are 8 and 10"):
        classifier(pooling="adaptive")(images(8, 9), T)


def test_another_channel_count_is_refused():
    with pytest.raises(ValueError, match=r"expected images \(batch, 1, height, width\), got \(3, 3, 8, 8\)"):
        classifier()(images(channels=3), T)
