"""Betas, chains and subsets of timesteps: by their formulas, and against the published tables."""

import math

import pytest
import torch
from oracles import golden
from torch import Tensor
from torch.testing import assert_close

from guided_diffusion.diffusion.chain import DiffusionChain, posterior_mean_weights, q_sample, x0_from_eps
from guided_diffusion.diffusion.schedules import (
    ChainConfig,
    chain_from_betas,
    cosine_betas,
    linear_betas,
    make_chain,
    sampling_chain,
    timestep_subset,
)

STORED = golden.arrays("schedules")
SIDECAR = golden.sidecar("schedules")
BETAS = {"linear": linear_betas, "cosine": cosine_betas}
FULL = [(name, num_steps) for name, num_steps in SIDECAR["full"]]
SUBSETS = [(entry["original_steps"], entry["spec"], entry["tag"]) for entry in SIDECAR["respacings"]]


def tables(chain: DiffusionChain) -> dict[str, Tensor]:
    """The published tables (K,), read off the functions that use them by feeding those ones and zeros."""
    ones = torch.ones(len(chain), 1, dtype=torch.float64)
    zeros = torch.zeros_like(ones)
    step = chain.at(torch.arange(len(chain)), like=ones)
    towards_x0, towards_x_t = posterior_mean_weights(step)
    columns = {
        "betas": step.log_var_max.exp(),
        "alphas_cumprod": step.alpha_bar,
        "alphas_cumprod_prev": step.alpha_bar_prev,
        "sqrt_alphas_cumprod": q_sample(ones, zeros, step),
        "sqrt_one_minus_alphas_cumprod": q_sample(zeros, ones, step),
        "log_one_minus_alphas_cumprod": (1 - step.alpha_bar).log(),
        "sqrt_recip_alphas_cumprod": x0_from_eps(ones, zeros, step),
        "sqrt_recipm1_alphas_cumprod": -x0_from_eps(zeros, ones, step),
        "posterior_variance": torch.where(step.alpha_bar_prev == 1, 0.0, step.log_var_min.exp()),
        "posterior_log_variance_clipped": step.log_var_min,
        "posterior_mean_coef1": towards_x0,
        "posterior_mean_coef2": towards_x_t,
    }
    return {name: column.squeeze(1) for name, column in columns.items()}


@pytest.mark.parametrize(("name", "num_steps"), FULL)
def test_betas_equal_the_published_ones(name, num_steps):
    """Two float64 evaluations of one formula; cos^2 near pi / 2 is where the last digits differ."""
    expected = STORED[f"{name}_{num_steps}/betas"]
    assert_close(golden.like(BETAS[name](num_steps), expected), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("name", "num_steps"), FULL)
def test_tables_equal_the_published_ones(name, num_steps):
    """1e-10: a link's beta is 1 - alpha_bar / alpha_bar_prev, of which beta 2.5e-5 (T = 4000) keeps 11 digits."""
    for field, column in tables(make_chain(ChainConfig(schedule=name, num_steps=num_steps))).items():
        expected = STORED[f"{name}_{num_steps}/{field}"]
        assert_close(
            golden.like(column, expected),
            expected,
            rtol=1e-10,
            atol=0,
            msg=lambda text, field=field: f"{field}: {text}",
        )


@pytest.mark.parametrize(("num_steps", "spec", "tag"), SUBSETS)
def test_subsets_equal_the_published_ones(num_steps, spec, tag):
    kept = timestep_subset(num_steps, spec)
    assert kept.dtype == torch.int64
    assert torch.equal(kept, STORED[f"{tag}/timesteps"].long())


@pytest.mark.parametrize("name", BETAS)
@pytest.mark.parametrize(("num_steps", "spec", "tag"), SUBSETS)
def test_tables_of_shortened_chains_equal_the_published_ones(name, num_steps, spec, tag):
    """1e-10 as above, and the rounding of the published alpha_bar: a product of 1 - beta', where beta' is close to 1.

    Each factor keeps eps / (1 - beta') of relative precision: at the noisy end of the cosine chain seven digits. Here
    alpha_bar is that of the full chain, untouched.
    """
    chain = chain_from_betas(BETAS[name](num_steps)).shortened(timestep_subset(num_steps, spec))
    ours = tables(chain)
    lost = torch.finfo(torch.float64).eps * (ours["alphas_cumprod_prev"] / ours["alphas_cumprod"]).cumsum(dim=0)
    fields = [field for field in ours if f"{tag}/{name}_{field}" in STORED]
    assert "betas" in fields
    for field in fields:
        expected = STORED[f"{tag}/{name}_{field}"]
        column, tolerance = (golden.like(values, expected) for values in (ours[field], 1e-10 + lost))
        excess = (column - expected).abs() - tolerance * expected.abs()
        assert float(excess.max()) <= 0, f"{field} at stored element {int(excess.argmax())}"


@pytest.mark.parametrize("case", SIDECAR["errors"], ids=lambda case: f'"{case["spec"]}"')
def test_subsets_that_the_published_code_refuses_are_refused(case):
    """A subset it parses but cannot build a process from (0 or 1 step) is refused by the chain, or already as a spec.

    The one difference: an empty spec, which its parser refuses and its callers replace by all steps, keeps all here.
    """
    if case["spec"] == "":
        assert torch.equal(timestep_subset(1000, ""), torch.arange(1000))
        return
    chain = chain_from_betas(linear_betas(case["original_steps"]))
    with pytest.raises(ValueError, match=r"cannot read|no whole stride|asked for|at least 2 noise levels"):
        chain.shortened(timestep_subset(case["original_steps"], case["spec"]))


