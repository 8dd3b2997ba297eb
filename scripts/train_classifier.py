"""Train a classifier: python scripts/train_classifier.py --config configs/digits/classifier.yaml --diffusion RUN"""

from guided_diffusion.commands.train_classifier import main

if __name__ == "__main__":
    main()
