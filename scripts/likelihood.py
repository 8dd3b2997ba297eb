"""Bits per dimension of held-out images: python scripts/likelihood.py --diffusion RUN --data.path HELDOUT"""

from guided_diffusion.config import run_script
from guided_diffusion.generation.likelihood import LikelihoodConfig, likelihood

if __name__ == "__main__":
    run_script(LikelihoodConfig, likelihood)
