"""Train a classifier: python scripts/train_classifier.py --config configs/digits/classifier.yaml --diffusion RUN"""

import math
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from classifiers.model import ClassifierConfig, NoisyClassifier, Pooling
from classifiers.target_model import TargetModelConfig, TargetName
from classifiers.trained_model import ClassifierModelConfig

from ..checkpoint import open_checkpoint
from ..config import check_at_least, from_plain, run_command
from ..diffusion.schedules import ChainConfig, training_chain
from ..training.config import TrainingConfig
from ..training.source import inherited_options, origin_model


@dataclass(frozen=True, kw_only=True)
class TrainClassifierConfig(TrainingConfig):
    """Train a classifier on a folder of images, with the noise of the diffusion model to guide or on clean images."""

    diffusion: Path | None = None
    """The diffusion run to be guided, whose chain gives the noise levels. null: those that the classifier of --from was
    trained with, else clean images only, for a judge; where a config file names a run, --diffusion null takes it
    away."""
    heldout: Path | None = None
    """Held-out images, as data.path takes them: their accuracy and log-likelihood are logged as training goes."""
    heldout_images: int = 2000
    """Most held-out images to use, evenly spaced."""
    pooling: Pooling = "attention"
    """attention (ADM) fixes the image size; adaptive takes any."""
    target: TargetName | None = None
    """Target in the table data.labels, a CSV file whose column "file" names the images: regression, the mean and
    variance of a real number; attributes, columns of 0 and 1. null: the classes. Either guides by
    --guidance.function."""
    columns: tuple[str, ...] | None = None
    """Columns of that table: one of a regression, one or more of attributes."""
    entropy_weight: float = 0.0
    """Weight of KL(p || uniform) in the loss, against overconfidence (ED-DPM, 2206.11474: 0.1); 0 is ADM's loss."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.entropy_weight < math.inf:
            raise ValueError(f"entropy_weight weighs a penalty: 0 or more, as published 0.1; got {self.entropy_weight}")
        check_at_least(self, heldout_images=1)
        _check_target(self)
        if self.training.stop_after_worse is not None and self.heldout is None:
            raise ValueError(
                "training.stop_after_worse stops when held-out images grow less likely, and there are none: give "
                "--heldout PATH, or leave it out"
            )


def _check_target(config: TrainClassifierConfig) -> None:
    """Refuse, by a ValueError, a target without its table or columns, options of classes, and columns without one."""
    target, columns, table = config.target, config.columns or (), config.data.labels
    if target is None and columns:
        raise ValueError(f"--columns {' '.join(columns)} need a target: give --target regression or attributes")
    if target is None:
        return
    if not isinstance(table, Path):
        raise ValueError(f"--target {target} learns columns of a table: give --data.labels TABLE.csv, not {table}")
    if not columns or len({*columns}) < len(columns) or (target == "regression" and len(columns) > 1):
        wanted = "one column" if target == "regression" else "one or more columns, each once,"
        given = f"got {' '.join(columns)}" if columns else "give --columns NAME"
        raise ValueError(f"--target {target} learns {wanted} of {table}; {given}")
    of_classes = {
        "entropy_weight": config.entropy_weight > 0,
        "data.on_error skip": config.data.on_error == "skip",
        "data.balance": config.data.balance,
    }
    for option in (name for name, is_given in of_classes.items() if is_given):
        raise ValueError(f"{option} is of classes, which --target {target} has none of; leave it out")


def train_classifier(config: TrainClassifierConfig) -> None:
    """Train as configured; see `fit` for how it ends."""
    # Here, so that --help does not import what reads images.
    from classifiers.classifier_objective import ClassifierObjective, guided_chain
    from classifiers.target_objective import TARGETS, TargetObjective, with_values
    from classifiers.validation import HELDOUT_LIKELIHOOD, open_validation, refuse_one_class

    from ..data.columns import column_values
    from ..training.loop import open_training_data, train

    try:
        guided = None if config.diffusion is None else open_checkpoint(config.diffusion, "diffusion")
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}; a classifier of clean images needs none: --diffusion null") from None
    known = origin_model(config, "classifier") if guided is None else guided.model
    names = () if config.target else known.get("class_names", ())
    data = open_training_data(config, class_names=names, is_labelled=config.target is None)
    network = partial(ClassifierConfig, **vars(config.network), in_channels=data.channels, pooling=config.pooling)
    kept = known.get("chain") and from_plain(ChainConfig, known["chain"], source=f"the chain of {config.from_}")
    chain = kept if guided is None else guided_chain(guided, data)
    levels = None if chain is None else training_chain(chain)
    if config.target is None:
        refuse_one_class(data)
        outputs = network(num_classes=len(data.class_names))
        model = ClassifierModelConfig(network=outputs, chain=chain, class_names=data.class_names)
        objective = ClassifierObjective(levels, config.entropy_weight)
    else:
        target, table, names = TARGETS[config.target], Path(config.data.labels), config.columns or ()
        columns = target.columns(column_values(data, table, names), names)
        data = with_values(data, table, columns)
        outputs = network(num_classes=target.num_outputs(len(columns.names)))
        model = TargetModelConfig(target=config.target, network=outputs, chain=chain, columns=columns)
        objective = TargetObjective(levels, target, columns)
    observe = None if config.heldout is None else open_validation(
        replace(config.data, path=config.heldout), model, max_images=config.heldout_images, trained_on=data
    )  # fmt: skip
    train(
        config, data, kind=config.target or "classifier", model=model, make_network=partial(NoisyClassifier, outputs),
        objective=objective, observe=observe, best_by=HELDOUT_LIKELIHOOD,
    )  # fmt: skip


main = partial(
    run_command, TrainClassifierConfig, train_classifier, inherited=partial(inherited_options, kind="classifier")
)
