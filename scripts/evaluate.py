"""Evaluate samples: python scripts/evaluate.py --generated DIR --real DIR --extractor.name classifier:RUN
Compare evaluations: python scripts/evaluate.py --compare A.json B.json
"""

from guided_diffusion.commands.evaluate import main

if __name__ == "__main__":
    main()
