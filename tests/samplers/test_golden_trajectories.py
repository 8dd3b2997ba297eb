"""Trajectories of the samplers, with real networks and guidance, against stored ones of the published code.

Left out: the guided runs of `sampling_uncond`, whose classifier pools spatially, which no released model does.

Each run is compared as a whole, and from stored states over one or two links, which accumulate no rounding. Tolerances
are those that the stored set recommends: for links 1e-4 of max(1, max|x|), for whole runs 20 times what another
convolution library changes in the published run itself (5e-6 to 6e-5; but 0.024 at scale 10 over 25 links, which are
chaotic, so that run is held by its links). The classifier's logits are multiplied by 20, so that a random network
guides strongly enough to show an error.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial

import pytest
import torch
from oracles.golden import arrays, like, sidecar
from oracles.published import built, published_flags, published_weights
from torch import Tensor, nn

from guided_diffusion.diffusion.chain import DiffusionChain, sigma
from guided_diffusion.diffusion.denoiser import Estimate, NetworkDenoiser
from guided_diffusion.diffusion.schedules import ChainConfig, make_chain, timestep_subset
from guided_diffusion.guidance import ScoreTerm, classifier_score, tilted
from guided_diffusion.openai import convert
from guided_diffusion.samplers import ddim, ddim_reverse, ddpm

FILES = ("sampling_cc", "sampling_superres", "sampling_uncond", "sampling_xstart_rescaled")
RUNS = [(name, run["name"]) for name in FILES for run in sidecar(name)["runs"]]


class _StopError(Exception):
    """Ends a sampler after the link it was run for."""


@dataclass
class Published:
    """A stored run, and our parts that repeat it; the timesteps that networks are told are noted."""

    file: str
    run: str
    unet_t: list[Tensor] = field(default_factory=list)
    classifier_t: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.stored, self.described = arrays(self.file), sidecar(self.file)
        self.options = next(run for run in self.described["runs"] if run["name"] == self.run)

    @property
    def is_reverse(self) -> bool:
        return self.options["sampler"] == "ddim_reverse"

    @property
    def start(self) -> Tensor:
        return self.stored["x_0_for_reverse" if self.is_reverse else "x_T"]

    def __getitem__(self, name: str) -> Tensor:
        return self.stored[f"{self.run}/{name}"]

    @property
    def chain(self) -> DiffusionChain:
        described = self.described["diffusion"]
        config = ChainConfig(
            schedule=described["schedule"], num_steps=described["T"], rescale_t=described["rescale_timesteps"]
        )
        return make_chain(config).shortened(timestep_subset(described["T"], self.options["respacing"]))

    @property
    def denoiser(self) -> NetworkDenoiser:
        described, network = self.described["diffusion"], _network(self.file, "unet")
        bound: dict[str, Tensor] = {"low_res": self.stored["low_res"]} if "low_res" in self.stored else {}
        if self.described["unet"]["num_classes"] is not None:
            bound["y"] = self.stored["y"]
        prediction = {"epsilon": "eps", "x_start": "x0"}[described["model_mean"]]
        variance = {"learned_range": "learned_range", "fixed_large": "large"}[described["model_var"]]
        clip = 1.0 if self.options["clip_denoised"] else None
        return NetworkDenoiser(self._noting(partial(network, **bound), self.unet_t), prediction, variance, clip)

    @property
    def term(self) -> ScoreTerm | None:
        scale, multiplier = self.options["guidance_scale"], self.described["classifier_logits_multiplier"]
        if scale is None:
            return None
        network = _network(self.file, "classifier")

        def log_prob(x_t: Tensor, t: Tensor) -> Tensor:
            return (multiplier * network(x_t, t)).log_softmax(dim=1)

        return classifier_score(self._noting(log_prob, self.classifier_t), self.stored["y"], scale)

    @staticmethod
    def _noting(network: Callable[[Tensor, Tensor], Tensor], told: list[Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
        def noting(x: Tensor, t: Tensor) -> Tensor:
            told.append(t)
            return network(x, t)

        return noting

    def sample(self, x: Tensor, chain: DiffusionChain, *, first_noise: int, on_step: Callable[..., None]) -> None:
        """Run along a chain from x, with the stored noise from number `first_noise` on."""
        draws = iter(self.stored["noise"][first_noise:])
        noise, term, denoiser = (lambda like: next(draws)), self.term, self.denoiser
        if self.is_reverse:
            ddim_reverse(denoiser, chain, x, on_step=on_step)
        elif self.options["sampler"] == "ddpm":
            ddpm(denoiser, chain, x, noise, mean_shift=term, on_step=on_step)
        else:
            guided = denoiser if term is None else tilted(denoiser, term)
            ddim(guided, chain, x, noise, eta=self.options["eta"], on_step=on_step)

    def links(self, x: Tensor, first: int, count: int) -> tuple[list[Tensor], Tensor]:
        """The states after `count` links beginning at x with step number `first`, and the last estimate of x_0."""
        states: list[Tensor] = []
        estimates: list[Tensor] = []

        def on_step(k: int, x: Tensor, estimate: Estimate) -> None:
            states.append(x)
            estimates.append(estimate.x0)
            if len(states) == count:
                raise _StopError

        chain = self.chain
        part = slice(first, None) if self.is_reverse else slice(None, len(chain) - first)
        with pytest.raises(_StopError):
            self.sample(x, DiffusionChain(chain.alpha_bar[part], chain.t[part]), first_noise=first, on_step=on_step)
        return states, estimates[-1]


@cache
def _network(file: str, part: str) -> nn.Module:
    described, stored = sidecar(file), arrays(file)
    weights = published_weights(described[f"{part}_state_dict"], described[f"{part}_weights"])
    low_res = stored.get("low_res")
    return built(convert(published_flags(described[part], low_res_size=_side(low_res)), weights))


def _side(images: Tensor | None) -> int | None:
    return None if images is None else images.shape[-1]


def _assert_close(x: Tensor, expected: Tensor, tolerance: float) -> None:
    error = float((like(x, expected) - expected).abs().max())
    assert error <= tolerance, f"off by {error:.3g}, allowed {tolerance:.3g}"


def _one_link(expected: Tensor) -> float:
    return 1e-4 * max(1.0, float(expected.abs().max()))


@pytest.fixture(params=RUNS, ids="-".join)
def published(request: pytest.FixtureRequest) -> Published:
    return Published(*request.param)


def test_every_run_in_scope_is_here():
    assert len(RUNS) == 12 + 2 + 3 + 5


def test_trajectory_and_the_timesteps_that_networks_are_told_are_the_published_ones(published: Published):
    states: list[Tensor] = []
    published.sample(published.start, published.chain, first_noise=0, on_step=lambda k, x, estimate: states.append(x))
    assert len(states) == published.options["steps"]
    for number, expected in zip(published["x_steps"], published["x"], strict=True):
        _assert_close(states[int(number)], expected, 20 * published.options["backend_difference_max"])
    assert torch.equal(torch.stack(published.unet_t), published["unet_t"].float())
    if published.options["guidance_scale"] is not None:
        assert torch.equal(torch.stack(published.classifier_t), published["classifier_t"].float())


def test_kept_timesteps_are_the_published_ones(published: Published):
    rescaled = published.described["diffusion"]["rescale_timesteps"]
    factor = 1000 / published.described["diffusion"]["T"] if rescaled else 1
    assert torch.equal(published.chain.t, published["timestep_map"] * factor)


def test_first_link_is_the_published_one(published: Published):
    (x,), _ = published.links(published.start, first=0, count=1)
    _assert_close(x, published["x"][0], _one_link(published["x"][0]))


def test_link_in_the_middle_is_the_published_one(published: Published):
    before, after = published["starts"][0], published["x"][2]
    (x,), _ = published.links(before, first=int(published["x_steps"][2]), count=1)
    _assert_close(x, after, _one_link(after))


def test_last_two_links_and_the_reported_x0_are_the_published_ones(published: Published):
    first = int(published["x_steps"][4])
    states, x0 = published.links(published["starts"][1], first=first, count=2)
    for x, expected in zip(states, published["x"][4:], strict=True):
        _assert_close(x, expected, _one_link(expected))
    assert int(published["pred_xstart_steps"][-1]) == first + 1
    # At the noisy end of the chain x_0 = (x_t - ..) / sqrt(alpha_bar) magnifies the network's rounding by sigma.
    magnified = published.is_reverse and published.denoiser.prediction == "eps"
    noise_level = sigma(float(published.chain.alpha_bar[-1])) if magnified else 0.0
    _assert_close(x0, published["pred_xstart"], max(_one_link(x0), 2e-5 * noise_level))


def test_the_tolerance_notices_guidance_half_as_strong():
    published = Published("sampling_cc", "ddpm10_s4")
    published.options = {**published.options, "guidance_scale": 2.0}
    states: list[Tensor] = []
    published.sample(published.start, published.chain, first_noise=0, on_step=lambda k, x, estimate: states.append(x))
    expected = published["x"][-1]
    error = float((like(states[-1], expected) - expected).abs().max())
    assert error > 10 * 20 * published.options["backend_difference_max"]
