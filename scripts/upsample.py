"""Enlarge samples: python scripts/upsample.py --upsampler RUN --base runs/samples --out runs/enlarged"""

from guided_diffusion.config import run_script
from guided_diffusion.generation.cascade import UpsampleConfig, upsample

if __name__ == "__main__":
    run_script(UpsampleConfig, upsample)
