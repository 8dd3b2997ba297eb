"""Curves of training runs: python scripts/plot_runs.py --runs '[runs/diffusion]' --out curves.png"""

from guided_diffusion.commands.plot_runs import main

if __name__ == "__main__":
    main()
