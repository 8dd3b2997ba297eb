"""The U-Net's shapes, its start, and what it refuses."""

import pytest
import tiny
import torch
from torch import Tensor

from guided_diffusion.models.blocks import ResidualBlock, SelfAttention
from guided_diffusion.models.unet import EncoderConfig, UNet, UNetConfig

BATCH = 2
T = torch.tensor([0.0, 999.0])
SETTINGS = {
    "image_size": 8, "base_channels": 32, "channel_mult": (1.0, 2.0), "attention_sizes": (4,), "blocks_per_level": 1,
    "head_channels": 32,
}  # fmt: skip


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


def unet(**changes) -> UNet:
    torch.manual_seed(0)
    return UNet(UNetConfig(**(SETTINGS | {"in_channels": 1, "out_channels": 2} | changes))).eval()


def images(height: int = 8, width: int = 8, channels: int = 1) -> Tensor:
    return torch.randn(BATCH, channels, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_the_output_has_the_images_size_and_the_channels_asked_for(channels):
    network = tiny.awakened(unet(in_channels=channels, out_channels=2 * channels))
    output = network(images(channels=channels), T)
    assert output.shape == (BATCH, 2 * channels, 8, 8)
    assert bool(output.isfinite().all())


@pytest.mark.parametrize(("height", "width"), [(8, 12), (2, 6), (16, 4)])
def test_pictures_need_not_be_square_nor_of_the_nominal_size(height, width):
    output = tiny.awakened(unet())(images(height, width), T)
    assert output.shape == (BATCH, 2, height, width)
    assert float(output.std()) > 0


@pytest.mark.parametrize("resample", ["block", "conv", "plain"])
@pytest.mark.parametrize("modulation", ["scale_shift", "add"])
def test_every_variant_is_zero_before_training_and_something_after(resample, modulation):
    network = unet(resample=resample, modulation=modulation, num_classes=3)
    y = torch.tensor([0, 2])
    assert not network(images(), T, y).any()
    assert float(tiny.awakened(network)(images(), T, y).std()) > 0


def test_residual_branches_begin_as_the_identity():
    x, e = torch.randn(2, 32, 8, 8), torch.randn(2, 128)
    assert torch.equal(SelfAttention(32, heads=1)(x), x)
    for modulation in ("scale_shift", "add"):
        sizes = {"image_size": 8, "base_channels": 32, "channel_mult": (1,), "attention_sizes": (), "head_channels": 32}
        block = ResidualBlock(EncoderConfig(**sizes, dropout=0.5, modulation=modulation), 32, 32)
        assert torch.equal(block(x, e), x)


def test_timestep_class_and_picture_all_matter():
    network = tiny.awakened(unet(num_classes=3))
    y = torch.tensor([0, 2])
    output = network(images(), T, y)
    for other in (
        network(images() + 0.1, T, y),
        network(images(), T + 1, y),
        network(images(), T, torch.tensor([1, 1])),
    ):
        assert float((other - output).abs().amax(dim=(1, 2, 3)).min()) > 1e-4


def test_every_picture_is_treated_by_itself():
    network = tiny.awakened(unet())
    together = network(images(), T)
    alone = torch.cat([network(images()[i : i + 1], T[i : i + 1]) for i in range(BATCH)])
    assert torch.allclose(together, alone, rtol=0, atol=1e-5 * float(together.abs().max()))  # other kernels


def test_float64_is_kept_throughout():
    network = tiny.awakened(unet()).double()
    output = network(images().double(), T.double())
    assert output.dtype == torch.float64
    rounded = network.float()(images(), T)
    error = float((rounded.double() - output).abs().max())
    assert 0 < error < 1e-5 * float(output.abs().max())


def test_heads_may_be_counted_in_place_of_their_channels():
    by_channels = unet(channel_mult=(2.0, 2.0), head_channels=32)
    by_count = unet(channel_mult=(2.0, 2.0), head_channels=None, heads=2)
    by_count.load_state_dict(by_channels.state_dict())
    x = images()
    assert torch.equal(tiny.awakened(by_channels)(x, T), tiny.awakened(by_count)(x, T))


def test_attention_lies_where_it_is_asked_for_and_in_the_middle():
    def attended(**changes) -> list[str]:
        return [name for name, module in unet(**changes).named_modules() if type(module).__name__ == "SelfAttention"]

    assert attended(attention_sizes=()) == ["encoder.middle.attention"]
    assert attended(attention_sizes=(8,)) == [
        "encoder.levels.0.blocks.0.attention",
        "encoder.middle.attention",
        "levels.1.blocks.0.attention",
        "levels.1.blocks.1.attention",
    ]


def test_dropout_acts_in_training_alone():
    network = tiny.awakened(unet(dropout=0.5))
    assert torch.equal(network(images(), T), network(images(), T))
    network.train()
    assert not torch.equal(network(images(), T), network(images(), T))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 1, 9, 8), "height 9 is not a multiple of this network's down-factor 2; the next sizes .* 8 and 10"),
        ((2, 1, 8, 1), "width 1 is not a multiple of this network's down-factor 2; the smallest size that works is 2"),
        ((2, 3, 8, 8), r"expected images \(batch, 1, height, width\), got \(2, 3, 8, 8\)"),
        ((1, 8, 8), r"expected images \(batch, 1, height, width\), got \(1, 8, 8\)"),
    ],
)
def test_pictures_that_do_not_fit_are_refused_with_what_does(shape, message):
    with pytest.raises(ValueError, match=message):
        unet()(torch.zeros(shape), T)


