"""Enlarge samples: python scripts/upsample.py --upsampler RUN --base runs/samples --out runs/enlarged"""

from guided_diffusion.commands.upsample import main

if __name__ == "__main__":
    main()
