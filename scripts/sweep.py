"""Which scale, sampler and steps? python scripts/sweep.py --diffusion RUN --classifier RUN --real DIR --out DIR"""

from guided_diffusion.config import run_script
from guided_diffusion.sweep.run import SweepConfig, sweep

if __name__ == "__main__":
    run_script(SweepConfig, sweep)
