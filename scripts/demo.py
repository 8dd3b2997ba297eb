"""Train, guide and evaluate on handwritten digits: python scripts/demo.py"""

from guided_diffusion.commands.demo import main

if __name__ == "__main__":
    main()
