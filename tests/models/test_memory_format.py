"""Memory formats: the rule, and that they change rounding alone."""

import pytest
import torch

from guided_diffusion.models.memory_format import memory_format_of
from guided_diffusion.models.unet import UNet, UNetConfig


@pytest.mark.parametrize(
    ("device", "size", "compiled", "expected"),
    [
        ("cpu", 8, False, torch.channels_last),
        ("cpu", 256, False, torch.channels_last),
        ("cuda", 64, False, torch.channels_last),
        ("cuda", 256, False, torch.contiguous_format),
        ("cuda", 256, True, torch.channels_last),
    ],
)
def test_the_format_follows_from_device_size_and_compilation(device, size, compiled, expected):
    assert memory_format_of(torch.device(device), size, compiled=compiled) == expected


def test_both_formats_give_the_same_outputs_and_gradients_up_to_rounding():
    torch.manual_seed(0)
    config = UNetConfig(image_size=16, base_channels=32, channel_mult=(1, 2), attention_sizes=(8,), head_channels=32)
    network, x, t = UNet(config).eval(), torch.randn(2, 3, 16, 16), torch.tensor([5.0, 900.0])
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.05)

    def outputs() -> list[torch.Tensor]:
        x_in = x.clone().requires_grad_(True)
        differentiated = network(x_in, t)  # keeps what its gradient needs, which nothing may overwrite
        with torch.no_grad():
            plain = network(x, t)
        return [plain, differentiated.detach(), *torch.autograd.grad(differentiated.sum(), x_in)]

    plain = outputs()
    network.to(memory_format=torch.channels_last)
    for found, expected in zip(outputs(), plain, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(plain[0], plain[1], rtol=1e-6, atol=1e-6)
