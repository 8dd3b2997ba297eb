"""Samples that are not finite, refused with the step and the likeliest cause; samples without content."""

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..diffusion.denoiser import Estimate
from ..diffusion.images import is_constant
from ..samplers import OnStep

MOST_WITHOUT_CONTENT = 0.01
"""Share of images without content beyond which a warning is given."""
MOST_IDS = 8
"""Ids written out in a message."""

LARGEST_STATE = 1.5
"""Root mean square of a batch's states beyond which guidance has led them out of the range of training, where it is 1
at most. Sound guidance of the digits of scripts/demo.py stays below 1.3; from 1.5 on their distances grow."""

_logger = logging.getLogger(__name__)


class FiniteSteps:
    """Finiteness and size of the states of a batch, kept on the device: no step waits for them. An `OnStep`."""

    def __init__(self, on_step: OnStep | None) -> None:
        """on_step: called as well."""
        self._on_step = on_step
        self.count: Tensor | None = None
        """(B,) int64 of steps after which each sample was finite; None before the first."""
        self.mean_square: Tensor | None = None
        """The largest mean square of a state x_s; of [-1, 1] and unit noise it is 1 at most."""

    def __call__(self, k: int, x: Tensor, estimate: Estimate) -> None:
        finite = x.isfinite().flatten(1).all(dim=1).long()
        self.count = finite if self.count is None else self.count + finite
        mean_square = x.float().square().mean()
        self.mean_square = mean_square if self.mean_square is None else torch.maximum(self.mean_square, mean_square)
        if self._on_step is not None:
            self._on_step(k, x, estimate)


def finite_samples(
    sampled: Callable[[OnStep], Tensor],
    ids: Sequence[int],
    *,
    cause: Callable[[], str],
    on_step: OnStep | None = None,
    out_of_range: Callable[[float], object] | None = None,
) -> Tensor:
    """The result (B, C, H, W) of a sampler that is called with an `OnStep`.

    ids: of the samples, for the message. cause: `likeliest_cause` of a failure. out_of_range: called with the root mean
    square of the states, where one is above `LARGEST_STATE`.

    Raises:
        ValueError: samples that are not finite, naming them, the step and the likeliest cause.
    """
    steps = FiniteSteps(on_step)
    x = sampled(steps)
    finite = x.isfinite().flatten(1).all(dim=1)
    if finite.all():
        size = 0.0 if steps.mean_square is None else float(steps.mean_square) ** 0.5
        if size > LARGEST_STATE and out_of_range is not None:
            out_of_range(size)
        return x
    wrong = [sample_id for sample_id, is_finite in zip(ids, finite.tolist(), strict=True) if not is_finite]
    shown = ", ".join(map(str, wrong[:MOST_IDS])) + (f" and {len(wrong) - MOST_IDS} more" if wrong[MOST_IDS:] else "")
    first = 1 if steps.count is None else 1 + int(steps.count[~finite].min())
    raise ValueError(f"{len(wrong)} of {len(ids)} samples (ids {shown}) are not finite from step {first} on: {cause()}")


def likeliest_cause(models: Iterable[Any], settings: Iterable[str] = ()) -> str:
    """The likeliest cause of numbers that are not finite, and the remedy, in words.

    models: loaded models and classifiers, whose weights are searched. settings: unusual ones, in words, as the user
    gives them.
    """
    for model in models:
        if isinstance(model.network, nn.Module) and not all(p.isfinite().all() for p in model.network.parameters()):
            checkpoint = getattr(model, "checkpoint", None)
            name = model.name if checkpoint is None else checkpoint.path / f"{model.weights}.safetensors"
            return f"the weights in {name} are not finite; take an earlier checkpoint"
    if unusual := " and ".join(settings):
        return f"the likeliest cause is {unusual}; take values nearer to the defaults"
    return "all weights are finite, but training may have diverged; take an earlier checkpoint"


def warn_without_content(images: Tensor, *, name: str) -> bool:
    """Warn of images (N, C, H, W) uint8 of one colour, or with black and white pixels alone; True if it warned."""
    saturated = ((images == 0) | (images == 255)).flatten(1).all(dim=1)
    count = int((saturated | is_constant(images)).sum())
    if count <= MOST_WITHOUT_CONTENT * len(images):
        return False
    _logger.warning(
        "%s: %d of %d samples are of one colour or have only pixels at the ends of the range; guidance may be too "
        "strong, the sampler's steps too few, or the model not trained",
        name,
        count,
        len(images),
    )
    return True


def in_words(values: dict[str, Any], *, prefix: str = "") -> list[str]:  # plain values
    """Numbers among settings as "sampler.snr 1e+20", those in nested mappings too."""
    found: list[str] = []
    for name, value in values.items():
        if isinstance(value, dict):
            found += in_words(value, prefix=f"{prefix}{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found.append(f"{prefix}{name} {value:g}")
    return found
