"""Look through a data set: python scripts/inspect_data.py --data.path DIR --size 64 --out page.png"""

from guided_diffusion.config import run_script
from guided_diffusion.data.inspection import InspectConfig, inspect_data

if __name__ == "__main__":
    run_script(InspectConfig, inspect_data)
