"""Meanings of network outputs: conversions by identity, variances by their definitions, and the published numbers.

Of the published `p/...` numbers one group is left out, `denoised_fn`: a hook that edits x_0 before it is clipped. A
function from denoiser to denoiser does the same here (`tilted`, `extrapolated`), so `NetworkDenoiser` has no such hook.
"""

import math

import pytest
import torch
from oracles import golden
from oracles.mixture import draws
from oracles.stub_network import CASES, StubNetwork
from torch.testing import assert_close

from guided_diffusion.diffusion.chain import Coefficient, posterior_mean, q_sample, v_target, x0_from_eps
from guided_diffusion.diffusion.denoiser import (
    TARGET,
    NetworkDenoiser,
    has_learned_variance,
    interpret,
    split_output,
    transition,
)
from guided_diffusion.diffusion.model import DiffusionConfig
from guided_diffusion.diffusion.schedules import (
    ChainConfig,
    chain_from_betas,
    linear_betas,
    make_chain,
    sampling_chain,
    timestep_subset,
)
from guided_diffusion.models.unet import UNetConfig

CHAIN = chain_from_betas(linear_betas(1000)).shortened(timestep_subset(1000, "25"))
x0, eps = draws(3, 2, 4, 4, seed=1).clamp(-1, 1), draws(3, 2, 4, 4, seed=2)


@pytest.mark.parametrize("k", [0, 1, 12, 24])
@pytest.mark.parametrize("prediction", ["eps", "x0", "v", "mean"])
def test_a_network_that_hits_its_target_denoises_exactly(prediction, k):
    """Rounding grows by sqrt(1 / alpha_bar) for eps, by the inverse weight of x_0 for the mean: below 1e4 here."""
    step = CHAIN.at(k, like=x0)
    x_t = q_sample(x0, eps, step)
    target = TARGET[prediction](x0, eps, x_t, step)
    estimate = interpret(target, x_t, step, prediction=prediction, variance="small")
    assert_close(estimate.x0, x0, rtol=0, atol=1e-11)
    mean, _ = transition(estimate, x_t, step)
    assert_close(mean, TARGET["mean"](x0, eps, x_t, step), rtol=0, atol=1e-11)


def test_fixed_variances_are_the_posteriors_and_beta():
    x_t = draws(3, 2, 4, 4)
    for k in (1, 12, 24):
        step = CHAIN.at(k, like=x_t)
        beta = 1 - step.alpha_bar / step.alpha_bar_prev
        _, small = transition(interpret(x_t, x_t, step, prediction="x0", variance="small"), x_t, step)
        _, large = transition(interpret(x_t, x_t, step, prediction="x0", variance="large"), x_t, step)
        assert small == pytest.approx(beta * (1 - step.alpha_bar_prev) / (1 - step.alpha_bar), rel=1e-12)
        assert large == pytest.approx(beta, rel=1e-12)


def test_at_the_last_link_small_variance_is_zero_and_both_logarithms_are_the_second_entry():
    step, second = CHAIN.at(0, like=x0), CHAIN.at(1, like=x0)
    small = interpret(x0, x0, step, prediction="x0", variance="small")
    large = interpret(x0, x0, step, prediction="x0", variance="large")
    assert transition(small, x0, step)[1] == 0
    assert transition(large, x0, step)[1] == pytest.approx(math.exp(second.log_var_min), rel=1e-12)
    assert small.log_var == large.log_var == second.log_var_min


def test_learned_range_ends_at_the_two_fixed_variances():
    step = CHAIN.at(12, like=x0)
    for value, expected in (
        (-1, step.log_var_min),
        (1, step.log_var_max),
        (0, (step.log_var_min + step.log_var_max) / 2),
    ):
        output = torch.cat([x0, torch.full_like(x0, value)], dim=1)
        estimate = interpret(output, x0, step, prediction="x0", variance="learned_range")
        assert_close(estimate.log_var, torch.full_like(x0, expected), rtol=1e-14, atol=0)


