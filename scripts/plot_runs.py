"""Curves of training runs: python scripts/plot_runs.py --runs '[runs/diffusion]' --out curves.png"""

from guided_diffusion.config import run_script
from guided_diffusion.training.curves import PlotConfig, plot_runs

if __name__ == "__main__":
    run_script(PlotConfig, plot_runs)
