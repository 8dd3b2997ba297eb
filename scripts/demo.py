"""Train, guide and evaluate on handwritten digits: python scripts/demo.py"""

from guided_diffusion.config import run_script
from guided_diffusion.demo.run import DemoConfig, run_demo

if __name__ == "__main__":
    run_script(DemoConfig, run_demo)
