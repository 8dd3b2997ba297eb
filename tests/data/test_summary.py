"""The sentence about a set of images, and doubts about it: nothing that is left out stays unsaid."""

from pathlib import Path

import pytest
import tiny
from data.storages import png, write_folder, write_shards, write_zip

from guided_diffusion.data.config import DataConfig, Labels
from guided_diffusion.data.image_set import ImageSet, open_image_set, open_training_set
from guided_diffusion.data.summary import doubts, summary


def opened(path: Path, *, size: int = 4, labels: Labels = "folders", **options) -> ImageSet:
    return open_training_set(DataConfig(path=path, labels=labels, **options), image_size=size)


def test_of_images_without_oddities_it_is_short(tmp_path):
    folder = tiny.write_class_folder(tmp_path / "data", per_class=5)
    assert summary(opened(folder, size=8)) == f"{folder}: 10 images of 2 classes, 8x8 grey, .png"
    shards = write_shards(tmp_path / "shards")
    assert summary(opened(shards)) == f"{shards}: 5 images of 2 classes, 4x4 RGB, webdataset"
    flat = write_folder(tmp_path / "flat", {"0.png": png(0)})
    assert summary(open_image_set(flat)) == f"{flat}: 1 image, 9x7 RGB, .png"


@pytest.mark.parametrize("write", [write_folder, write_zip])
def test_files_that_are_left_out_are_counted_by_kind(tmp_path, write):
    files = {"a/0.png": png(0), "b/1.png": png(1), "b/2.gif": png(2), "README": b""}
    for name in ("a/3.txt", "b/4.txt", "b/5.psd", "b/Thumbs.db", "@eaDir/a/0.png", "a/@eaDir/0.png", "a/.DS_Store"):
        files[name] = png(3)
    path = write(tmp_path / "data.zip", files)
    images = opened(path)
    assert (len(images), images.class_names) == (3, ("a", "b"))  # thumbnails are neither images nor a class
    kinds = "2 .txt (a/3.txt, ..), 1 without an extension (README), 1 .psd (b/5.psd), "
    system = "2 @eaDir (@eaDir, ..), 1 hidden (a/.DS_Store), 1 Thumbs.db (b/Thumbs.db)"
    text = summary(images)
    assert text.startswith(f"{path}: 3 images of 2 classes, 4x4 RGB, 2 .png + 1 .gif; left out: ")
    assert sorted(text.split("left out: ")[1].split("), ")) == sorted((kinds + system).split("), "))


def test_a_compressed_shard_beside_the_shards_is_told(tmp_path):
    shards = write_shards(tmp_path)
    (shards / "shard-000002.tar.gz").write_bytes(b"")
    assert summary(opened(shards)).endswith("; left out: 1 .gz (shard-000002.tar.gz)")


def test_a_table_among_the_images_is_used_and_its_classes_are_listed(tmp_path):
    files = {"0.png": png(0), "1.png": png(1), "2.png": png(2), "l.csv": b"file,label\n0.png,u\n1.png,v\n2.png,u \n"}
    images = opened(write_folder(tmp_path, files), labels=Path("l.csv"))
    assert summary(images) == f"{tmp_path}: 3 images of 2 classes (u 2, v 1), 4x4 RGB, .png"


def test_images_below_the_size_and_grey_among_colour_are_counted(tmp_path):
    folder = tiny.write_class_folder(tmp_path / "data", classes=("a",), per_class=3)
    write_folder(folder, {"b/0.png": png(0, size=(40, 40))})
    text = summary(opened(folder, size=16, mode="RGB"))
    assert text.endswith("; 3 grey among colour; 3 smaller than 16 pixels, which are enlarged")


def test_real_images_that_are_enlarged_to_the_samples_are_doubted(tmp_path):
    images = open_image_set(tiny.write_class_folder(tmp_path / "data"), image_size=16)
    assert doubts(images) == [
        f"20 of the 20 images of {tmp_path / 'data'} are smaller than 16 pixels and were enlarged: numbers against "
        f"them measure the enlargement as well"
    ]
    assert doubts(open_image_set(tmp_path / "data", image_size=8)) == []


def test_a_class_without_images_and_one_class_an_image_are_doubted(tmp_path):
    rows = {f"{i}.png": i // 2 + 1 for i in range(4)}
    write_folder(tmp_path, {name: png(i) for i, name in enumerate(rows)})
    (tmp_path / "l.csv").write_text("file,label\n" + "".join(f"{name},{label}\n" for name, label in rows.items()))
    images = opened(tmp_path, labels=Path("l.csv"))
    assert images.empty_classes == (0,)
    assert doubts(images) == [
        f'1 of the 3 classes of {tmp_path} have no images ("0"); class numbers begin at 0: subtract 1 from each '
        f"label, or give names"
    ]
    twins = tiny.write_class_folder(tmp_path / ".twins", classes=("Cat", "cat", "dog"))
    assert doubts(opened(twins)) == [f'{twins} has classes whose names differ in case alone ("Cat", "cat", ..)']
    (one_each,) = doubts(opened(tmp_path, labels="filenames"))
    assert "4 classes for 4 images, nearly one each: the text of each file name up to its first" in one_each
