"""Colours of previews compared with the data's: brightness and contrast as numbers, a colour cast in words.

A cast is the first symptom of young averages or of a training that goes wrong, and easily mistaken for the data's look.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

SMALLEST_CAST = 0.05
"""In units of the range [-1, 1], whose length is 2: 6 grey levels, about the smallest visible cast."""
CAST_ERRORS = 4.0
"""A cast counts beyond this many of its standard errors: by chance once in 16,000 previews."""

_MORE = ("redder", "greener", "bluer")
_LESS = ("more cyan", "more magenta", "yellower")


@dataclass(frozen=True)
class Colours:
    """Statistics of a set of images with values in [-1, 1], float64."""

    image_means: Tensor
    """(N, C) mean of each image's channels."""
    std: Tensor
    """(C,) over all pixels of all images."""

    @property
    def mean(self) -> Tensor:
        """(C,) over all pixels of all images."""
        return self.image_means.mean(dim=0)


def colours(images: Iterable[Tensor]) -> Colours:
    """Statistics of images (C, H, W) of one shape, at least one, taken one at a time."""
    moments = [(image.double().mean(dim=(1, 2)), image.double().square().mean(dim=(1, 2))) for image in images]
    means, squares = (torch.stack(moment) for moment in zip(*moments, strict=True))
    var = squares.mean(dim=0) - means.mean(dim=0) ** 2
    return Colours(image_means=means, std=var.clamp(min=0).sqrt())


def colour_metrics(previews: Colours, data: Colours) -> dict[str, float]:
    """Means and standard deviations by channel: "preview_mean_0", "data_mean_0", ..

    For colour images also "preview_cast", the largest of `colour_cast`.
    """
    cast = {"preview_cast": float(colour_cast(previews, data).abs().max())} if len(data.std) == 3 else {}
    return cast | {
        f"{whose}_{what}_{channel}": float(getattr(of, what)[channel])
        for channel in range(len(data.std))
        for what in ("mean", "std")
        for whose, of in (("preview", previews), ("data", data))
    }


def colour_cast(previews: Colours, data: Colours) -> Tensor:
    """(C,) difference of each channel's mean from the data's, less the mean difference over channels; its sum is 0."""
    shift = previews.mean - data.mean
    return shift - shift.mean()


def cast_error(previews: Colours, data: Colours) -> Tensor:
    """(C,) standard error of `colour_cast`, both sets being samples; NaN where one of them is a single image."""

    def var_of_mean(of: Colours) -> Tensor:
        deviations = of.image_means - of.image_means.mean(dim=1, keepdim=True)
        return deviations.var(dim=0) / len(deviations) if len(deviations) > 1 else torch.full_like(of.std, torch.nan)

    return (var_of_mean(previews) + var_of_mean(data)).sqrt()


def cast_in_words(previews: Colours, data: Colours) -> str | None:
    """A sentence's end such as "redder than the data by 0.12 of 2"; None without a cast, and for grey images.

    A cast counts if it exceeds both SMALLEST_CAST and CAST_ERRORS standard errors.
    """
    if len(data.std) != 3:
        return None
    cast = colour_cast(previews, data)
    # Comparisons with an unknown error, NaN, are false.
    counts = (cast.abs() > SMALLEST_CAST) & (cast.abs() > CAST_ERRORS * cast_error(previews, data))
    if not bool(counts.any()):
        return None
    channel = int(torch.where(counts, cast.abs(), 0).argmax())
    words = _MORE if cast[channel] > 0 else _LESS
    return f"{words[channel]} than the data by {float(cast[channel].abs()):.2f} of 2"
