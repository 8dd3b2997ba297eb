"""Pixels of more than 8 bits, turned pictures, further formats, and files that are more, or other, than they say."""

import io
import os
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from data.storages import encoded, png, samples, write_folder, write_tar, write_zip
from PIL import Image

from guided_diffusion.data.config import DataConfig
from guided_diffusion.data.decoder import DecodedImages
from guided_diffusion.data.formats.tree import EXTENSIONS
from guided_diffusion.data.image_set import ImageSet, open_image_set, open_training_set
from guided_diffusion.data.summary import doubts, summary
from guided_diffusion.data.values import to_8_bits

ORIENTATION = 0x0112


def opened(path: Path, *, image_size: int = 4, **config) -> ImageSet:
    return open_training_set(DataConfig(path=path, num_workers=0, **config), image_size=image_size)


def deep(levels: np.ndarray, kind: str = "png") -> bytes:
    return encoded(Image.fromarray(levels), kind)


def twelve_bits(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 4096, (8, 8)).astype(np.uint16)


# More than 8 bits


def test_a_window_maps_its_ends_to_black_and_white_and_clips_beyond() -> None:
    levels = np.array([[-5, 0, 1, 2048, 4095, 70_000]])
    assert to_8_bits(levels, (0, 4095)).tolist() == [[0, 0, 0, 128, 255, 255]]
    assert to_8_bits(levels.astype(np.float32), (0, 4095)).tolist() == [[0, 0, 0, 128, 255, 255]]


def test_twelve_bits_in_sixteen_are_doubted_and_the_window_of_the_advice_fills_the_range(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "d", {f"a/{n}.png": deep(twelve_bits(n)) for n in range(3)})
    (doubt,) = doubts(opened(path, mode="L", image_size=8))
    assert "nearly all values of" in doubt
    assert "lie in 0..15 of 0..255" in doubt
    assert "--data.window 0 4095" in doubt
    images = opened(path, window=(0, 4095), image_size=8)
    assert doubts(images) == []
    expected = (twelve_bits(0) * (255 / 4095) + 0.5).astype(np.uint8)
    np.testing.assert_array_equal(images.pixels(0)[:, :, 0], expected)


def test_evaluation_sees_the_pixels_that_training_sees(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "d", {f"a/{n}.tif": deep(twelve_bits(n), "tiff") for n in range(3)})
    trained = opened(path, window=(100, 3000), image_size=8)
    evaluated = open_image_set(path, window=(100, 3000), image_size=8)
    assert np.array_equal(trained.pixels(1), evaluated.pixels(1))
    assert evaluated.resize.startswith("values 100..3000 to 0..255; then ")
    assert "values" not in open_image_set(path, channels=1, image_size=8).resize


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int32, np.float32])
@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_tiff_is_read_whatever_the_type_of_its_values(tmp_path: Path, kind: type, compression: str | None) -> None:
    levels = np.arange(64).reshape(8, 8).astype(kind)
    file = io.BytesIO()
    Image.fromarray(levels).save(file, "tiff", compression=compression)
    path = write_folder(tmp_path / "d", {"a/0.tif": file.getvalue(), "a/1.TIFF": file.getvalue()})
    window = None if kind is np.uint8 else (0, 255)
    np.testing.assert_array_equal(opened(path, window=window, image_size=8).pixels(1)[:, :, 0], levels)


@pytest.mark.parametrize(("kind", "ends"), [(np.uint8, (255, 0)), (np.uint16, (255, 0))])
def test_tiff_whose_zero_is_white_is_no_negative(tmp_path: Path, kind: type, ends: tuple[int, int]) -> None:
    content = deep(np.array([[0, np.iinfo(kind).max]], kind), "tiff")
    tag = b"\x06\x01\x03\x00\x01\x00\x00\x00"  # photometric interpretation, one short
    assert content.count(tag + b"\x01") == 1
    path = write_folder(tmp_path / "d", {"a/0.tif": content.replace(tag + b"\x01", tag + b"\x00")})
    image = open_image_set(path, channels=1).source
    assert isinstance(image, DecodedImages)
    assert tuple(image.pixels(0).ravel()) == ends


def test_values_of_no_known_range_need_a_window_and_are_no_damage_to_skip(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "d", {"a/0.tif": deep(np.array([[0.25, 0.75]], np.float32), "tiff")})
    images = opened(path, mode="L", on_error="skip")
    with pytest.raises(ValueError, match=r"0\.tif has values from 0\.25 to 0\.75, of no known range; .*--data\.window"):
        images.pixels(0)


def test_values_that_are_not_finite_are_damage(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "d", {"a/0.tif": deep(np.array([[0, np.nan]], np.float32), "tiff")})
    with pytest.raises(ValueError, match=r"0\.tif is not a readable image \(it has values that are NaN or infinite\)"):
        opened(path, window=(0, 1)).pixels(0)


