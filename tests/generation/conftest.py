"""The tiny trained models, loaded once a file."""

import pytest

from classifiers.trained_model import Classifier, load_classifier
from guided_diffusion.diffusion.model import DiffusionModel, load_diffusion


@pytest.fixture(scope="module")
def model(diffusion_run) -> DiffusionModel:
    return load_diffusion(diffusion_run)


@pytest.fixture(scope="module")
def guide(classifier_run) -> Classifier:
    return load_classifier(classifier_run)
