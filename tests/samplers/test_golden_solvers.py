"""The solvers against another library's (diffusers 0.42.1, stored by tests/golden/make_solvers.py)."""

import json
from pathlib import Path

import pytest
import torch
from oracles.mixture import draws, three_blobs
from torch.testing import assert_close

from guided_diffusion.diffusion.schedules import chain_from_betas, linear_betas
from guided_diffusion.samplers import dpmpp_2m, dpmpp_2m_sde, dpmpp_2s, heun, unipc

CHAIN = chain_from_betas(linear_betas(1000))
MIXTURE = three_blobs(CHAIN)
STORED = json.loads((Path(__file__).parents[1] / "golden" / "solvers.json").read_text())


@pytest.mark.parametrize("sampler", [dpmpp_2m, dpmpp_2m_sde, dpmpp_2s, unipc, heun], ids=lambda s: s.__name__)
def test_a_solver_ends_where_another_librarys_does(sampler):
    """Theirs is computed in float32, from tables in float32: 20 links leave 3e-6."""
    stored = STORED[sampler.__name__]
    chain = CHAIN.shortened(torch.tensor(stored["timesteps"]))
    noises = iter(draws(20, 3, 2, 1, 2, seed=4))
    x_0 = sampler(MIXTURE.denoiser, chain, draws(3, 2, 1, 2, seed=3), lambda like: next(noises))
    assert_close(x_0.flatten(), torch.tensor(stored["x_0"], dtype=torch.float64), rtol=0, atol=1e-5)