def test_a_window_without_use_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no image of .* has grey of more than 8 bits; leave out --data"):
        opened(write_folder(tmp_path / "d"), window=(0, 4095))


@pytest.mark.parametrize("window", [(5, 5), (9, 2), (0, float("inf")), (float("nan"), 1)])
def test_a_window_ascends(tmp_path: Path, window: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match=r"--data\.window is the value of black, then a larger one of white; got"):
        DataConfig(path=tmp_path, window=window)


def test_pictures_of_the_whole_range_are_not_doubted(tmp_path: Path) -> None:
    assert doubts(opened(write_folder(tmp_path / "d"))) == []


def test_an_all_but_black_set_of_8_bits_is_doubted_too(tmp_path: Path) -> None:
    dark = encoded(Image.fromarray(np.full((8, 8), 3, np.uint8)), "png")
    (doubt,) = doubts(opened(write_folder(tmp_path / "d", {"a/0.png": dark, "b/0.png": dark})))
    assert "lie in 3..3 of 0..255" in doubt


# Turned pictures


def turned(pixels: np.ndarray, orientation: int, kind: str) -> bytes:
    exif, file = Image.Exif(), io.BytesIO()
    exif[ORIENTATION] = orientation
    Image.fromarray(pixels).save(file, kind, exif=exif, lossless=True)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["png", "tiff", "webp"])
def test_pictures_are_turned_upright_before_the_crop(tmp_path: Path, kind: str) -> None:
    upright = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: upright.swapaxes(0, 1), 6: np.rot90(upright), 7: np.rot90(upright)[:, ::-1], 8: np.rot90(upright, -1),
    }  # fmt: skip
    files = {f"a/{number}.{kind}": turned(pixels, number, kind) for number, pixels in stored.items()}
    images = open_image_set(write_folder(tmp_path / "d", files))
    for index in range(8):
        np.testing.assert_array_equal(images.pixels(index), upright, err_msg=str(index + 1))
    assert images.headers is not None
    assert images.headers.turned == 7
    assert images.resize == "7 turned upright by their EXIF orientation"
    assert "7 turned by their EXIF orientation" in summary(images)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_broken_exif_data_turn_nothing_and_break_nothing(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.open(io.BytesIO(png(0))).save(file, "jpeg", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    images = open_image_set(write_folder(tmp_path / "d", {"a/0.jpg": file.getvalue()}), image_size=4)
    assert images.headers is not None
    assert (images.headers.turned, images.pixels(0).shape) == (0, (4, 4, 3))


# Formats


@pytest.mark.parametrize("suffix", EXTENSIONS)
def test_every_format_whose_name_counts_as_an_image_is_read(tmp_path: Path, suffix: str) -> None:
    picture = Image.fromarray(np.full((8, 8, 3), (200, 40, 90), np.uint8))
    picture = picture.convert("1") if suffix == ".pbm" else picture.convert("L") if suffix == ".pgm" else picture
    (tmp_path / "a").mkdir()
    picture.save(tmp_path / "a" / f"0{suffix}")
    assert opened(tmp_path, mode="RGB").pixels(0).shape == (4, 4, 3)


def test_the_first_frame_is_taken_and_the_summary_says_so(tmp_path: Path) -> None:
    frames = [Image.fromarray(np.full((8, 8), value, np.uint8)) for value in (10, 200)]
    for kind in ("gif", "tiff", "png", "webp"):
        (tmp_path / "a").mkdir(exist_ok=True)
        frames[0].save(tmp_path / "a" / f"0.{kind}", save_all=True, append_images=frames[1:], lossless=True)
    images = opened(tmp_path, mode="L")
    assert [int(images.pixels(index)[0, 0, 0]) for index in range(4)] == [10] * 4
    assert "4 with further frames or pages, of which the first is taken" in summary(images)


def test_old_extensions_keep_their_order_beside_the_new_ones(tmp_path: Path) -> None:
    names = ["a/10.png", "a/2.JPG", "b/x.webp", "b/y.gif"]
    path = write_folder(tmp_path / "d", dict.fromkeys(names, png(0)))
    assert [str(place.relative_to(path)) for place in opened(path).paths] == names


# Files that are more, or other, than they say


def test_a_pipe_among_the_images_is_refused_by_name_and_not_waited_on(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "d")
    os.mkfifo(path / "bee" / "9.png")
    with pytest.raises(OSError, match="no regular file, but a pipe") as refusal:
        opened(path)
    assert refusal.value.filename == str(path / "bee" / "9.png")


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def test_a_member_larger_than_its_pixels_need_is_refused_before_it_takes_memory(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "d.zip")
    sound = png(0)
    with (
        zipfile.ZipFile(archive, "a", zipfile.ZIP_DEFLATED, compresslevel=1) as file,
        file.open("bee/9.png", "w") as to,
    ):
        to.write(sound[:-12])
        for _ in range(48):
            to.write(bytes(1 << 20))
    with pytest.raises(ValueError, match=r"9\.png is not a readable image \(its header tells of 9x7 pixels, but more"):
        opened(archive).pixels(4)


def test_a_large_image_is_said_to_be_too_large(tmp_path: Path) -> None:
    header = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 14_000, 14_000, 8, 0, 0, 0, 0))
    path = write_folder(tmp_path / "d", {"a/0.png": header + chunk(b"IDAT", b"")})
    expected = (
        r"0\.png is too large to be read \(Image size \(196000000 pixels\) exceeds limit of 178956970 pixels\); make"
    )
    with pytest.raises(ValueError, match=expected):
        opened(path)
    with pytest.raises(ValueError, match=expected):
        open_image_set(path)


