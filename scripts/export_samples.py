"""Samples as others read them: python scripts/export_samples.py --samples runs/samples --out samples.npz"""

from guided_diffusion.config import run_script
from guided_diffusion.generation.export import ExportConfig, export_samples

if __name__ == "__main__":
    run_script(ExportConfig, export_samples)
