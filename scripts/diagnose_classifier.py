"""Is a classifier fit to guide? python scripts/diagnose_classifier.py --classifier RUN --data.path HELDOUT"""

from classifiers.diagnosis import DiagnoseConfig, diagnose
from guided_diffusion.config import run_script

if __name__ == "__main__":
    run_script(DiagnoseConfig, diagnose)
