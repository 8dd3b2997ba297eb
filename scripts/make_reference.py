"""Measure real images once: python scripts/make_reference.py --images DIR --out FILE.npz --extractor classifier:RUN"""

from guided_diffusion.commands.make_reference import MakeReferenceConfig, make_reference_file
from guided_diffusion.config import run_script

if __name__ == "__main__":
    run_script(MakeReferenceConfig, make_reference_file)
