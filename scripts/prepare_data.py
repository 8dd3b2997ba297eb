"""Crop and pack a data set once: python scripts/prepare_data.py --data.path SRC --size 64 --out DIR"""

from guided_diffusion.config import run_script
from guided_diffusion.data.preparation import PrepareConfig, prepare_data

if __name__ == "__main__":
    run_script(PrepareConfig, prepare_data)
