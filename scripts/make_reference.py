"""Measure real images once: python scripts/make_reference.py --images DIR --out FILE.npz"""

from guided_diffusion.commands.make_reference import main

if __name__ == "__main__":
    main()
