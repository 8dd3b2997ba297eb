"""Evaluate samples: python scripts/evaluate.py --generated DIR --real DIR --extractor classifier:RUN
Compare evaluations: python scripts/evaluate.py --compare A.json B.json
"""

from guided_diffusion.commands.evaluate import EvaluateConfig, evaluate_samples
from guided_diffusion.config import run_script

if __name__ == "__main__":
    run_script(EvaluateConfig, evaluate_samples)
