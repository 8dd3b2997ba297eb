"""Makes solvers.json: where diffusers' schedulers take three samples of the oracle mixture, link by link as ours.

pip install diffusers==0.42.1; PYTHONPATH=tests python tests/golden/make_solvers.py

The schedulers work in float32, so that their results are good to about 1e-6.
"""

import json
from pathlib import Path

from diffusers import (
    DPMSolverMultistepScheduler,
    DPMSolverSinglestepScheduler,
    HeunDiscreteScheduler,
    UniPCMultistepScheduler,
)
from diffusers.schedulers import scheduling_dpmsolver_multistep
from oracles.mixture import draws, three_blobs

from guided_diffusion.diffusion.schedules import chain_from_betas, linear_betas

CHAIN = chain_from_betas(linear_betas(1000))
MIXTURE = three_blobs(CHAIN)
COMMON = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear", "prediction_type": "sample"}
TO_ZERO = {"final_sigmas_type": "zero", "solver_order": 2}
SCHEDULERS = {
    "dpmpp_2m": DPMSolverMultistepScheduler(**COMMON, **TO_ZERO, euler_at_final=True),
    "dpmpp_2m_sde": DPMSolverMultistepScheduler(
        **COMMON, **TO_ZERO, euler_at_final=True, algorithm_type="sde-dpmsolver++"
    ),
    "dpmpp_2s": DPMSolverSinglestepScheduler(**COMMON, **TO_ZERO, lower_order_final=True),
    "unipc": UniPCMultistepScheduler(**COMMON, **TO_ZERO, solver_type="bh2"),
    "heun": HeunDiscreteScheduler(**COMMON, timestep_spacing="leading"),
}
STEPS = {"dpmpp_2s": 21}


def trajectory(name: str) -> dict[str, list]:
    """The timesteps visited and the x_0 reached."""
    scheduler = SCHEDULERS[name]
    scheduler.set_timesteps(STEPS.get(name, 20))
    noises = iter(draws(20, 3, 2, 1, 2, seed=4).float())
    scheduling_dpmsolver_multistep.randn_tensor = lambda shape, **options: next(noises)
    x = draws(3, 2, 1, 2, seed=3).float() * float(scheduler.init_noise_sigma)
    for t in scheduler.timesteps:
        x_t = scheduler.scale_model_input(x, t)
        estimate = MIXTURE.denoiser(x_t.double(), CHAIN.at(int(t), like=x_t))
        x = scheduler.step(estimate.x0.float(), t, x).prev_sample
    visited = sorted({int(t) for t in scheduler.timesteps})
    return {"timesteps": visited, "x_0": [round(value, 7) for value in x.flatten().tolist()]}


if __name__ == "__main__":
    made = {name: trajectory(name) for name in SCHEDULERS}
    Path(__file__).with_name("solvers.json").write_text(json.dumps(made, indent=None) + "\n")
