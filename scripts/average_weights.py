"""Averages of other widths: python scripts/average_weights.py runs/photos --widths 0.03 0.15 --out runs/averages"""

from guided_diffusion.commands.average_weights import main

if __name__ == "__main__":
    main()
