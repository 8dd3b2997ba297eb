"""Sweep scales, samplers, options: python scripts/sweep.py --diffusion RUN --classifier RUN --real DIR --out DIR"""

from guided_diffusion.commands.sweep import main

if __name__ == "__main__":
    main()
