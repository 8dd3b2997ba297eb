"""Write scikit-learn's handwritten digits as class folders: python scripts/make_digits.py --out runs/demo/digits"""

from guided_diffusion.commands.make_digits import DigitsConfig, write_digits
from guided_diffusion.config import run_script

if __name__ == "__main__":
    run_script(DigitsConfig, write_digits)
