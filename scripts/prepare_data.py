"""Crop and pack a data set once: python scripts/prepare_data.py --data.path SRC --size 64 --out DIR"""

from guided_diffusion.commands.prepare_data import main

if __name__ == "__main__":
    main()
