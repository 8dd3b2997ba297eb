import math

import pytest
import torch

from guided_diffusion.diffusion.noise import SeededNoise, sample_seed

SHAPE = (3, 8, 8)


def rows(ids: list[int], *, seed: int = 0, draws: int = 1, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    noise = SeededNoise(seed, ids)
    return torch.stack([noise(torch.empty(len(ids), *SHAPE, dtype=dtype)) for _ in range(draws)], dim=1)


def test_a_samples_noise_does_not_depend_on_its_batch():
    together = rows([0, 1, 2, 3, 4], draws=3)
    assert torch.equal(rows([3], draws=3)[0], together[3])
    shuffled = rows([4, 2, 0], draws=3)
    assert torch.equal(shuffled, together[[4, 2, 0]])


def test_noise_does_not_depend_on_the_global_generator():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = rows([5, 6])
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    assert torch.equal(rows([5, 6]), first)


def test_successive_draws_differ_and_follow_one_sequence():
    draws = rows([5], draws=4)[0]
    assert len({float(draw.sum()) for draw in draws}) == 4
    assert torch.equal(rows([5], draws=2)[0], draws[:2])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_noise_is_the_same_in_every_dtype_up_to_rounding(dtype):
    wanted = rows([1, 2], dtype=dtype)
    assert wanted.dtype == dtype
    assert torch.equal(wanted, rows([1, 2]).to(dtype))


def test_noise_is_the_same_in_every_memory_format():
    like = torch.empty(2, *SHAPE).to(memory_format=torch.channels_last)
    assert torch.equal(SeededNoise(0, [1, 2])(like), rows([1, 2])[:, 0])


def test_noise_takes_its_shape_from_the_images():
    assert SeededNoise(0, [1, 2])(torch.empty(2, 1, 5, 7)).shape == (2, 1, 5, 7)


def test_seeds_of_many_samples_do_not_collide():
    """Hashing into 32 bits would be expected to let 4.7 pairs of 200,000 collide."""
    for seed in (0, 1, 2**31, 2**40 + 3):
        assert len({sample_seed(seed, i) for i in range(200_000)}) == 200_000


def test_seeds_are_32_bits_and_differ_between_runs():
    seeds = [sample_seed(seed, i) for seed in range(300) for i in range(300)]
    assert all(0 <= seed < 2**32 for seed in seeds)
    # Chance alone: 90,000^2 / 2^33 = 0.94 pairs expected; runs that shared a sequence would share hundreds.
    assert len(seeds) - len(set(seeds)) <= 6


def test_runs_with_large_or_negative_seeds_are_runs_of_their_own():
    """Once the two halves of a seed were scrambled alike and xored, so that -1, 0 and 2^32 + 1 were one run."""
    seeds = [0, 1, -1, 2**32, 2**32 + 1, 2**63 - 1, 2**40]
    assert len({sample_seed(seed, 0) for seed in seeds}) == len(seeds)


def test_torch_seeds_its_cpu_generator_with_32_bits():
    """The reason for `sample_seed`: were this to change, 64-bit seeds would be the simpler choice."""
    low, high = (torch.Generator().manual_seed(seed) for seed in (7, 7 + 2**32))
    assert torch.equal(torch.randn(4, generator=low), torch.randn(4, generator=high))


def test_noise_is_standard_normal_and_independent_between_samples():
    """First draws of 2,000 neighbouring ids; bounds of 5 standard errors for n numbers."""
    values = rows(list(range(2000)))[:, 0].flatten(1).double()
    n = values.numel()
    assert abs(float(values.mean())) < 5 / math.sqrt(n)
    assert abs(float(values.var()) - 1) < 5 * math.sqrt(2 / n)
    assert abs(float((values**4).mean()) - 3) < 5 * math.sqrt(96 / n)
    neighbours = float((values[1:] * values[:-1]).mean())
    assert abs(neighbours) < 5 / math.sqrt(n - values.shape[1])


def test_first_pixels_over_samples_are_standard_normal():
    """One number from each of many generators: what seeds that follow a pattern would spoil first."""
    noise = SeededNoise(0, range(20_000))
    values = noise(torch.empty(20_000, 1)).flatten().double()
    quantiles = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95], dtype=torch.float64)
    normal = torch.distributions.Normal(torch.zeros((), dtype=torch.float64), 1.0)
    shares = (values[:, None] < normal.icdf(quantiles)).double().mean(dim=0)
    assert ((shares - quantiles).abs() < 5 * (quantiles * (1 - quantiles) / len(values)).sqrt()).all()


def test_uniform_numbers_belong_to_samples_too():
    numbers = SeededNoise(0, range(5000)).uniform()
    assert numbers.dtype == torch.float64
    assert ((numbers >= 0) & (numbers < 1)).all()
    assert abs(float(numbers.mean()) - 0.5) < 5 * math.sqrt(1 / 12 / 5000)
    assert torch.equal(SeededNoise(0, [7, 3]).uniform(), numbers[[7, 3]])


def test_a_batch_of_another_size_is_refused():
    with pytest.raises(ValueError, match="seeded for 2 samples, but the batch has 3"):
        SeededNoise(0, [1, 2])(torch.empty(3, *SHAPE))
