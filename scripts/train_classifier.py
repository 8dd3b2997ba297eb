"""Train a classifier: python scripts/train_classifier.py --config configs/digits/classifier.yaml --diffusion RUN"""

from classifiers.training import TrainClassifierConfig, train_classifier
from guided_diffusion.config import run_script

if __name__ == "__main__":
    run_script(TrainClassifierConfig, train_classifier)