@pytest.mark.parametrize("case", SIDECAR["linear_short"], ids=lambda case: str(case["T"]))
def test_short_linear_schedules_are_accepted_while_their_betas_are_variances(case):
    if case["construct"] == "ok":
        assert float(linear_betas(case["T"])[-1]) == pytest.approx(case["beta_last"], rel=1e-15)
    else:
        with pytest.raises(ValueError, match=f"linear schedule of {case['T']} steps has betas from .* take more steps"):
            linear_betas(case["T"])


def test_linear_betas_scale_with_the_length():
    assert_close(linear_betas(1000)[[0, -1]], torch.tensor([1e-4, 0.02], dtype=torch.float64), rtol=1e-15, atol=0)
    assert_close(linear_betas(4000)[[0, -1]], torch.tensor([2.5e-5, 0.005], dtype=torch.float64), rtol=1e-15, atol=0)


def test_cosine_alpha_bar_follows_the_cosine_until_the_cap():
    betas = cosine_betas(100)
    chain = chain_from_betas(betas)
    time = (torch.arange(1, 101).double() / 100 + 0.008) / 1.008
    expected = (time * math.pi / 2).cos() ** 2 / math.cos(0.008 / 1.008 * math.pi / 2) ** 2
    assert_close(chain.alpha_bar[:-1], expected[:-1], rtol=1e-12, atol=0)
    assert float(betas[-1]) == 0.999
    assert (betas[:-1] < 0.999).all()


def test_alpha_bar_is_the_product_of_one_minus_beta():
    chain = chain_from_betas(torch.tensor([0.1, 0.5, 1.0]))
    assert_close(chain.alpha_bar, torch.tensor([0.9, 0.45, 0.0]).double(), rtol=1e-7, atol=0)
    assert chain.t.tolist() == [0, 1, 2]


def test_rescaled_chains_tell_timesteps_on_the_scale_of_1000():
    chain = make_chain(ChainConfig(num_steps=4000, rescale_t=True))
    plain = make_chain(ChainConfig(num_steps=4000))
    assert torch.equal(chain.alpha_bar, plain.alpha_bar)
    assert torch.equal(chain.t, plain.t / 4)


def test_a_shortened_chain_tells_the_original_timesteps():
    chain = make_chain(ChainConfig(num_steps=4000, rescale_t=True)).shortened(timestep_subset(4000, "100"))
    assert chain.t[[0, 3, 50, 99]].tolist() == [0.0, 30.25, 505.0, 999.75]


def test_an_even_subset_keeps_both_ends():
    for count in (2, 25, 250, 999):
        kept = timestep_subset(1000, str(count))
        assert len(kept) == count
        assert kept[[0, -1]].tolist() == [0, 999]


def test_all_steps_asked_for_is_all_steps():
    for spec in ("", "1000", "ddim1000", "500,500"):
        assert torch.equal(timestep_subset(1000, spec), torch.arange(1000)), spec


def test_sections_hold_their_counts():
    kept = timestep_subset(300, "10,15,20")
    assert [int(((kept >= low) & (kept < low + 100)).sum()) for low in (0, 100, 200)] == [10, 15, 20]


def test_the_first_sections_are_longer_where_the_length_does_not_divide():
    assert timestep_subset(11, "4,4,3").tolist() == list(range(11))
    with pytest.raises(ValueError, match="asked for 4 sampling steps from a section of 3"):
        timestep_subset(11, "4,3,4")


def test_spaces_in_a_spec_do_not_matter():
    assert torch.equal(timestep_subset(1000, "10, 20"), timestep_subset(1000, "10,20"))


@pytest.mark.parametrize("spec", ["abc", "-3", "10,,5", "2.5", "ddim", "ddim-5", "²", "25ddim"])
def test_a_spec_that_cannot_be_read_says_what_can(spec):
    with pytest.raises(ValueError, match=r'cannot read the timesteps ".*": give a count such as "250"'):
        timestep_subset(1000, spec)


def test_a_subset_that_the_chain_cannot_satisfy_says_what_to_do():
    with pytest.raises(ValueError, match="asked for 1001 sampling steps from a section of 1000; ask for fewer"):
        timestep_subset(1000, "1001")
    with pytest.raises(ValueError, match="exactly 300 of 1000 steps; the nearest counts that work are 250 and 334"):
        timestep_subset(1000, "ddim300")


@pytest.mark.parametrize("count", [0, 1, 51, 60])
def test_a_whole_stride_of_too_few_or_too_many_steps_says_how_many_there_can_be(count):
    message = f"asked for {count} sampling steps of a chain of 50; a whole stride takes 2 to 50 of them"
    with pytest.raises(ValueError, match=message):
        timestep_subset(50, f"ddim{count}")


@pytest.mark.parametrize("count", [2, 50])
def test_a_whole_stride_takes_two_steps_and_all_of_them(count):
    assert len(timestep_subset(50, f"ddim{count}")) == count


def test_a_chain_of_one_step_is_refused_by_its_config():
    with pytest.raises(ValueError, match=r"chain\.num_steps is 1; a chain needs at least 2"):
        ChainConfig(num_steps=1)


@pytest.mark.parametrize("betas", [[0.0, 0.1], [0.1, 1.1], [0.1, float("nan")]])
def test_betas_that_are_no_variances_make_no_chain(betas):
    with pytest.raises(ValueError, match="alpha_bar must fall strictly"):
        chain_from_betas(torch.tensor(betas))


@pytest.mark.parametrize("spec", ["", "25", "ddim25", "10,15"])
def test_a_sampling_chain_is_the_chain_shortened(spec):
    config = ChainConfig(schedule="cosine", num_steps=100)
    kept = timestep_subset(100, spec)
    chain = sampling_chain(config, spec)
    assert torch.equal(chain.alpha_bar, make_chain(config).alpha_bar[kept])
    assert torch.equal(chain.t, kept.double())