def test_learned_variance_is_the_other_half_of_the_output_itself():
    output = draws(3, 4, 4, 4)
    estimate = interpret(output, x0, CHAIN.at(12, like=x0), prediction="x0", variance="learned")
    assert torch.equal(estimate.x0, output[:, :2])
    assert torch.equal(estimate.log_var, output[:, 2:])
    mean_and_var = transition(estimate, x0, CHAIN.at(12, like=x0))
    assert torch.equal(mean_and_var[1], output[:, 2:].exp())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("variance", ["small", "large", "learned", "learned_range"])
@pytest.mark.parametrize("prediction", ["eps", "x0", "v", "mean"])
def test_one_step_per_sample_agrees_with_one_step_for_all(prediction, variance, dtype):
    """The last link among them, where the fixed variances are not what their logarithms say."""
    x_t = draws(3, 2, 4, 4, dtype=dtype)
    output = draws(3, 4 if has_learned_variance(variance) else 2, 4, 4, seed=5, dtype=dtype)
    indices = torch.tensor([0, 1, 24])
    mixed = CHAIN.at(indices, like=x_t)
    mixed_mean, mixed_var = transition(
        interpret(output, x_t, mixed, prediction=prediction, variance=variance), x_t, mixed
    )
    assert mixed_mean.dtype == mixed_var.dtype == dtype
    tolerance = 4 * torch.finfo(dtype).eps
    for row, k in enumerate(indices.tolist()):
        step = CHAIN.at(k, like=x_t)
        estimate = interpret(output, x_t, step, prediction=prediction, variance=variance)
        mean, var = transition(estimate, x_t, step)
        assert_close(mixed_mean[row], mean[row], rtol=tolerance, atol=tolerance)
        expected = var[row] if isinstance(var, torch.Tensor) else torch.full_like(mixed_var[row], var)
        assert_close(mixed_var[row], expected, rtol=16 * tolerance, atol=0)


