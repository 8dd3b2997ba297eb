"""All storages give the same items; what kind of storage lies at a path; storages that fail, zips above all."""

import logging
import pickle
import zipfile
from collections import deque
from pathlib import Path

import pytest
import torch
from data.storages import (
    LABELS,
    NAMES,
    PICTURES,
    augmented,
    encoded,
    png,
    write_folder,
    write_saved,
    write_shards,
    write_tar,
    write_zip,
)
from PIL import Image

from guided_diffusion.data.batches import EndlessBatches
from guided_diffusion.data.config import DataConfig
from guided_diffusion.data.formats import open_stored
from guided_diffusion.data.image_set import ImageSet, open_training_set


def opened(path: Path, **config) -> ImageSet:
    return open_training_set(DataConfig(path=path, crop="random", flip=True, **config), image_size=4)


WRITERS = {
    "zip": lambda tmp: write_zip(tmp / "data.zip"),
    "stored zip": lambda tmp: write_zip(tmp / "data.zip", compression=zipfile.ZIP_STORED),
    "folder in a zip": lambda tmp: write_zip(tmp / "data.zip", inside="data/train/") / "data" / "train",
    "zip in another order": lambda tmp: write_zip(tmp / "data.ZIP", dict(reversed(PICTURES.items()))),
    "shards": lambda tmp: write_shards(tmp / "shards"),
    "hugging face": lambda tmp: write_saved(tmp / "saved"),
}


@pytest.fixture
def folder(tmp_path: Path) -> ImageSet:
    return opened(write_folder(tmp_path / "folder"))


@pytest.mark.parametrize("kind", WRITERS)
def test_every_storage_gives_the_items_of_the_class_folder_to_the_bit(tmp_path, folder, kind):
    other = opened(WRITERS[kind](tmp_path))
    assert (other.class_names, other.labels.tolist()) == (folder.class_names, folder.labels.tolist())
    assert (len(other), other.channels, other.skipped) == (5, 3, ())
    for index in range(5):
        assert torch.equal(augmented(other, index, 10 + index), augmented(folder, index, 10 + index))
        assert other[index][1] == LABELS[index]


@pytest.mark.parametrize("kind", WRITERS)
def test_workers_read_every_storage_as_one_process_does(tmp_path, folder, kind):
    def first_batches(dataset: ImageSet, num_workers: int) -> list[torch.Tensor]:
        stream = EndlessBatches(dataset, batch_size=5, seed=0, num_workers=num_workers).micro_batches()
        return [next(stream).x0 for _ in range(3)]

    other = opened(WRITERS[kind](tmp_path))
    other[0]  # whatever a storage keeps open now, the forked workers would share
    sent = pickle.loads(pickle.dumps(other))  # what a spawned worker gets
    alone = first_batches(folder, 0)
    for dataset, num_workers in ((other, 2), (sent, 0)):
        assert all(torch.equal(a, b) for a, b in zip(alone, first_batches(dataset, num_workers), strict=True))


def test_a_million_images_reach_a_worker_as_arrays_and_not_as_objects(tmp_path):
    """Pickled size is what the storage keeps: per image its name's 9 bytes and a few numbers, not an object."""
    files = {f"a/{number:03d}.png": b"" for number in range(1000)}
    folder = open_stored(write_folder(tmp_path / "folder", files), "folders").images
    archive = open_stored(write_zip(tmp_path / "data.zip", files), "folders").images
    assert len(pickle.dumps(folder)) < 1000 * 10 + 1000
    assert len(pickle.dumps(archive)) < 1000 * (10 + 5 * 8) + 1000


def test_paths_of_archives_name_the_member_within(tmp_path):
    archive = opened(write_zip(tmp_path / "data.zip", inside="x/") / "x")
    assert archive.paths == tuple(tmp_path / "data.zip" / "x" / name for name in NAMES)
    shards = opened(write_shards(tmp_path / "shards"))
    assert shards.paths[3] == tmp_path / "shards" / "shard-000001.tar" / "000003.png"


# What lies at a path


def test_class_folders_may_have_archives_and_tables_beside_them(tmp_path):
    write_tar(write_folder(tmp_path) / "backup.tar", {})
    write_zip(tmp_path / "old.zip")
    assert len(opened(tmp_path)) == 5


def test_junk_in_zips_is_ignored(tmp_path):
    junk = {"__MACOSX/ant/._0.png": b"x", "ant/._0.png": b"x", ".git/a.png": b"x", "ant/.DS_Store": b"", "x.txt": b"x"}
    assert opened(write_zip(tmp_path / "data.zip", PICTURES | junk)).class_names == ("ant", "bee")


def test_the_twin_folder_of_macos_is_no_class(tmp_path):
    write_folder(tmp_path, PICTURES | {"__MACOSX/ant/._0.png": b"x"})
    assert opened(tmp_path).class_names == ("ant", "bee")


def test_a_zip_in_a_folder_is_refused_with_the_way_in(tmp_path):
    write_zip(tmp_path / "data.zip")
    with pytest.raises(ValueError, match=r"1 \.zip files, the first data\.zip \(give the zip itself as the path\)"):
        opened(tmp_path)


def test_shards_in_a_zip_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no class folders, but 1 \.tar files, the first a\.tar \(unpack it\)"):
        opened(write_zip(tmp_path / "data.zip", {"a.tar": b"x"}))


