"""Train a diffusion model: python scripts/train_diffusion.py --config configs/digits/diffusion.yaml"""

from guided_diffusion.commands.train_diffusion import main

if __name__ == "__main__":
    main()
