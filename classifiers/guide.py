"""A trained classifier as sampling runs see it."""

from pathlib import Path

import torch

from classifiers.checkpoint import load_classifier
from guided_diffusion.checkpoint import file_sha256
from guided_diffusion.generation.guide import Guide


def load_guide(path: Path | None, *, device: torch.device | str) -> Guide | None:
    """The classifier of a run or checkpoint on `device`, ready to guide; None for none.

    Raises:
        FileNotFoundError, ValueError: as `load_classifier`.
    """
    if path is None:
        return None
    classifier = load_classifier(path, device=device)
    checkpoint = classifier.checkpoint
    return Guide(
        log_prob=classifier.network.log_prob,
        chain=classifier.config.chain,
        class_names=classifier.config.class_names,
        image_shape=classifier.image_shape,
        name=f"{checkpoint.path.parent.name}/{checkpoint.path.name}",
        sha256=file_sha256(checkpoint.weights_file(classifier.weights)),
    )
