"""Timestep samplers of training: evenly, or by their losses as the published sampler does, exactly."""

import numpy as np
import pytest
import torch
from oracles import golden
from torch import Tensor
from torch.testing import assert_close

from guided_diffusion.diffusion.chain import DiffusionChain, uniform_indices
from guided_diffusion.diffusion.schedules import ChainConfig, OffsetCosine, make_chain
from guided_diffusion.diffusion.timesteps import LossSecondMoment, UniformTimesteps

STORED = golden.arrays("schedule_samplers")
SIDECAR = golden.sidecar("schedule_samplers")


def chain_of(num_steps: int) -> DiffusionChain:
    return make_chain(ChainConfig(schedule="cosine", num_steps=num_steps))


def batch(size: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.zeros(size, 1, 2, 2, dtype=dtype)


def published_uniforms(seed: int, count: int = 16) -> Tensor:
    """The numbers whose inverse-transform samples numpy.random.choice draws after numpy.random.seed."""
    return torch.from_numpy(np.random.RandomState(seed).random_sample(count))


def test_uniform_indices_cover_the_chain_evenly():
    u = torch.linspace(0, 1, 10_001, dtype=torch.float64)[:-1]
    indices = uniform_indices(u, 10)
    assert indices.dtype == torch.int64
    assert indices.bincount().tolist() == [1000] * 10


def test_uniform_indices_never_leave_the_chain():
    """A float64 number just below 1 is 1 once cast to float32."""
    nearly_one = torch.tensor([1 - 2**-30], dtype=torch.float64)
    assert uniform_indices(nearly_one, 1000).tolist() == [999]
    assert uniform_indices(nearly_one.float(), 1000).tolist() == [999]
    assert uniform_indices(torch.zeros(1), 1000).tolist() == [0]


def test_uniform_draws_equal_the_published_samplers():
    """Its draws are inverse-transform samples of the same uniform numbers, with loss weights of 1."""
    chain = chain_of(5)
    drawn = UniformTimesteps(chain).drawn(published_uniforms(7), like=batch(16))
    assert torch.equal(drawn.step.t, chain.t[STORED["uniform/sample_seed7_t"]])
    assert drawn.weight == 1
    assert torch.equal(STORED["uniform/sample_seed7_w"], torch.ones(16))
    assert drawn.k is None


@pytest.mark.parametrize("case", SIDECAR)
def test_history_probabilities_draws_and_weights_equal_the_published_samplers(case):
    described = SIDECAR[case]
    sampler = LossSecondMoment(
        chain_of(described["num_timesteps"]),
        history_per_level=described["history_per_term"],
        uniform_prob=described["uniform_prob"],
    )
    for phase in ("phase1", "phase2", "phase3"):
        sampler.learn(STORED[f"{case}/{phase}_t"], STORED[f"{case}/{phase}_loss"])
        remembered = [row[row.isfinite()] for row in sampler.history]
        for ours, theirs in zip(remembered, STORED[f"{case}/history_after_{phase}"], strict=True):
            assert torch.equal(ours, theirs[: len(ours)])  # unfilled places are zeros at the end there
            assert not theirs[len(ours) :].any()
        weights = STORED[f"{case}/weights_after_{phase}"]
        assert_close(sampler.probabilities(), weights / weights.sum(), rtol=1e-14, atol=0)
        drawn = sampler.drawn(published_uniforms(11), like=batch(16))
        assert drawn.k is not None
        assert torch.equal(drawn.k, STORED[f"{case}/sample_after_{phase}_seed11_t"])
        assert_close(drawn.weight, STORED[f"{case}/sample_after_{phase}_seed11_w"].double(), rtol=1e-7, atol=0)
        assert torch.equal(drawn.step.t, sampler.chain.t[drawn.k])


def test_the_defaults_are_the_published_ones():
    default = SIDECAR["default"]
    sampler = LossSecondMoment(chain_of(5))
    assert sampler.history.shape == (5, default["history_per_term"])
    assert sampler.uniform_prob == default["uniform_prob"]


def learnt(num_steps: int = 20) -> LossSecondMoment:
    """A sampler that has seen losses of which those of each level lie about its number."""
    sampler = LossSecondMoment(chain_of(num_steps))
    k = torch.arange(num_steps).repeat(10)
    sampler.learn(k, k + torch.rand(len(k), dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    return sampler


def test_draws_are_uniform_until_every_level_has_a_whole_history():
    sampler = LossSecondMoment(chain_of(5))
    k = torch.arange(5).repeat(10)
    sampler.learn(k[:-1], k[:-1] + 1.0)
    assert torch.equal(sampler.probabilities(), torch.full((5,), 0.2, dtype=torch.float64))
    sampler.learn(k[-1:], k[-1:] + 1.0)
    assert float(sampler.probabilities()[4]) > 1 / 3 - 0.01  # of 1 + 2 + 3 + 4 + 5


def test_weighted_losses_have_the_mean_of_uniform_draws():
    sampler = learnt()
    assert float(sampler.probabilities().max()) > 1.5 / 20
    u = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    drawn = sampler.drawn(u, like=batch(len(u)))
    loss = torch.linspace(3, 1, 20, dtype=torch.float64)
    assert drawn.k is not None
    # The quadrature of u is off by at most one draw a level.
    assert float((drawn.weight * loss[drawn.k]).mean()) == pytest.approx(float(loss.mean()), rel=1e-3)
    counts = drawn.k.bincount(minlength=20) / len(u)
    assert_close(counts.double(), sampler.probabilities(), rtol=0, atol=2e-5)


def test_no_level_is_ever_forgotten():
    """One with tiny losses keeps a thousandth of the uniform probability."""
    sampler = LossSecondMoment(chain_of(5))
    k = torch.arange(5).repeat(10)
    sampler.learn(k, torch.where(k == 2, 0.0, 1.0))
    assert float(sampler.probabilities()[2]) == pytest.approx(0.001 / 5)


def test_only_the_last_losses_of_a_level_count_the_later_in_a_batch_the_newer():
    sampler, again = learnt(), learnt()
    for sequence in (torch.arange(25), torch.arange(12, 25)):
        sampler.learn(torch.full_like(sequence, 3), sequence.float())
    again.learn(torch.full((25,), 3), torch.arange(25).float())
    assert sampler.history[3].tolist() == list(range(15, 25))
    assert torch.equal(sampler.history, again.history)
    assert torch.equal(sampler.probabilities(), again.probabilities())


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_leaves_the_draws_uniform_while_it_is_remembered(loss):
    sampler = learnt()
    sampler.learn(torch.tensor([7]), torch.tensor([loss]))
    assert torch.equal(sampler.probabilities(), torch.full((20,), 0.05, dtype=torch.float64))
    sampler.learn(torch.full((10,), 7), torch.ones(10))
    assert float(sampler.probabilities()[7]) < 0.05


def test_weights_come_in_the_precision_of_the_images():
    drawn = learnt().drawn(torch.tensor([0.1, 0.9]), like=batch(2, torch.float32))
    assert isinstance(drawn.weight, Tensor)
    assert drawn.weight.dtype == torch.float32


def test_uniform_timesteps_of_continuous_time_are_any_noise_level():
    u = torch.tensor([0.0, 0.123, 0.5], dtype=torch.float64)
    drawn = UniformTimesteps(OffsetCosine()).drawn(u, like=batch(3))
    assert torch.equal(drawn.step.t, OffsetCosine().drawn(u, like=batch(3)).t)
    assert len(drawn.step.t.unique()) == 3
