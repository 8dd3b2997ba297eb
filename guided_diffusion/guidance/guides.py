"""A trained classifier as sampling runs see it."""

from pathlib import Path

import torch

from classifiers.trained_model import load_classifier

from ..files import file_sha256
from .config import CleanGuide, GuidanceConfig, Guide, OtherGuides, load_weak


def load_other_guides(config: GuidanceConfig, *, device: torch.device | str) -> OtherGuides:
    """Whoever else `config` names, on `device`.

    Raises:
        FileNotFoundError, ValueError, OSError: as `load_classifier`, `load_weak` and `load_clean_guide`.
    """
    return OtherGuides(
        further=tuple(_guide(Path(run), device=device) for run in config.further),
        weak=None if config.weak is None else load_weak(config.weak, device=device),
        clean=None if config.off_the_shelf is None else _clean_guide(config, config.off_the_shelf, device=device),
    )


def load_guide(path: Path | None, *, device: torch.device | str) -> Guide | None:
    """The classifier of a run or checkpoint on `device`, ready to guide; None for none.

    Raises:
        FileNotFoundError, ValueError: as `load_classifier`.
    """
    return None if path is None else _guide(path, device=device)


def _clean_guide(config: GuidanceConfig, name: str, *, device: torch.device | str) -> CleanGuide:
    # Here, because importing torchvision takes a second and 170 MB, and most runs have no use for it.
    from classifiers.off_the_shelf import load_clean_guide

    return load_clean_guide(name, smooth=config.off_the_shelf_gradient == "x_0", device=device)


def _guide(path: Path, *, device: torch.device | str) -> Guide:
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
