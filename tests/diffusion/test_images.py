import pytest
import torch
from oracles import golden

from guided_diffusion.diffusion.images import from_uint8, grid, to_uint8


def test_uint8_conversion_equals_the_published_one():
    stored = golden.arrays("ops")
    assert torch.equal(to_uint8(stored["quant_in"]), stored["quant_out"])


def test_conversion_truncates_and_clamps():
    images = torch.tensor([-5.0, -1.0, -0.9999, 0.0, 0.9999, 1.0, 5.0])
    assert to_uint8(images).tolist() == [0, 0, 0, 127, 254, 255, 255]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_conversion_gives_uint8_of_the_same_shape_in_every_dtype(dtype):
    images = torch.linspace(-1.5, 1.5, 48).reshape(1, 3, 4, 4).to(dtype)
    converted = to_uint8(images)
    assert converted.dtype == torch.uint8
    assert converted.shape == images.shape
    assert converted.min() == 0
    assert converted.max() == 255


def test_grey_levels_come_back_up_to_truncation():
    """Truncation loses a level where rounding falls just below one; never more, and never the two ends."""
    levels = torch.arange(256, dtype=torch.uint8)
    back = to_uint8(from_uint8(levels)).int()
    assert set((levels.int() - back).tolist()) <= {0, 1}
    assert back[[0, -1]].tolist() == [0, 255]


def test_grey_levels_lie_evenly_in_the_unit_range():
    images = from_uint8(torch.arange(256, dtype=torch.uint8))
    assert images.dtype == torch.float32
    assert (float(images[0]), float(images[-1])) == (-1.0, 1.0)
    assert torch.allclose(images.diff(), torch.full((255,), 2 / 255), rtol=1e-4, atol=0)


def test_grid_places_images_row_by_row():
    images = torch.arange(5, dtype=torch.uint8)[:, None, None, None].expand(5, 3, 2, 4)
    tiled = grid(images, columns=3, padding=1)
    assert tiled.shape == (3, 2 * (2 + 1) + 1, 3 * (4 + 1) + 1)
    assert tiled.dtype == torch.uint8
    for i in range(5):
        top, left = 1 + (i // 3) * 3, 1 + (i % 3) * 5
        assert (tiled[:, top : top + 2, left : left + 4] == i).all(), i


def test_grid_is_white_between_images_and_in_empty_places():
    tiled = grid(torch.zeros(5, 1, 2, 4, dtype=torch.uint8), columns=3, padding=2)
    assert int((tiled == 0).sum()) == 5 * 2 * 4
    assert int((tiled == 255).sum()) == tiled.numel() - 5 * 2 * 4
    assert (tiled[:, :2] == 255).all()
    assert (tiled[:, :, -2:] == 255).all()


def test_grid_without_padding_is_the_images_alone():
    images = torch.arange(4 * 3 * 2 * 2, dtype=torch.uint8).reshape(4, 3, 2, 2)
    tiled = grid(images, columns=2, padding=0)
    assert torch.equal(tiled[:, :2, 2:], images[1])
    assert torch.equal(tiled[:, 2:, :2], images[2])


def test_a_grid_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one image"):
        grid(torch.empty(0, 3, 2, 2, dtype=torch.uint8), columns=3)
