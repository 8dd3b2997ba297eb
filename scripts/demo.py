"""Train, guide and evaluate on handwritten digits: python scripts/demo.py"""

from guided_diffusion.commands.demo import DemoConfig, run_demo
from guided_diffusion.config import run_script

if __name__ == "__main__":
    run_script(DemoConfig, run_demo)