def test_labels_are_given_exactly_where_the_network_has_classes():
    with pytest.raises(ValueError, match="conditional on 3 classes; give it labels y"):
        unet(num_classes=3)(images(), T)
    with pytest.raises(ValueError, match="labels were given to an unconditional network; leave them out"):
        unet()(images(), T, torch.tensor([0, 1]))


REFUSED = {
    "image_size 9 cannot be halved 1 times; the next sizes that work are 8 and 10": {"image_size": 9},
    "image_size 3 cannot be halved 2 times; the smallest size that works is 4": {
        "image_size": 3, "channel_mult": (1.0, 1.0, 1.0), "attention_sizes": ()
    },
    r"attention_sizes \[3, 16\] are no feature-map sides of this network; it has \(8, 4\)": {
        "attention_sizes": (16, 4, 3)
    },
    "give exactly one of head_channels and heads, .* got head_channels 32 and heads 2": {"heads": 2},
    "give exactly one of head_channels and heads, .* got head_channels None and heads None": {"head_channels": None},
    r"level 1 has 48 channels \(base_channels 32 times 1.5\); group normalisation needs a multiple of 32": {
        "channel_mult": (1.0, 1.5)
    },
    r"level 0 has 0 channels": {"base_channels": 0},
    "64 channels cannot be split into heads of 48 channels": {"head_channels": 48},
    "64 channels cannot be split into 3 heads": {"head_channels": None, "heads": 3},
    "network.dropout is a probability below 1, got 1.0": {"dropout": 1.0},
    "at least one level": {"channel_mult": ()},
    "one block a level": {"blocks_per_level": 0},
}  # fmt: skip


@pytest.mark.parametrize("message", REFUSED)
def test_networks_that_cannot_be_built_are_refused_with_the_reason(message):
    with pytest.raises(ValueError, match=message):
        EncoderConfig(**(SETTINGS | REFUSED[message]))


def test_the_null_class_is_one_label_more_and_a_network_without_it_is_as_it_was():
    plain, nullable = unet(num_classes=3), unet(num_classes=3, null_class=True)
    assert {name: tuple(p.shape) for name, p in plain.named_parameters()} | {"label.weight": (4, 128)} == {
        name: tuple(p.shape) for name, p in nullable.named_parameters()
    }
    network = tiny.awakened(nullable)
    x = images()
    outputs = [network(x, T, torch.tensor([label, label])) for label in range(4)]
    for label, output in enumerate(outputs[:3]):
        assert float((output - outputs[3]).abs().max()) > 1e-4, label


def test_a_null_class_needs_classes():
    with pytest.raises(ValueError, match="null_class needs classes, but num_classes is null"):
        unet(null_class=True)


def test_what_the_blocks_are_told_besides_is_added_to_the_timesteps_embedding():
    network = tiny.awakened(unet())
    x = images()
    assert torch.equal(network(x, T, extra_embedding=torch.zeros(BATCH, 128)), network(x, T))
    difference = network.encoder.time(T + 5) - network.encoder.time(T)
    assert torch.allclose(network(x, T, extra_embedding=difference), network(x, T + 5), rtol=0, atol=1e-5)
