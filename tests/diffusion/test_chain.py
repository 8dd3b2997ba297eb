import math

import pytest
import torch
from oracles import golden
from oracles.mixture import draws, three_blobs
from torch.testing import assert_close

from guided_diffusion.diffusion.chain import (
    DiffusionChain,
    Step,
    eps_from_score,
    eps_from_x0,
    gaussian_kl,
    posterior_mean,
    posterior_mean_weights,
    q_sample,
    scaled,
    sigma,
    v_target,
    x0_from_eps,
    x0_from_posterior_mean,
    x0_from_v,
)
from guided_diffusion.diffusion.schedules import chain_from_betas, cosine_betas, linear_betas, timestep_subset

LINEAR = chain_from_betas(linear_betas(1000))
COSINE = chain_from_betas(cosine_betas(1000))
SHORT = LINEAR.shortened(timestep_subset(1000, "25"))
CHAINS = {"linear": LINEAR, "cosine": COSINE, "shortened": SHORT}
x0, eps = draws(3, 2, 4, 4, seed=1), draws(3, 2, 4, 4, seed=2)


@pytest.fixture(params=[(name, place) for name in CHAINS for place in ("first", "second", "middle", "last")], ids=str)
def step(request) -> Step:
    name, place = request.param
    chain = CHAINS[name]
    return chain.at({"first": 0, "second": 1, "middle": len(chain) // 2, "last": len(chain) - 1}[place], like=x0)


def noise_to_signal(step: Step) -> float:
    """Factor by which solving x_t for x_0 magnifies rounding: up to 2e4 at the noisy end of the cosine chain."""
    return max(1.0, (1 / step.alpha_bar) ** 0.5)


def test_x0_to_eps_and_back_is_identity(step):
    x_t = q_sample(x0, eps, step)
    assert_close(x0_from_eps(x_t, eps, step), x0, rtol=0, atol=1e-14 * noise_to_signal(step))
    # At the clean end it is eps that is magnified, by 1 / sqrt(1 - alpha_bar), at most 100.
    assert_close(eps_from_x0(x_t, x0, step), eps, rtol=0, atol=1e-12)
    assert_close(x0_from_eps(x_t, eps_from_x0(x_t, x0, step), step), x0, rtol=0, atol=1e-12 * noise_to_signal(step))


def test_v_to_x0_is_identity(step):
    x_t = q_sample(x0, eps, step)
    assert_close(x0_from_v(x_t, v_target(x0, eps, step), step), x0, rtol=0, atol=1e-14)


def test_posterior_mean_to_x0_is_identity(step):
    """The weight of x_0 is as small as 3e-4 here, and rounding grows by its inverse."""
    x_t = q_sample(x0, eps, step)
    mean = posterior_mean(x_t, x0, step)
    weight, _ = posterior_mean_weights(step)
    assert_close(x0_from_posterior_mean(x_t, mean, step), x0, rtol=0, atol=2e-14 / weight)


@pytest.mark.parametrize("k", [0, 10, 500, 999])
def test_score_to_eps_gives_the_denoiser(k):
    mixture, x_t = three_blobs(LINEAR), draws(3, 2, 1, 2)
    step = LINEAR.at(k, like=x_t)
    by_score = x0_from_eps(x_t, eps_from_score(mixture.score(x_t, step), step), step)
    assert_close(by_score, mixture.denoiser(x_t, step).x0, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", CHAINS)
def test_posterior_is_bayes_rule(name):
    """q(x_s | x_t, x_0) from the product of q(x_t | x_s) and q(x_s | x_0): precisions add, and they weigh the means."""
    chain = CHAINS[name]
    for k in (1, 2, len(chain) // 2, len(chain) - 1):
        step = chain.at(k, like=x0)
        alpha = chain.alpha_bar[k] / chain.alpha_bar[k - 1]
        prior_mean, prior_var = chain.alpha_bar[k - 1].sqrt() * x0, 1 - chain.alpha_bar[k - 1]
        precision = 1 / prior_var + alpha / (1 - alpha)
        x_t = q_sample(x0, eps, step)
        mean = (prior_mean / prior_var + alpha.sqrt() / (1 - alpha) * x_t) / precision
        # 1e-11: Bayes' route forms 1 - alpha, which at beta 1e-4 keeps twelve digits.
        assert_close(posterior_mean(x_t, x0, step), mean, rtol=1e-11, atol=1e-11)
        assert_close(math.exp(step.log_var_min), 1 / float(precision), rtol=1e-11, atol=0)
        assert_close(math.exp(step.log_var_max), 1 - float(alpha), rtol=1e-11, atol=0)


@pytest.mark.parametrize("name", CHAINS)
def test_links_compose_to_the_marginals(name):
    """Drawing x_s from q(x_s | x_t, x_0) with x_t from q(x_t | x_0) gives q(x_s | x_0), mean and variance."""
    chain = CHAINS[name]
    for k in (1, len(chain) // 2, len(chain) - 1):
        step = chain.at(k, like=x0)
        towards_x0, towards_x_t = posterior_mean_weights(step)
        assert towards_x0 + towards_x_t * step.alpha_bar**0.5 == pytest.approx(step.alpha_bar_prev**0.5, rel=1e-12)
        var = towards_x_t**2 * (1 - step.alpha_bar) + math.exp(step.log_var_min)
        assert var == pytest.approx(1 - step.alpha_bar_prev, rel=1e-11)


def test_the_last_link_ends_in_x0():
    step = SHORT.at(0, like=x0)
    assert step.alpha_bar_prev == 1
    assert_close(posterior_mean(q_sample(x0, eps, step), x0, step), x0, rtol=0, atol=0)


@pytest.mark.parametrize("name", CHAINS)
def test_first_log_variance_is_the_second_of_the_same_chain(name):
    """A shortened chain's own second entry, not that of the chain it came from."""
    chain = CHAINS[name]
    assert chain.at(0, like=x0).log_var_min == chain.at(1, like=x0).log_var_min
    if name == "shortened":
        first, second = chain.alpha_bar[:2].tolist()
        own = (1 - second / first) * (1 - first) / (1 - second)
        assert chain.at(0, like=x0).log_var_min == pytest.approx(math.log(own), rel=1e-12)
        assert chain.at(0, like=x0).log_var_min != pytest.approx(LINEAR.at(0, like=x0).log_var_min, abs=0.5)


def test_shortening_to_all_indices_is_identity():
    same = LINEAR.shortened(torch.arange(1000))
    assert torch.equal(same.alpha_bar, LINEAR.alpha_bar)
    assert torch.equal(same.t, LINEAR.t)


def test_shortening_twice_is_shortening_by_the_composition():
    outer, inner = timestep_subset(1000, "100"), timestep_subset(100, "10,5")
    twice, once = LINEAR.shortened(outer).shortened(inner), LINEAR.shortened(outer[inner])
    assert torch.equal(twice.alpha_bar, once.alpha_bar)
    assert torch.equal(twice.t, once.t)


@pytest.mark.parametrize("name", CHAINS)
def test_one_step_per_sample_agrees_with_one_step_for_all(name):
    chain = CHAINS[name]
    indices = torch.tensor([0, 1, len(chain) - 1])
    mixed = chain.at(indices, like=x0)
    for row, k in enumerate(indices.tolist()):
        step = chain.at(k, like=x0)
        assert float(mixed.t[row]) == float(step.t[0])
        for field in ("alpha_bar", "alpha_bar_prev", "log_var_min", "log_var_max"):
            assert getattr(mixed, field).shape == (3, 1, 1, 1)
            assert float(getattr(mixed, field)[row]) == getattr(step, field), field
        assert_close(q_sample(x0, eps, mixed)[row], q_sample(x0, eps, step)[row], rtol=1e-15, atol=1e-15)


def test_coefficients_broadcast_over_any_number_of_dimensions():
    flat = draws(3, 7)
    assert LINEAR.at(torch.tensor([1, 2, 3]), like=flat).alpha_bar.shape == (3, 1)
    assert q_sample(flat, flat, LINEAR.at(torch.tensor([1, 2, 3]), like=flat)).shape == (3, 7)


@pytest.mark.parametrize("k", [500, torch.tensor([0, 500, 999])], ids=["one step", "one per sample"])
def test_float32_images_stay_float32(k):
    x0_32, eps_32 = x0.float(), eps.float()
    step = LINEAR.at(k, like=x0_32)
    x_t = q_sample(x0_32, eps_32, step)
    outputs = [
        x_t,
        posterior_mean(x_t, x0_32, step),
        x0_from_eps(x_t, eps_32, step),
        eps_from_x0(x_t, x0_32, step),
        v_target(x0_32, eps_32, step),
        x0_from_v(x_t, eps_32, step),
        x0_from_posterior_mean(x_t, x0_32, step),
        eps_from_score(eps_32, step),
    ]
    assert {output.dtype for output in outputs} == {torch.float32}
    assert step.t.dtype == torch.float32


def test_coefficients_are_formed_in_float64_for_float32_images():
    """1 - alpha_bar formed in float32 would be off by 3e-4 at the clean end (beta 1e-4)."""
    step = LINEAR.at(torch.tensor([0]), like=torch.zeros(1, 1, 1, 1))
    noise_only = q_sample(torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1), step)
    assert float(noise_only) == pytest.approx(math.sqrt(1e-4), rel=1e-7)


def test_timesteps_of_bfloat16_images_are_float32():
    like = torch.zeros(2, 1, 1, 1, dtype=torch.bfloat16)
    assert LINEAR.at(999, like=like).t.tolist() == [999.0, 999.0]
    assert LINEAR.at(torch.tensor([999, 997]), like=like).t.tolist() == [999.0, 997.0]


def test_scaled_keeps_dtype_and_gradient():
    x = torch.ones(2, 1, dtype=torch.float32, requires_grad=True)
    product = scaled(torch.tensor([[2.0], [3.0]], dtype=torch.float64), x)
    product.sum().backward()
    assert product.dtype == torch.float32
    assert x.grad.tolist() == [[2.0], [3.0]]


def test_sigma_is_noise_over_signal():
    assert sigma(0.5) == 1.0
    assert sigma(0.2) == pytest.approx(2.0)
    assert sigma(0.0) == float("inf")


def test_kl_of_equal_gaussians_is_zero_and_else_agrees_with_torch():
    mean_1, mean_2, log_var_1, log_var_2 = (draws(50, seed=seed) for seed in range(4))
    assert_close(gaussian_kl(mean_1, log_var_1, mean_1, log_var_1), torch.zeros(50).double(), rtol=0, atol=1e-15)
    first = torch.distributions.Normal(mean_1, (0.5 * log_var_1).exp())
    second = torch.distributions.Normal(mean_2, (0.5 * log_var_2).exp())
    expected = torch.distributions.kl_divergence(first, second)
    assert_close(gaussian_kl(mean_1, log_var_1, mean_2, log_var_2), expected, rtol=1e-12, atol=1e-12)


def test_kl_takes_log_variances_as_numbers_or_tensors():
    mean_1, mean_2 = draws(5, seed=1), draws(5, seed=2)
    by_tensor = gaussian_kl(mean_1, torch.full((5,), -1.0).double(), mean_2, torch.full((5,), 0.5).double())
    for log_vars in ((-1.0, 0.5), (torch.tensor(-1.0).double(), 0.5), (-1.0, torch.tensor(0.5).double())):
        assert_close(gaussian_kl(mean_1, log_vars[0], mean_2, log_vars[1]), by_tensor, rtol=1e-15, atol=1e-15)


def test_kl_agrees_with_the_published_numbers():
    stored = golden.arrays("ops")
    first = stored["kl_mean1"], stored["kl_logvar1"]
    zeros = torch.zeros_like(stored["kl_mean1"])
    # float32: the squared distance times a precision is off by a few units in the last place of the largest.
    golden.assert_near(gaussian_kl(*first, stored["kl_mean2"], stored["kl_logvar2"]), stored["kl_out"], 1e-6)
    golden.assert_near(gaussian_kl(*first, zeros, 0.0), stored["kl_vs_standard"], 1e-6)


@pytest.mark.parametrize("k", [-1, 25, torch.tensor([0, 25]), torch.tensor([-1, 3])])
def test_an_index_outside_the_chain_is_refused(k):
    with pytest.raises(IndexError, match=r"index (-1|25) is not in this chain of 25 steps"):
        SHORT.at(k, like=x0)


@pytest.mark.parametrize(
    ("alpha_bar", "t", "message"),
    [
        (torch.tensor([0.9, 0.5]), torch.arange(2).double(), "kept in float64, got alpha_bar torch.float32"),
        (torch.tensor([0.9, 0.5]).double(), torch.arange(3).double(), r"one length, got \(2,\) and \(3,\)"),
        (torch.tensor([0.9]).double(), torch.arange(1).double(), "at least 2 noise levels, got 1"),
        (torch.tensor([0.5, 0.9]).double(), torch.arange(2).double(), "must fall strictly"),
        (torch.tensor([0.5, 0.5]).double(), torch.arange(2).double(), "must fall strictly"),
        (torch.tensor([1.0, 0.5]).double(), torch.arange(2).double(), "must fall strictly from below 1"),
        (torch.tensor([0.5, -0.1]).double(), torch.arange(2).double(), "to at least 0"),
        (torch.tensor([0.5, float("nan")]).double(), torch.arange(2).double(), "must fall strictly"),
    ],
)
def test_columns_that_are_no_chain_are_refused(alpha_bar, t, message):
    with pytest.raises(ValueError, match=message):
        DiffusionChain(alpha_bar=alpha_bar, t=t)


def test_shortening_refuses_what_is_no_subset():
    with pytest.raises(IndexError, match="keep index 1000 of a chain of 1000 steps"):
        LINEAR.shortened(torch.tensor([0, 1000]))
    with pytest.raises(IndexError, match="keep index -1 of a chain of 1000 steps"):
        LINEAR.shortened(torch.tensor([-1, 5]))
    with pytest.raises(ValueError, match="must fall strictly"):
        LINEAR.shortened(torch.tensor([5, 3]))
    with pytest.raises(ValueError, match="at least 2 noise levels, got 0"):
        LINEAR.shortened(torch.tensor([], dtype=torch.int64))


def pure_noise_at_the_end() -> DiffusionChain:
    return chain_from_betas(linear_betas(20))


def test_v_serves_a_chain_that_ends_in_pure_noise():
    chain = pure_noise_at_the_end()
    step = chain.at(19, like=x0)
    assert step.alpha_bar == 0
    x_t = q_sample(x0, eps, step)
    assert_close(x_t, eps)
    assert_close(x0_from_v(x_t, v_target(x0, eps, step), step), x0)
    assert_close(posterior_mean(x_t, x0, step), step.alpha_bar_prev**0.5 * x0)
    assert_close(eps_from_x0(x_t, x0, step), eps)


def test_eps_of_pure_noise_is_refused():
    step = pure_noise_at_the_end().at(19, like=x0)
    with pytest.raises(ValueError, match="alpha_bar 0 .* no signal"):
        x0_from_eps(eps, eps, step)
