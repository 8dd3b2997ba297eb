"""Which scale, sampler and steps? python scripts/sweep.py --diffusion RUN --classifier RUN --real DIR --out DIR"""

from guided_diffusion.commands.sweep import SweepConfig, sweep
from guided_diffusion.config import run_script

if __name__ == "__main__":
    run_script(SweepConfig, sweep)
