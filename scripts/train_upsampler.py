"""Train an upsampler: python scripts/train_upsampler.py --config configs/imagenet256/upsampler.yaml"""

from guided_diffusion.config import run_script
from guided_diffusion.training.upsampler_objective import TrainUpsamplerConfig, train_upsampler

if __name__ == "__main__":
    run_script(TrainUpsamplerConfig, train_upsampler)
