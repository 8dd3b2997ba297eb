"""Train a diffusion model: python scripts/train_diffusion.py --config configs/digits/diffusion.yaml"""

from functools import partial

from guided_diffusion.config import run_script
from guided_diffusion.guidance.guides import load_guide
from guided_diffusion.training.diffusion_objective import TrainDiffusionConfig, train_diffusion

if __name__ == "__main__":
    run_script(TrainDiffusionConfig, partial(train_diffusion, load_guide=load_guide))