def test_images_of_unknown_kinds_are_named(tmp_path):
    write_folder(tmp_path, PICTURES | {"cow/0.xcf": b"x", "cow/1.XCF": b"x", "cow/notes.txt": b"x"})
    with pytest.raises(ValueError, match=r"'cow' in .* no images .*, but 2 \.xcf files, the first cow/0\.xcf; fill"):
        opened(tmp_path)


def test_one_class_of_many_folders_is_told_to_look_like_a_mistake(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        wrapped = opened(write_zip(tmp_path / "data.zip", inside="photos/"))
    assert wrapped.class_names == ("photos",)
    assert f"if those are the classes, give {tmp_path / 'data.zip' / 'photos'}" in caplog.text


# Storages that fail


def test_a_file_that_is_no_zip_is_refused(tmp_path):
    (tmp_path / "data.zip").write_bytes(b"hello")
    with pytest.raises(ValueError, match=r"data\.zip is not a whole zip \(File is not a zip file\); fetch or pack"):
        opened(tmp_path / "data.zip")


def test_a_zip_cut_short_is_refused(tmp_path):
    path = write_zip(tmp_path / "data.zip")
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"data\.zip is not a whole zip"):
        opened(path)


def test_a_place_that_the_zip_lacks_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"data\.zip holds nothing below train; expected images"):
        opened(write_zip(tmp_path / "data.zip") / "train")


def test_encrypted_members_are_named(tmp_path):
    path = write_zip(tmp_path / "data.zip")
    with zipfile.ZipFile(path) as archive:
        start = archive.start_dir
    content = bytearray(path.read_bytes())
    content[start + 8] |= 1  # the flags of the first member, as its entry in the directory has them
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"1 members of .*data\.zip are encrypted, the first ant/0\.png"):
        opened(path)


def test_two_members_of_one_name_are_refused(tmp_path):
    path = write_zip(tmp_path / "data.zip", {"ant/0.png": b"", "ant/1.png": b""})
    path.write_bytes(path.read_bytes().replace(b"ant/1.png", b"ant/0.png"))
    with pytest.raises(ValueError, match=r"two members of the name ant/0\.png"):
        opened(path)


def test_a_member_that_differs_from_its_sum_is_damaged(tmp_path):
    """Without the zip's sum nothing would be amiss but one pixel."""
    bitmap = encoded(Image.new("RGB", (8, 8), (1, 2, 3)), "bmp")
    files = {"a/0.bmp": bitmap, "a/1.bmp": bitmap}
    path = write_zip(tmp_path / "data.zip", files, compression=zipfile.ZIP_STORED)
    content = bytearray(path.read_bytes())
    content[content.index(bitmap) + len(bitmap) - 1] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"data\.zip/a/0\.bmp is not a readable image \(BadZipFile: Bad CRC-32"):
        opened(path)[0]
    assert opened(path, on_error="skip").skipped == (path / "a" / "0.bmp",)


def test_pixels_damaged_behind_a_sound_header_are_passed_over_in_a_zip(tmp_path):
    large = {f"a/{seed}.png": png(seed, size=(200, 200)) for seed in range(2)}
    path = write_zip(tmp_path / "data.zip", large, compression=zipfile.ZIP_STORED)
    content = bytearray(path.read_bytes())
    content[content.index(large["a/0.png"]) + 60_000] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"data\.zip/a/0\.png is not a readable image \(BadZipFile: Bad CRC-32"):
        opened(path)[0]
    kept = opened(path, on_error="skip")
    assert torch.equal(kept[0][0], kept[1][0])


@pytest.mark.parametrize("write", [write_folder, write_zip, write_shards])
def test_data_that_are_gone_in_the_middle_of_a_training_are_said_to_be_gone(tmp_path, write):
    path = write(tmp_path / "data.zip")
    stream = EndlessBatches(opened(path), batch_size=5, seed=0, num_workers=1).micro_batches()
    next(stream)
    path.rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match=r"the data, .*data\.zip, are gone .*: .*data\.zip/.*\.png"):
        deque(stream, maxlen=0)  # a worker is a few batches ahead


def test_a_file_that_the_system_refuses_stops_even_when_broken_images_are_skipped(tmp_path, monkeypatch):
    write_folder(tmp_path)
    real = Path.open

    def refused(path, *args, **options):
        if path.name == "1.png":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *args, **options)

    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(PermissionError, match=r"could not read an image: Permission denied: .*ant/1\.png"):
        opened(tmp_path, on_error="skip")


@pytest.mark.parametrize("write", [write_folder, write_zip])
def test_broken_headers_are_skipped_by_name_in_every_tree(tmp_path, write):
    path = write(tmp_path / "data.zip", PICTURES | {"ant/1.png": b"no picture"})
    with pytest.raises(ValueError, match=r"ant/1\.png is not a readable image .*--data\.on_error skip"):
        opened(path)
    kept = opened(path, on_error="skip")
    assert kept.skipped == (path / "ant" / "1.png",)
    assert (kept.labels.tolist(), kept.paths[1]) == ([0, 1, 1, 1], path / "bee" / "0.png")


def test_modes_that_differ_are_named_in_archives(tmp_path):
    grey = encoded(Image.new("L", (4, 4)), "png")
    with pytest.raises(ValueError, match=r"5 RGB, 1 L; for example ant/0\.png is RGB and bee/grey\.png is L"):
        opened(write_zip(tmp_path / "data.zip", PICTURES | {"bee/grey.png": grey}))
