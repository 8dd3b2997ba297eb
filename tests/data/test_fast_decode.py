"""Fast decoding: what it leaves as it is, how little it changes the rest, and when it scales at all."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from data.storages import encoded, png, write_folder
from PIL import Image

from guided_diffusion.data.crops import decoded
from guided_diffusion.data.image_set import DataConfig, ImageDataset, open_dataset


def waves(width: int, height: int) -> Image.Image:
    """Two or three periods of each colour across: a shift of the crop's grid by half a pixel shows, blur hardly."""
    y, x = np.mgrid[0:height, 0:width] / min(width, height)
    planes = [np.sin(16 * x + 5 * y), np.sin(18 * y), np.cos(15 * (x - y))]
    return Image.fromarray((127.5 + 100 * np.stack(planes, axis=-1)).astype(np.uint8))


def opened(tmp_path: Path, picture: bytes, suffix: str = ".jpg", *, size: int = 32, **config) -> ImageDataset:
    write_folder(tmp_path, {f"a/0{suffix}": picture})
    return open_dataset(DataConfig(path=tmp_path, **config), image_size=size)


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(10 * torch.log10(4 / (a - b).square().mean()))


@pytest.mark.parametrize(
    ("shorter_side", "draft_side", "expected"),
    [(511, 128, 255), (512, 128, 128), (1023, 128, 255), (1024, 128, 128), (2047, 128, 255), (512, None, 512)],
)
def test_a_jpeg_shrinks_by_powers_of_two_down_to_what_was_asked(shorter_side, draft_side, expected):
    file = io.BytesIO(encoded(Image.new("RGB", (shorter_side + 5, shorter_side)), "jpeg"))
    assert min(decoded(file, mode="RGB", draft_side=draft_side).size) == expected


@pytest.mark.parametrize(("width", "height"), [(500, 375), (375, 501), (1023, 767)])
def test_fast_crops_show_what_exact_crops_show(tmp_path, width, height):
    """Odd sizes: decoders round them up and the exact halvings down. Taken as decoded they give 23 to 31 dB here.

    What remains is a stripe of at most 7/8 of a decoded pixel that the exact crop has in it and the fast one has not.
    """
    picture = encoded(waves(width, height), "jpeg")
    exact = opened(tmp_path, picture)[0][0]
    fast = opened(tmp_path, picture, decode="fast")[0][0]
    assert not torch.equal(fast, exact)
    assert psnr(fast, exact) > 35


def test_images_less_than_four_times_as_large_twice_over_are_decoded_exactly(tmp_path):
    picture = encoded(waves(300, 255), "jpeg")  # 256 = 2 * 4 * 32
    assert torch.equal(opened(tmp_path, picture)[0][0], opened(tmp_path, picture, decode="fast")[0][0])


def test_random_crops_keep_four_times_their_largest_side(tmp_path):
    """Up to 40 pixels for crops of 32, so that nothing below 2 * 4 * 40 = 320 is scaled."""
    for shorter_side, scaled in ((319, False), (320, True)):
        picture = encoded(waves(400, shorter_side), "jpeg")
        exact = opened(tmp_path, picture, crop="random")
        fast = opened(tmp_path, picture, crop="random", decode="fast")
        assert torch.equal(exact[0, 7][0], fast[0, 7][0]) is not scaled


def test_only_jpegs_are_decoded_otherwise(tmp_path):
    picture = png(0, size=(500, 375))
    assert torch.equal(opened(tmp_path, picture, ".png")[0][0], opened(tmp_path, picture, ".png", decode="fast")[0][0])


def test_grey_and_cmyk_jpegs_decode_fast_as_well(tmp_path):
    for mode in ("L", "CMYK"):
        picture = encoded(waves(500, 375).convert(mode), "jpeg")
        exact = opened(tmp_path, picture, mode="L")[0][0]
        assert psnr(opened(tmp_path, picture, mode="L", decode="fast")[0][0], exact) > 40
