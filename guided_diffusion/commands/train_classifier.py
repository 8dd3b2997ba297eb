"""Train a classifier: python scripts/train_classifier.py --config configs/digits/classifier.yaml --diffusion RUN"""

import math
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from classifiers.model import ClassifierConfig, NoisyClassifier, Pooling
from classifiers.trained_model import ClassifierModelConfig

from ..checkpoint import open_checkpoint
from ..config import check_at_least, run_command
from ..diffusion.schedules import training_chain
from ..training.config import TrainingConfig


@dataclass(frozen=True, kw_only=True)
class TrainClassifierConfig(TrainingConfig):
    """Train a classifier on a folder of images, with the noise of the diffusion model to guide or on clean images."""

    diffusion: Path | None = None
    """The diffusion run to be guided, whose chain gives the noise levels. null: clean images only, for a judge; where a
    config file names a run, --diffusion null takes it away."""
    heldout: Path | None = None
    """Held-out images, as data.path takes them: their accuracy and log-likelihood are logged as training goes."""
    heldout_images: int = 2000
    """Most held-out images to use, evenly spaced."""
    pooling: Pooling = "attention"
    """attention (ADM) fixes the image size; adaptive takes any."""
    entropy_weight: float = 0.0
    """Weight of KL(p || uniform) in the loss, against overconfidence (ED-DPM, 2206.11474: 0.1); 0 is ADM's loss."""

    def __post_init__(self) -> None:
        if not 0 <= self.entropy_weight < math.inf:
            raise ValueError(f"entropy_weight weighs a penalty: 0 or more, as published 0.1; got {self.entropy_weight}")
        check_at_least(self, heldout_images=1)
        if self.training.stop_after_worse is not None and self.heldout is None:
            raise ValueError(
                "training.stop_after_worse stops when held-out images grow less likely, and there are none: give "
                "--heldout PATH, or leave it out"
            )


def train_classifier(config: TrainClassifierConfig) -> None:
    """Train as configured; see `fit` for how it ends."""
    # Here, so that --help does not import what reads images.
    from classifiers.classifier_objective import ClassifierObjective, guided_chain
    from classifiers.validation import HELDOUT_LIKELIHOOD, open_validation, refuse_one_class

    from ..training.loop import open_training_data, train

    try:
        guided = None if config.diffusion is None else open_checkpoint(config.diffusion, "diffusion")
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}; a classifier of clean images needs none: --diffusion null") from None
    data = open_training_data(config, class_names=() if guided is None else guided.model.get("class_names", ()))
    refuse_one_class(data)
    network = ClassifierConfig(
        **vars(config.network), num_classes=len(data.class_names), in_channels=data.channels, pooling=config.pooling
    )
    chain = None if guided is None else guided_chain(guided, data)
    model = ClassifierModelConfig(network=network, chain=chain, class_names=data.class_names)
    heldout = None if config.heldout is None else replace(config.data, path=config.heldout)
    observe = None if heldout is None else open_validation(
        heldout, model, max_images=config.heldout_images, trained_on=data
    )  # fmt: skip
    train(
        config, data, kind="classifier", model=model, make_network=partial(NoisyClassifier, network),
        objective=ClassifierObjective(None if chain is None else training_chain(chain), config.entropy_weight),
        observe=observe, best_by=HELDOUT_LIKELIHOOD,
    )  # fmt: skip


main = partial(run_command, TrainClassifierConfig, train_classifier)