def test_clipping_bounds_x0_and_is_left_out_on_demand():
    step = CHAIN.at(20, like=x0)
    x_t = draws(3, 2, 4, 4)

    def network(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return torch.full_like(x, 3.0) * x.sign()

    unclipped = NetworkDenoiser(network, "x0", "small", clip=None)(x_t, step).x0
    assert unclipped.abs().max() == 3
    for clip in (1.0, 0.5):
        clipped = NetworkDenoiser(network, "x0", "small", clip=clip)(x_t, step).x0
        assert torch.equal(clipped, unclipped.clamp(-clip, clip))
    assert torch.equal(NetworkDenoiser(network, "x0", "small")(x_t, step).x0, unclipped.clamp(-1, 1))


def test_a_networks_own_mean_is_not_clipped():
    step = CHAIN.at(20, like=x0)
    estimate = NetworkDenoiser(lambda x, t: 5 * x, "mean", "small")(x0, step)
    assert torch.equal(transition(estimate, x0, step)[0], 5 * x0)
    assert estimate.x0.abs().max() <= 1


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("spec", ["", "25", "ddim25", "10,5,5"])
def test_a_predicted_mean_gives_the_exact_x0_and_the_longer_links_mean_on_a_shortened_chain(schedule, spec):
    """Images N(1, 0.25) have E[x_0 | x_t] = 1 + 0.25 a (x_t - a) / (0.25 a^2 + 1 - a^2), a = sqrt(alpha_bar).

    Solving the mean of a link of the whole chain for x_0 magnifies rounding by the inverse of its weight, below 1e4.
    """
    config = ChainConfig(schedule=schedule)
    whole, chain = make_chain(config), sampling_chain(config, spec)

    def expected_x0(x_t: torch.Tensor, alpha_bar: Coefficient) -> torch.Tensor:
        return 1 + 0.25 * alpha_bar**0.5 * (x_t - alpha_bar**0.5) / (0.25 * alpha_bar + 1 - alpha_bar)

    def network(x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        link = whole.at(t.long(), like=x_t)
        return posterior_mean(x_t, expected_x0(x_t, link.alpha_bar), link)

    encoder = UNetConfig(
        image_size=8, in_channels=2, out_channels=2, base_channels=64, channel_mult=(1,), attention_sizes=()
    )
    model = DiffusionConfig(network=encoder, chain=config, prediction="mean", variance="small")
    denoiser, x_t = model.denoiser(network, None, clip=None), draws(3, 2, 4, 4, seed=3)
    for k in (0, 1, len(chain) // 2, len(chain) - 1, torch.tensor([0, 1, len(chain) - 1])):
        step = chain.at(k, like=x_t)
        estimate, x0 = denoiser(x_t, step), expected_x0(x_t, step.alpha_bar)
        assert_close(estimate.x0, x0, rtol=0, atol=1e-11)
        assert_close(transition(estimate, x_t, step)[0], posterior_mean(x_t, x0, step), rtol=0, atol=1e-11)


def test_a_network_of_lower_precision_leaves_the_images_precision():
    step = CHAIN.at(20, like=x0)
    for prediction in ("eps", "x0", "v", "mean"):
        denoiser = NetworkDenoiser(lambda x, t: torch.cat([x, x], 1).half(), prediction, "learned_range")
        estimate = denoiser(x0.float(), step)
        assert estimate.x0.dtype == estimate.log_var.dtype == torch.float32


def test_networks_are_told_the_steps_timesteps():
    told = []
    denoiser = NetworkDenoiser(lambda x, t: told.append(t) or x, "x0", "small")
    denoiser(x0, CHAIN.at(24, like=x0))
    denoiser(x0, CHAIN.at(torch.tensor([0, 12, 24]), like=x0))
    assert [t.tolist() for t in told] == [[999.0] * 3, [0.0, 500.0, 999.0]]


@pytest.mark.parametrize(("variance", "wanted"), [("small", 2), ("large", 2), ("learned", 4), ("learned_range", 4)])
def test_an_output_with_the_wrong_number_of_channels_is_refused(variance, wanted):
    with pytest.raises(
        ValueError, match=f'gave 3 channels for images of 2; with variance "{variance}" it must give {wanted}'
    ):
        split_output(draws(3, 3, 4, 4), x0, variance)


@pytest.fixture(scope="module", params="ABC")
def published(request) -> StubNetwork:
    return StubNetwork(request.param)


def test_networks_are_told_the_published_timesteps(published):
    assert published.step.t.tolist() == published.arrays["model_t"].tolist()


@pytest.mark.parametrize("clip", [None, 1.0], ids=["unclipped", "clipped"])
@pytest.mark.parametrize(("mean", "var"), CASES)
def test_estimates_equal_the_published_ones(published, mean, var, clip):
    """1e-5 of the largest: both evaluate in float32, which solving for x_0 magnifies evenly."""
    estimate = published.denoiser(mean, var, clip=clip)(published.x_t, published.step)
    actual_mean, actual_var = transition(estimate, published.arrays["x_t"], published.step)
    case = f"p/{mean}/{var}/clip{int(clip is not None)}"
    golden.assert_near(estimate.x0, published.arrays[f"{case}/pred_xstart"], 1e-5)
    golden.assert_near(actual_mean, published.arrays[f"{case}/mean"], 1e-5)
    golden.assert_near(estimate.log_var, published.arrays[f"{case}/log_variance"], 1e-5)
    # Each element on its own too: variances span five decades.
    expected = published.arrays[f"{case}/variance"]
    assert_close(golden.like(actual_var, expected), expected, rtol=1e-5, atol=0)


def test_v_gives_what_eps_gives_published(published):
    """The published code predicts no v: the v of its eps output must lead to the same x_0."""
    x_t = published.arrays["x_t"].double()
    eps_output = published.output("fixed_small").double()
    step = published.step
    v_output = v_target(x0_from_eps(x_t, eps_output, step), eps_output, step)
    estimate = interpret(v_output, x_t, step, prediction="v", variance="small")
    golden.assert_near(estimate.x0, published.arrays["p/epsilon/fixed_small/clip0/pred_xstart"], 1e-5)
