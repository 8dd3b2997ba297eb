"""Train an upsampler: python scripts/train_upsampler.py --config configs/imagenet256/upsampler.yaml"""

from guided_diffusion.commands.train_upsampler import main

if __name__ == "__main__":
    main()
