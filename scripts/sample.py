"""Sample, guided or not: python scripts/sample.py --diffusion RUN --classifier RUN --guidance.scale 4 --out DIR"""

from guided_diffusion.commands.sample import main

if __name__ == "__main__":
    main()
