"""Is a classifier fit to guide? python scripts/diagnose_classifier.py --classifier RUN --data.path HELDOUT"""

from guided_diffusion.commands.diagnose_classifier import main

if __name__ == "__main__":
    main()
