"""Samples that are not finite, refused with the step and the likeliest cause; samples without content."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..diffusion.denoiser import Estimate
from ..diffusion.images import is_constant
from ..samplers import OnStep, SamplerConfig

MOST_WITHOUT_CONTENT = 0.01
"""Share of images without content beyond which a warning is given."""
MOST_IDS = 8
"""Ids written out in a message."""

LARGEST_STATE = 1.5
"""Root mean square of a batch's states beyond which guidance has led them out of the range of training, where it is 1
at most. Sound guidance of the digits of scripts/demo.py stays below 1.3; from 1.5 on their distances grow."""

_logger = logging.getLogger(__name__)


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
    steps, mean_squares = list[Tensor](), list[Tensor]()  # on the device: no step waits for them

    def observed(k: int, x: Tensor, estimate: Estimate) -> None:
        steps.append(_finite(x))
        mean_squares.append(x.float().square().mean())
        if on_step is not None:
            on_step(k, x, estimate)

    x = sampled(observed)
    finite = _finite(x)
    if finite.all():
        if out_of_range is not None and (size := float(torch.stack(mean_squares).max()) ** 0.5) > LARGEST_STATE:
            out_of_range(size)
        return x
    wrong = [sample_id for sample_id, is_finite in zip(ids, finite.tolist(), strict=True) if not is_finite]
    shown = ", ".join(map(str, wrong[:MOST_IDS])) + (f" and {len(wrong) - MOST_IDS} more" if wrong[MOST_IDS:] else "")
    first = 1 + int(torch.stack(steps)[:, ~finite].sum(dim=0).min())
    raise ValueError(f"{len(wrong)} of {len(ids)} samples (ids {shown}) are not finite from step {first} on: {cause()}")


def _finite(x: Tensor) -> Tensor:
    """(B,) bool of samples (B, C, H, W)."""
    return x.isfinite().flatten(1).all(dim=1)


def likeliest_cause(
    models: Iterable[Any],
    sampler: SamplerConfig | None = None,
    strengths: Mapping[str, float] | None = None,
    precision: str = "float32",
    function: str | None = None,
) -> str:
    """The likeliest cause of numbers that are not finite, and the remedy, in words.

    models: loaded models and classifiers, whose weights are searched. strengths: of guidance, by option.
    function: name of a function that guides.
    """
    for model in models:
        if isinstance(model.network, nn.Module) and not all(p.isfinite().all() for p in model.network.parameters()):
            checkpoint = getattr(model, "checkpoint", None)
            name = model.name if checkpoint is None else checkpoint.path / f"{model.weights}.safetensors"
            return f"the weights in {name} are not finite; take an earlier checkpoint"
    if precision == "float16":
        return "the likeliest cause is --precision float16, which has no number above 65,504; take bfloat16"
    settings = {name: value for name, value in (strengths or {}).items() if value != 1}
    if sampler is not None:
        settings |= {f"sampler.{name}": value for name, value in sampler.unusual_options().items()}
    numbers = [f"{name} {value:g}" for name, value in settings.items() if isinstance(value, int | float)]
    if function is not None:
        others = "".join(f", or {number}" for number in numbers)
        return f"the likeliest cause is guidance.function {function}, not finite itself or in its gradient{others}"
    if unusual := " and ".join(numbers):
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
