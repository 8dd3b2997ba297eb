"""The choice of a precision for sampling."""

import json
from functools import partial

import pytest
import tiny
import torch
from tiny import generate
from torch import Tensor, nn

from guided_diffusion.commands.sample import SampleConfig
from guided_diffusion.diffusion.denoiser import NetworkDenoiser
from guided_diffusion.diffusion.schedules import chain_from_betas, linear_betas
from guided_diffusion.generation.half_precision import least_lossy_half, relative_losses, sampling_precision


class Amplifier(nn.Module):
    """A linear network whose inner values are `gain` times its input."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.into, self.out = nn.Conv2d(3, 3, 1, bias=False), nn.Conv2d(3, 3, 1, bias=False)
        nn.init.dirac_(self.into.weight)
        nn.init.dirac_(self.out.weight)
        self.into.weight.data *= 1.1 * gain
        self.out.weight.data *= 0.7 / gain
        self.requires_grad_(False)

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        return self.out(self.into(x_t))


def how(gain: float):
    bind = partial(NetworkDenoiser, prediction="eps", variance="small")
    chain = chain_from_betas(linear_betas(100))
    return {"network": Amplifier(gain), "bind": bind, "chain": chain, "shape": (3, 8, 8), "device": torch.device("cpu")}


def test_float16_is_chosen_for_its_bits_and_bfloat16_where_float16_overflows():
    assert least_lossy_half(**how(1.0)) == "float16"
    assert least_lossy_half(**how(1e5)) == "bfloat16"


def test_losses_are_those_of_the_formats_bits():
    float32, float16, bfloat16 = relative_losses(**how(1.0), precisions=["float32", "float16", "bfloat16"])
    assert float32 == 0
    assert 2**-13 < float16 < 2**-10  # half of the last of 11 bits, in weights, values and output
    assert 2**-10 < bfloat16 < 2**-7
    assert relative_losses(**how(1e5), precisions=["float16"]) == [torch.inf]


def never() -> str:
    raise AssertionError("measured without need")


def test_on_a_cpu_auto_is_float32_and_a_run_records_it(tmp_path, model):
    assert sampling_precision("auto", torch.device("cpu"), measured=never) == "float32"
    settings = tiny.sample_config(tmp_path / "out", num_samples=2, steps=2)
    assert settings.precision == "auto"
    generate(settings, model)
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["precision"] == "float32"


def test_a_run_that_goes_on_keeps_the_precision_of_its_samples(tmp_path, model):
    generate(tiny.sample_config(tmp_path / "out", num_samples=2, steps=2, precision="bfloat16"), model)
    gpu, directories = torch.device("cuda"), (tmp_path / "none", tmp_path / "out")
    assert sampling_precision("auto", gpu, directories=directories, measured=never) == "bfloat16"
    assert sampling_precision("float16", gpu, directories=directories, measured=never) == "float16"
    assert sampling_precision("auto", gpu, measured=lambda: "float16") == "float16"


def test_a_manifest_without_a_known_precision_leaves_the_choice(tmp_path, model):
    generate(tiny.sample_config(tmp_path, num_samples=2, steps=2), model)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    for value in ("fp8", None):
        (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"precision": value}))
        found = sampling_precision("auto", torch.device("cuda"), directories=[tmp_path], measured=lambda: "bfloat16")
        assert found == "bfloat16"


def test_unknown_precisions_are_refused(tmp_path):
    with pytest.raises(ValueError, match='no precision "fp8"'):
        sampling_precision("fp8", torch.device("cpu"), measured=never)  # type: ignore[arg-type]
    assert SampleConfig(out=tmp_path, diffusion=tmp_path).compile == "auto"
