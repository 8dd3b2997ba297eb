"""Sets of pictures: the same wherever they lie, and decoded ahead of whoever asks for them."""

import io
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import IO

import numpy as np
import pytest
import torch
from data.storages import LABELS, PICTURES, png, write_folder, write_saved, write_shards, write_zip

from guided_diffusion.commands.prepare_data import PrepareConfig, prepare_data
from guided_diffusion.data.config import DataConfig
from guided_diffusion.data.decoder import DecodedImages
from guided_diffusion.data.image_set import open_image_set

PICTURE_WRITERS: dict[str, Callable[[Path], Path]] = {
    "folder": lambda tmp: write_folder(tmp / "folder"),
    "zip": lambda tmp: write_zip(tmp / "data.zip"),
    "zip with a directory around": lambda tmp: write_zip(tmp / "data.zip", inside="data/train/"),
    "directory of a zip": lambda tmp: write_zip(tmp / "data.zip", inside="train/") / "train",
    "folder with a directory around": lambda tmp: write_folder(tmp / "folder" / "train").parent,
    "webdataset": lambda tmp: write_shards(tmp / "shards"),
    "huggingface": lambda tmp: write_saved(tmp / "saved"),
}
"""The pictures of `data.storages`, and by its first word the kind that each of these is."""


@pytest.mark.parametrize("name", PICTURE_WRITERS)
def test_pictures_are_the_same_wherever_they_lie(tmp_path: Path, name: str) -> None:
    path = PICTURE_WRITERS[name](tmp_path)
    source = open_image_set(path)
    kind = "zip" if name == "directory of a zip" else name.split()[0]
    assert (source.format, len(source), source.shape, source.class_names) == (kind, 5, (7, 9, 3), ("ant", "bee"))
    images, labels = zip(*source.batches(2), strict=True)
    assert torch.cat(labels).tolist() == list(LABELS) == source.labels.tolist()
    folder = open_image_set(write_folder(tmp_path / "plain"))
    assert torch.equal(torch.cat(images), folder.read(range(5)))


@pytest.mark.parametrize("inside", ["", "samples/"])
def test_pictures_beside_one_another_in_a_zip_have_the_labels_of_their_folder(tmp_path: Path, inside: str) -> None:
    flat = {f"{number}.png": content for number, content in enumerate(PICTURES.values())}
    archive = open_image_set(write_zip(tmp_path / "data.zip", flat, inside=inside))
    folder = open_image_set(write_folder(tmp_path / "folder" / inside, flat).parent if inside else
                         write_folder(tmp_path / "folder", flat))  # fmt: skip
    assert archive.class_names == folder.class_names == (("samples",) if inside else ())
    assert torch.equal(archive.read(range(5)), folder.read(range(5)))


def test_prepared_images_are_a_source_that_tells_how_they_were_cropped(tmp_path: Path) -> None:
    data = DataConfig(path=write_folder(tmp_path / "folder"), num_workers=0)
    prepare_data(PrepareConfig(data=data, size=4, out=tmp_path / "prepared"))
    prepared, direct = open_image_set(tmp_path / "prepared"), open_image_set(data.path, image_size=4)
    assert torch.equal(prepared.read(range(5)), direct.read(range(5)))
    assert (prepared.format, prepared.class_names, prepared.labels.tolist()) == (
        "prepared",
        ("ant", "bee"),
        list(LABELS),
    )
    assert prepared.resize == f"{direct.resize}, when prepared"
    assert (
        open_image_set(tmp_path / "prepared", image_size=3).resize
        == prepared.resize + "; then " + open_image_set(data.path, image_size=3).resize
    )


def test_zips_without_pictures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"empty\.zip holds nothing; expected images"):
        open_image_set(write_zip(tmp_path / "empty.zip", {}))
    with pytest.raises(ValueError, match=r"no images in .*text\.zip .*, but 1 \.txt files, the first a/x\.txt; give"):
        open_image_set(write_zip(tmp_path / "text.zip", {"a/x.txt": b"x"}))
    with pytest.raises(ValueError, match=r"text\.zip holds nothing below train"):
        open_image_set(tmp_path / "text.zip" / "train")


class SlowAtFirst:
    """A storage of 100 pictures, of which the earlier ones take longer; it notes which were opened."""

    def __init__(self, broken: int | None = None) -> None:
        self.opened: list[int] = []
        self.broken = broken

    def path(self, index: int) -> Path:
        return Path(f"{index}.png")

    def open(self, index: int) -> IO[bytes]:
        self.opened.append(index)
        time.sleep(0.002 * (index % 4 == 0))
        return io.BytesIO(b"junk" if index == self.broken else png(index))


def stream(storage: SlowAtFirst, indices: range) -> Generator[np.ndarray]:
    labels = np.zeros(100, dtype=np.int64)
    source = DecodedImages(files=storage, entries=np.arange(100), labels=labels, mode="RGB", size=None)
    return source.stream(indices)


def test_pictures_come_in_order_whichever_is_decoded_first() -> None:
    storage = SlowAtFirst()
    pictures = [images[0] for images in stream(storage, range(3, 60))]
    for index, picture in zip(range(3, 60), pictures, strict=True):
        expected = np.random.default_rng(index).integers(0, 256, (7, 9, 3), dtype=np.uint8)
        np.testing.assert_array_equal(picture, expected)
    assert sorted(storage.opened) == [0, *range(3, 60)]  # the first picture's shape is everyone's


def test_a_caller_that_stops_leaves_the_rest_undecoded() -> None:
    storage = SlowAtFirst()
    pictures = stream(storage, range(100))
    next(pictures)
    pictures.close()
    assert len(storage.opened) < 100


def test_a_broken_picture_ends_the_stream_with_its_name_before_later_ones() -> None:
    pictures = stream(SlowAtFirst(broken=7), range(100))
    with pytest.raises(ValueError, match=r"7\.png is not a readable image"):
        assert len(list(pictures)) < 8
