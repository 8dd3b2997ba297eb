"""The upsampler: a U-Net that sees a low-resolution image."""

from dataclasses import replace

import pytest
import torch
from oracles.golden import arrays, like
from torch import Tensor

from guided_diffusion.models.upsampler import Upsampler, UpsamplerConfig

CONFIG = UpsamplerConfig(
    image_size=16,
    low_res_size=4,
    base_channels=32,
    channel_mult=(1, 1),
    attention_sizes=(),
    heads=1,
    head_channels=None,
)


@pytest.fixture
def upsampler() -> Upsampler:
    return _filled(CONFIG)


def _filled(config: UpsamplerConfig) -> Upsampler:
    torch.manual_seed(0)
    network = Upsampler(config).double().requires_grad_(False)
    for parameter in network.parameters():  # the last layer starts at zero, and would hide everything before it
        torch.nn.init.normal_(parameter, std=0.1)
    return network


def _x_and_t() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 3, 16, 16, generator=generator, dtype=torch.float64), torch.tensor([3, 700])


def test_configured_channels_are_the_images_alone(upsampler: Upsampler):
    x, t = _x_and_t()
    assert upsampler.config.in_channels == 3
    assert upsampler.unet.encoder.conv_in.weight.shape[1] == 6
    assert upsampler(x, t, low_res=torch.zeros(2, 3, 4, 4, dtype=x.dtype)).shape == (2, 6, 16, 16)


def test_low_res_is_stretched_with_half_pixel_centres_and_comes_after_x(upsampler: Upsampler):
    x, t = _x_and_t()
    ramp = torch.tensor([-1.0, 1.0], dtype=x.dtype).expand(2, 3, 2, 2)
    # Between the centres of two pixels, at 1/4 and 3/4 of the side, the ramp is straight; beyond them it is flat.
    centres = (torch.arange(16, dtype=x.dtype) + 0.5) / 16
    stretched = ((centres - 0.25) / 0.5 * 2 - 1).clamp(-1, 1).expand(2, 3, 16, 16)
    torch.testing.assert_close(
        upsampler(x, t, low_res=ramp), upsampler.unet(torch.cat([x, stretched], dim=1), t), rtol=1e-12, atol=1e-12
    )


def test_stretching_gives_the_stored_images(upsampler: Upsampler):
    stored = arrays("data")
    seen: list[Tensor] = []
    upsampler.unet.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    for name in (name for name in stored if name.endswith("_upsampled_bilinear")):
        expected, low_res = stored[name], stored[name.removesuffix("_upsampled_bilinear")]
        x = torch.zeros(1, 3, *((20, 16) if "nonsquare" in name else (48, 48)))
        upsampler.float()(x, torch.zeros(len(x)), low_res=low_res)
        torch.testing.assert_close(like(seen[-1][:, 3:], expected), expected, rtol=0, atol=1e-6)
    assert seen


def test_low_res_matters(upsampler: Upsampler):
    x, t = _x_and_t()
    low, high = (upsampler(x, t, low_res=torch.full((2, 3, 4, 4), value, dtype=x.dtype)) for value in (-1.0, 1.0))
    assert float((low - high).abs().max()) > 1e-3


def test_labels_reach_the_network():
    network = _filled(replace(CONFIG, num_classes=2))
    x, t = _x_and_t()
    low_res = torch.zeros(2, 3, 4, 4, dtype=x.dtype)
    outputs = [network(x, t, torch.tensor(y), low_res=low_res) for y in ([0, 0], [1, 1])]
    assert float((outputs[0] - outputs[1]).abs().max()) > 1e-3


@pytest.mark.parametrize("shape", [(1, 3, 4, 4), (2, 1, 4, 4), (2, 3, 4)])
def test_low_res_of_another_batch_or_channel_count_is_refused(upsampler: Upsampler, shape: tuple[int, ...]):
    x, t = _x_and_t()
    with pytest.raises(ValueError, match=r"low_res must be .* batch and channels of x, \(2, 3\); got"):
        upsampler(x, t, low_res=torch.zeros(shape))


@pytest.mark.parametrize("side", [0, 16, 32])
def test_a_low_res_size_that_is_no_reduction_is_refused(side: int):
    with pytest.raises(ValueError, match="low_res_size is .* give a side between 1 and 15"):
        replace(CONFIG, low_res_size=side)


NOISED = replace(CONFIG, conditioning_noise=0.5)


def test_before_training_a_network_that_is_told_the_noise_of_low_res_is_the_one_that_is_not():
    told = Upsampler(NOISED).double().requires_grad_(False)
    for parameter in told.unet.parameters():  # whose own zeros would hide what the embedding does
        torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(0))
    x, t = _x_and_t()
    low_res = torch.full((2, 3, 4, 4), 0.3, dtype=x.dtype)
    rate = torch.tensor([0.1, 0.5], dtype=x.dtype)
    untold = Upsampler(CONFIG).double().requires_grad_(False)
    untold.unet.load_state_dict(told.unet.state_dict())
    output = told(x, t, low_res=low_res, conditioning_noise=rate)
    assert float(output.abs().max()) > 0
    assert torch.equal(output, untold(x, t, low_res=low_res))


def test_the_noise_of_low_res_matters_sample_by_sample_and_none_means_clean():
    network = _filled(NOISED)
    x, t = _x_and_t()
    low_res = torch.zeros(2, 3, 4, 4, dtype=x.dtype)

    def output(*rates: float) -> Tensor:
        return network(x, t, low_res=low_res, conditioning_noise=torch.tensor(rates, dtype=x.dtype))

    assert torch.equal(output(0.0, 0.0), network(x, t, low_res=low_res))
    assert float((output(0.0, 0.3) - output(0.0, 0.0))[1].abs().max()) > 1e-3
    torch.testing.assert_close(output(0.0, 0.3)[0], output(0.0, 0.0)[0], rtol=0, atol=1e-12)


def test_a_network_that_is_not_told_the_noise_refuses_it(upsampler: Upsampler):
    x, t = _x_and_t()
    with pytest.raises(ValueError, match="for clean low-resolution images; leave conditioning_noise out"):
        upsampler(x, t, low_res=torch.zeros(2, 3, 4, 4, dtype=x.dtype), conditioning_noise=torch.zeros(2))


@pytest.mark.parametrize("largest", [0.0, -0.1, 1.01])
def test_a_largest_noise_rate_that_is_none_is_refused(largest: float):
    with pytest.raises(ValueError, match="conditioning_noise is a noise rate above 0 and at most 1, or null for none"):
        replace(CONFIG, conditioning_noise=largest)
