"""Bits per dimension of held-out images: python scripts/likelihood.py --diffusion RUN --data.path HELDOUT"""

from guided_diffusion.commands.likelihood import main

if __name__ == "__main__":
    main()
