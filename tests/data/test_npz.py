"""Batches in npz files that cannot be used, each refused with the reason and the remedy."""

import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from guided_diffusion.data.formats.npz import write_array, write_rows
from guided_diffusion.data.image_set import open_image_set


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (150, 6, 6, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": np.zeros((1, 2, 2, 3), np.uint8)}, "expected the array arr_0, found images"),
        ({"arr_0": np.zeros((2, 2, 3), np.uint8)}, r"must hold arr_0 as uint8 \(N, H, W, C\)"),
        ({"arr_0": np.zeros((2, 8, 8, 2), np.uint8)}, "1, 3 or 4 channels in the last place"),
        (
            {"arr_0": np.zeros((2, 3, 8, 8), np.uint8)},
            r"order \(N, C, H, W\), \(2, 3, 8, 8\); .*transpose\(0, 2, 3, 1\)",
        ),
        ({"arr_0": np.array([{}], object)}, "pickled Python objects, which are never loaded"),
        ({"arr_0": np.zeros((1, 2, 2, 3), np.uint8), "arr_1": np.array([{}])}, "arr_1 as pickled Python objects"),
        ({"arr_0": np.zeros((0, 2, 2, 3), np.uint8)}, "arr_0 is empty"),
        ({"arr_0": np.zeros((4, 2, 2, 3), np.uint8), "arr_1": np.zeros(3, int)}, "arr_1 as 4 integer labels"),
        ({"arr_0": np.asfortranarray(np.zeros((4, 2, 2, 3), np.uint8))}, "Fortran order"),
    ],
)
def test_an_npz_of_other_content_is_refused(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        open_image_set(tmp_path / "x.npz")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0.25, 1.0], r"float64: its first 16 images hold values from 0\.25 to 1; if they mean 0\.\.1, save .* \* 255"),
        ([-1.02, 0.9], r"from -1\.02 to 0\.9; if they mean -1\.\.1, save \(\(arr_0 \+ 1\) \* 127\.5\)"),
        ([0.0, 254.7], r"from 0 to 254\.7; save arr_0\.round\(\)\.astype\(np\.uint8\)"),
        ([-3.0, 2.6], r"from -3 to 2\.6, a range that images do not have: bring them to 0\.\.255"),
        ([0.0, np.nan], r"from nan to nan; not all are finite"),
        ([0, 255], r"int64: its first 16 images hold values from 0 to 255; save arr_0"),
    ],
)
def test_floats_in_an_npz_are_refused_with_the_conversion_that_their_range_asks_for(
    tmp_path: Path, values: list[float], message: str
) -> None:
    images = np.resize(values, (20, 4, 4, 3))
    images[16:] = 0  # not looked at
    np.savez(tmp_path / "x.npz", arr_0=images)
    with pytest.raises(ValueError, match=message):
        open_image_set(tmp_path / "x.npz")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_corrupt_npz_is_named(tmp_path: Path, pixels: np.ndarray, save) -> None:
    path = tmp_path / "x.npz"
    save(path, arr_0=pixels)
    good = path.read_bytes()
    middle = len(good) // 2
    path.write_bytes(good[:middle] + bytes(64) + good[middle + 64 :])
    with pytest.raises(ValueError, match=r"x\.npz is damaged: arr_0 cannot be read"):
        list(open_image_set(path).batches(64))
    path.write_bytes(good[:middle])
    with pytest.raises(ValueError, match=r"x\.npz is not a readable npz file"):
        open_image_set(path)


def test_an_npz_shorter_than_it_says_is_named(tmp_path: Path, pixels: np.ndarray) -> None:
    np.savez(tmp_path / "good.npz", arr_0=pixels)
    with zipfile.ZipFile(tmp_path / "good.npz") as good, zipfile.ZipFile(tmp_path / "short.npz", "w") as short:
        short.writestr("arr_0.npy", good.read("arr_0.npy")[:-200])
    with pytest.raises(ValueError, match=r"short\.npz is damaged: .*it ends within image 148"):
        list(open_image_set(tmp_path / "short.npz").batches(64))


def test_a_pickle_named_npz_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(pickle.dumps({"arr_0": 1}))
    with pytest.raises(ValueError, match=r"x\.npz is not a readable npz file"):
        open_image_set(tmp_path / "x.npz")


def test_an_npz_written_by_rows_is_what_numpy_would_write(tmp_path: Path, pixels: np.ndarray) -> None:
    labels = np.arange(150)
    np.savez(tmp_path / "numpy.npz", arr_0=pixels, arr_1=labels)
    with zipfile.ZipFile(tmp_path / "rows.npz", "w") as archive:
        write_rows(archive, "arr_0", (pixels[i : i + 40] for i in range(0, 150, 40)), shape=pixels.shape)
        write_array(archive, "arr_1", labels)
    assert (tmp_path / "rows.npz").read_bytes() == (tmp_path / "numpy.npz").read_bytes()


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        ([np.zeros((2, 4), np.uint8)], "arr_0 is to hold 3 rows, got 2"),
        ([np.zeros((3, 5), np.uint8)], r"rows of uint8 \(4,\), got uint8 \(5,\)"),
        ([np.zeros((3, 4))], r"rows of uint8 \(4,\), got float64 \(4,\)"),
    ],
)
def test_rows_that_do_not_make_up_the_array_are_refused(tmp_path: Path, pieces, message: str) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive, pytest.raises(ValueError, match=message):
        write_rows(archive, "arr_0", pieces, shape=(3, 4))