def write_named(path: Path, names: list[bytes]) -> Path:
    """A zip whose members have these bytes for names, without a sign that they are UTF-8."""
    placeholders = [f"{number}" * len(name) for number, name in enumerate(names)]
    content = bytearray(write_zip(path, dict.fromkeys(placeholders, png(0))).read_bytes())
    for placeholder, name in zip(placeholders, names, strict=True):
        content = content.replace(placeholder.encode(), name)
    path.write_bytes(content)
    return path


def test_backslashes_of_windows_separate_folders(tmp_path: Path) -> None:
    images = opened(write_named(tmp_path / "d.zip", [b"ant\\0.png", b"bee\\deep\\1.png"]))
    assert images.class_names == ("ant", "bee")
    assert images.pixels(1).shape == (4, 4, 3)
    assert [str(path.relative_to(tmp_path)) for path in images.paths] == ["d.zip/ant/0.png", "d.zip/bee/deep/1.png"]


def test_names_in_a_zip_are_read_as_utf_8_where_they_are_that(tmp_path: Path, caplog) -> None:
    assert opened(write_named(tmp_path / "d.zip", ["löwe/0.png".encode(), b"ant/1.png"])).class_names == ("ant", "löwe")
    assert caplog.messages == []


def test_names_of_an_unknown_code_page_are_said_to_be_guessed(tmp_path: Path, caplog) -> None:
    assert opened(write_named(tmp_path / "d.zip", [b"l\x94we/0.png", b"ant/1.png"])).class_names == ("ant", "löwe")
    (message,) = caplog.messages
    assert "d.zip names 1 files in a code page that it does not tell, taken for cp437, the first löwe/0.png" in message


def test_a_label_nested_too_deep_is_none(tmp_path: Path) -> None:
    files = {"0.png": png(0), "0.json": b"[" * 100_000 + b"]" * 100_000}
    with pytest.raises(ValueError, match=r"0\.png of .*d\.tar has no label"):
        opened(write_tar(tmp_path / "d.tar", files))


def test_a_label_too_long_for_one_is_refused(tmp_path: Path) -> None:
    files = {"0.png": png(0), "0.cls": bytes(17 << 20)}
    with pytest.raises(ValueError, match=r"0\.cls of .*d\.tar is longer than 16,777,216 bytes"):
        opened(write_tar(tmp_path / "d.tar", files))


def test_a_member_longer_than_its_tar_is_refused(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "d.tar", samples(0))
    content = bytearray(path.read_bytes())
    content[124:136] = b"77777777777\0"  # 8 GiB
    content[148:156] = b"%06o\0 " % (sum(content[:148]) + 8 * 32 + sum(content[156:512]))
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"d\.tar is not a whole, uncompressed tar"):
        opened(path)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_an_array_that_claims_more_than_its_file_has_is_refused_at_once(tmp_path: Path, compression: int) -> None:
    header = io.BytesIO()
    claim = {"shape": (10**9, 32, 32, 3), "fortran_order": False, "descr": "|u1"}
    np.lib.format.write_array_header_1_0(header, claim)
    path = write_zip(tmp_path / "d.npz", {"arr_0.npy": header.getvalue() + bytes(9000)}, compression=compression)
    with pytest.raises(
        ValueError, match=r"d\.npz is damaged: arr_0 .*it ends within image 2 of \(1000000000, 32, 32, 3"
    ):
        open_image_set(path)


def test_decoded_images_know_their_window(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "d", {"a/0.png": deep(twelve_bits())})
    source = opened(path, window=(0, 4095)).source
    assert isinstance(source, DecodedImages)
    assert source.window == (0, 4095)
