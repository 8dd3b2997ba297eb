"""Colours measured against tints, brightness and errors that are known."""

import math

import pytest
import torch
from torch import Tensor

from guided_diffusion.training.colour_cast import cast_error, cast_in_words, colour_cast, colour_metrics, colours


def pictures(count: int = 40, channels: int = 3) -> Tensor:
    """Noise about a common grey, in float64."""
    generator = torch.Generator().manual_seed(0)
    return 0.1 * torch.randn(count, channels, 4, 4, generator=generator, dtype=torch.float64)


def tint(*shift: float) -> Tensor:
    return torch.tensor(shift, dtype=torch.float64).reshape(3, 1, 1)


def test_a_tint_is_measured_exactly_whatever_the_brightness():
    data = colours(pictures())
    tinted = colours(pictures() + tint(0.12, -0.06, -0.06) + 0.3)
    expected = torch.tensor([0.12, -0.06, -0.06], dtype=torch.float64)
    torch.testing.assert_close(colour_cast(tinted, data), expected, atol=1e-14, rtol=0)  # sums of 640 values below 1
    assert cast_in_words(tinted, data) == "redder than the data by 0.12 of 2"


@pytest.mark.parametrize(
    ("shift", "words"),
    [
        ((0.1, 0, 0), "redder"),
        ((0, 0.1, 0), "greener"),
        ((0, 0, 0.1), "bluer"),
        ((-0.1, 0, 0), "more cyan"),
        ((0, -0.1, 0), "more magenta"),
        ((0, 0, -0.1), "yellower"),
    ],
)
def test_a_cast_is_called_by_its_colour(shift, words):
    # One channel by 0.1 moves the brightness by a third of that, and what is left is two thirds.
    tinted = colours(pictures() + tint(*shift))
    assert cast_in_words(tinted, colours(pictures())) == f"{words} than the data by 0.07 of 2"


def test_brightness_alone_is_no_cast():
    brighter, data = colours(pictures() + 0.5), colours(pictures())
    assert cast_in_words(brighter, data) is None
    assert colour_metrics(brighter, data)["preview_cast"] < 1e-14


def test_a_cast_counts_from_six_grey_levels_on():
    data = colours(pictures())
    assert cast_in_words(colours(pictures() + tint(0.049, -0.049, 0)), data) is None
    assert cast_in_words(colours(pictures() + tint(0.051, -0.051, 0)), data) is not None


def flat(*reds: float) -> Tensor:
    """Images of one colour each, grey but for the red."""
    images = torch.zeros(len(reds), 3, 2, 2, dtype=torch.float64)
    images[:, 0] = torch.tensor(reds, dtype=torch.float64).reshape(-1, 1, 1)
    return images


def test_the_standard_error_of_a_cast_is_that_of_two_independent_means():
    error = cast_error(colours(flat(0.3, -0.3)), colours(flat(0.6, 0.0, -0.6)))
    # Red deviates from its image's brightness by two thirds of what it is, green and blue by a third.
    of_red = math.sqrt((2 * 0.3**2 / 1) / 2 + (2 * 0.6**2 / 2) / 3)
    expected = torch.tensor([2 / 3, 1 / 3, 1 / 3], dtype=torch.float64) * of_red
    torch.testing.assert_close(error, expected, atol=1e-15, rtol=0)


def test_a_cast_within_four_standard_errors_is_left_to_chance():
    data = colours(flat(*([0.3, -0.3] * 50)))
    few = flat(0.5, 0.5 - 0.6)  # reds of mean 0.2: a cast of 0.13, whose error is 0.2
    many = flat(*([0.5, 0.5 - 0.6] * 50))  # the same cast with an error of 0.03
    assert cast_in_words(colours(few), data) is None
    assert cast_in_words(colours(many), data) == "redder than the data by 0.13 of 2"


def test_one_preview_alone_proves_no_cast():
    assert cast_in_words(colours(pictures(1) + tint(0.5, 0, 0)), colours(pictures())) is None


def test_grey_images_have_brightness_and_contrast_alone():
    data, previews = colours(pictures(channels=1)), colours(pictures(channels=1) * 2 + 0.25)
    assert cast_in_words(previews, data) is None
    metrics = colour_metrics(previews, data)
    assert list(metrics) == ["preview_mean_0", "data_mean_0", "preview_std_0", "data_std_0"]
    assert metrics["preview_mean_0"] == pytest.approx(2 * metrics["data_mean_0"] + 0.25, abs=1e-14)
    assert metrics["preview_std_0"] == pytest.approx(2 * metrics["data_std_0"], abs=1e-14)
    assert metrics["data_std_0"] == pytest.approx(float(pictures(channels=1).std(correction=0)), abs=1e-14)
