"""Guides by networks that train_classifier trained on another target than classes."""

import logging
import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from classifiers.model import NoisyClassifier
from classifiers.target_model import TargetModelConfig, TargetName, mean_and_log_var

from ..diffusion.model import DiffusionModel, chain_difference, load_network
from ..files import file_sha256
from .compatibility import check_images, refuse_difference
from .densities import attributes_density, gaussian_density
from .function import Guide
from .score import LogDensity

_logger = logging.getLogger(__name__)


def regression(model: DiffusionModel, *, run: str, target: float) -> Guide:
    """log p(target | x_t), nats, by a regression at `run`; target: in the unit of its table.

    Raises:
        FileNotFoundError, ValueError: as `_loaded`, or a target that is no finite number.
    """
    config, outputs, guide = _loaded(model, run, "regression")
    columns, value = config.columns, cast(Any, target)  # of YAML
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"target of guidance.function regression is a number, a {columns.names[0]}; got {value}")
    if not columns.lowest[0] <= target <= columns.highest[0]:
        _logger.warning(
            "the target %g lies outside the range that %s was trained on: %s from %.4g to %.4g",
            target, run, columns.names[0], columns.lowest[0], columns.highest[0],
        )  # fmt: skip

    def gaussian(x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_var = mean_and_log_var(outputs(x_t, t))
        return columns.mean[0] + columns.std[0] * mean, log_var + 2 * math.log(columns.std[0])

    return guide(gaussian_density(gaussian, target))


def attributes(model: DiffusionModel, *, run: str, wanted: Mapping[str, bool]) -> Guide:
    """log prod p(a_i | x_t), nats, of the wanted attributes by a network at `run`; those not named are left open.

    Raises:
        FileNotFoundError, ValueError: as `_loaded`, or attributes that it does not know.
    """
    config, outputs, guide = _loaded(model, run, "attributes")
    names, of_yaml = config.columns.names, cast(Any, wanted)
    given: dict[str, Any] = {**of_yaml} if isinstance(of_yaml, Mapping) else {}
    wrong = [f"{name}: {value}" for name, value in given.items() if name not in names or not isinstance(value, bool)]
    if wrong or not given:
        raise ValueError(
            f"wanted of guidance.function attributes takes {', '.join(names)}, each true or false, as in "
            f"'{{{names[0]}: true}}'; got {wrong[0] if wrong else of_yaml}"
        )
    return guide(attributes_density(outputs, {names.index(name): value for name, value in given.items()}))


def _loaded(
    model: DiffusionModel, run: str, kind: TargetName
) -> tuple[TargetModelConfig, Callable[[Tensor, Tensor], Tensor], Callable[[LogDensity], Guide]]:
    """The network at `run`: its config, (x, t) to outputs, and what makes a guide of a log-density of these.

    A network of clean images is evaluated at the estimate of x_0, at t = 0.

    Raises:
        FileNotFoundError: no checkpoint there.
        ValueError: another kind of checkpoint, or noise or images other than the model's.
    """
    config, network, checkpoint, weights = load_network(
        Path(run), kind, TargetModelConfig, NoisyClassifier, weights=None, device=model.device
    )
    path, is_clean = model.checkpoint.path, config.chain is None
    if config.chain is not None:
        difference = chain_difference(model.config.chain, config.chain, other_called="the guide")
        refuse_difference(difference and f"{difference}; train one with --diffusion {path}", run, path)
    shape = (config.network.in_channels, config.network.image_size, config.network.image_size)
    check_images(run, shape, model.config, path)

    def outputs(x: Tensor, t: Tensor) -> Tensor:
        return network(x, torch.zeros_like(t) if is_clean else t).float()

    record = {"run": file_sha256(checkpoint.weights_file(weights))}
    return config, outputs, partial(Guide, place="x_0" if is_clean else "x_t", record=record)
