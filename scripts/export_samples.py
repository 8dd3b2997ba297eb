"""Samples as others read them: python scripts/export_samples.py --samples runs/samples --out samples.npz"""

from guided_diffusion.commands.export_samples import main

if __name__ == "__main__":
    main()
