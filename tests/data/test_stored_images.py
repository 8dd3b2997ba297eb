import os
from pathlib import Path

import numpy as np
import pytest
import torch
from data.storages import PICTURES, write_zip
from PIL import Image
from torch import Tensor

from guided_diffusion.data.config import DataConfig
from guided_diffusion.data.crops import center_crop
from guided_diffusion.data.formats.samples import Shard, open_manifest, shard_path, write_shard
from guided_diffusion.data.image_set import open_image_set, open_training_set


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (150, 6, 6, 3), dtype=np.uint8)


@pytest.fixture
def labels() -> np.ndarray:
    return np.repeat(np.arange(3), 50)


def save_shards(directory: Path, pixels: np.ndarray, labels: np.ndarray, *, shard_size: int = 40) -> Path:
    open_manifest(directory, {"num_samples": len(pixels), "shard_size": shard_size, "class_names": ["a", "b", "c"]})
    for n, start in enumerate(range(0, len(pixels), shard_size)):
        part = slice(start, min(start + shard_size, len(pixels)))
        write_shard(directory, n, Shard(images=pixels[part], labels=labels[part], ids=np.arange(len(pixels))[part]))
    return directory


def save_folder(directory: Path, pixels: np.ndarray, labels: np.ndarray | None = None) -> Path:
    for n, image in enumerate(pixels):
        parent = directory if labels is None else directory / "abc"[labels[n]]
        parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.squeeze()).save(parent / f"{n:04d}.png")
    return directory


def collected(path: Path, *, batch_size: int = 64, size: int | None = None) -> tuple[Tensor, Tensor | None]:
    images, labels = zip(*open_image_set(path, image_size=size).batches(batch_size), strict=True)
    return torch.cat(images), None if labels[0] is None else torch.cat(labels)


@pytest.fixture(params=["shards", "npz", "compressed npz", "class folder", "flat folder"])
def source(request: pytest.FixtureRequest, tmp_path: Path, pixels: np.ndarray, labels: np.ndarray) -> Path:
    if request.param == "shards":
        return save_shards(tmp_path, pixels, labels)
    if "folder" in request.param:
        return save_folder(tmp_path, pixels, None if "flat" in request.param else labels)
    (np.savez_compressed if "compressed" in request.param else np.savez)(tmp_path / "x.npz", arr_0=pixels, arr_1=labels)
    return tmp_path / "x.npz"


def test_every_source_gives_the_same_images_and_labels(source: Path, pixels: np.ndarray, labels: np.ndarray) -> None:
    images, found = collected(source)
    assert images.dtype == torch.uint8
    np.testing.assert_array_equal(images.permute(0, 2, 3, 1), pixels)
    flat = source.is_dir() and any(source.glob("*.png"))
    if flat:
        assert found is None
    else:
        np.testing.assert_array_equal(found, labels)


def test_a_source_says_all_its_labels_and_gives_any_range_of_images(
    source: Path, pixels: np.ndarray, labels: np.ndarray
) -> None:
    opened = open_image_set(source)
    if source.is_dir() and any(source.glob("*.png")):
        assert not opened.is_labelled
    else:
        np.testing.assert_array_equal(opened.labels, labels)
    for start, stop in ((0, 150), (35, 85), (149, 150)):
        between = opened.read(range(start, stop))
        assert between.dtype == torch.uint8
        np.testing.assert_array_equal(between.permute(0, 2, 3, 1), pixels[start:stop])


def test_labels_of_samples_are_found_though_the_first_shard_has_none(tmp_path: Path, pixels: np.ndarray) -> None:
    labels = np.where(np.arange(150) < 100, -1, 2)
    save_shards(tmp_path, pixels, labels)
    np.testing.assert_array_equal(open_image_set(tmp_path).labels, labels)
    np.testing.assert_array_equal(collected(tmp_path)[1], labels)


def test_shares_of_a_source_are_the_batches_of_the_whole(source: Path) -> None:
    opened = open_image_set(source)
    whole = list(opened.batches(32))
    assert [len(images) for images, _ in whole] == [32, 32, 32, 32, 22]
    shares = [batch for first, last in [(0, 2), (2, 2), (2, 5)] for batch in opened.batches(32, first=first, last=last)]
    assert len(shares) == len(whole)
    assert all(torch.equal(mine[0], theirs[0]) for mine, theirs in zip(shares, whole, strict=True))


@pytest.mark.parametrize("batch_size", [1, 39, 40, 41, 150, 1000])
def test_batches_of_any_size_hold_the_same_images(tmp_path: Path, pixels, labels, batch_size: int) -> None:
    images, found = collected(save_shards(tmp_path, pixels, labels), batch_size=batch_size)
    np.testing.assert_array_equal(images.permute(0, 2, 3, 1), pixels)
    np.testing.assert_array_equal(found, labels)


def test_batches_may_be_written_to(source: Path) -> None:
    for images, _ in open_image_set(source).batches(1000):
        images.zero_()


def test_sources_say_what_they_are(tmp_path: Path, pixels: np.ndarray, labels: np.ndarray) -> None:
    shards = open_image_set(save_shards(tmp_path / "s", pixels, labels))
    assert (shards.format, len(shards), shards.shape, shards.class_names) == (
        "shards",
        150,
        (6, 6, 3),
        ("a", "b", "c"),
    )
    assert shards.manifest is not None
    folder = open_image_set(save_folder(tmp_path / "f", pixels, labels), image_size=4)
    assert (folder.format, len(folder), folder.shape, folder.class_names) == (
        "folder",
        150,
        (4, 4, 3),
        ("a", "b", "c"),
    )
    assert "centre crop to 4 px" in folder.resize


def test_an_empty_class_folder_keeps_its_number(tmp_path: Path, pixels: np.ndarray) -> None:
    save_folder(tmp_path, pixels[:6], np.array([0, 0, 0, 2, 2, 2]))
    (tmp_path / "b").mkdir()
    assert collected(tmp_path)[1].tolist() == [0, 0, 0, 2, 2, 2]


def test_any_ascending_images_of_a_source_can_be_had(source: Path, pixels: np.ndarray) -> None:
    indices = [0, 3, 4, 39, 40, 130, 149]
    opened = open_image_set(source)
    np.testing.assert_array_equal(np.concatenate(list(opened.stream(indices))), pixels[indices])
    np.testing.assert_array_equal(opened.pixels(130), pixels[130])
    assert list(opened.stream(range(3, 3))) == []


def test_the_fingerprint_of_a_source_changes_with_its_files(tmp_path: Path) -> None:
    archive = open_image_set(write_zip(tmp_path / "data.zip", inside="train/") / "train")
    before = archive.files_sha256()
    assert archive.files_sha256() == before
    write_zip(tmp_path / "data.zip", PICTURES | {"train/cat/0.png": PICTURES["ant/0.png"]})
    assert archive.files_sha256() != before
    (tmp_path / "data.zip").unlink()
    with pytest.raises(FileNotFoundError, match="is gone: it was moved or removed"):
        archive.files_sha256()


def test_the_fingerprint_of_samples_is_of_their_shards_alone(tmp_path: Path, pixels, labels) -> None:
    source = open_image_set(save_shards(tmp_path, pixels, labels))
    before = source.files_sha256()
    (tmp_path / "evaluation-judge.json").write_text("{}")
    (tmp_path / "grid.png").write_bytes(b"")
    assert source.files_sha256() == before
    time = shard_path(tmp_path, 2).stat().st_mtime_ns
    os.utime(shard_path(tmp_path, 2), ns=(time, time + 1))
    assert source.files_sha256() != before


def test_labels_beyond_the_class_names_are_refused_when_samples_are_opened(tmp_path: Path, pixels, labels) -> None:
    save_shards(tmp_path, pixels, labels + 1)
    with pytest.raises(ValueError, match="has label 3, but there are only 3 class names, for labels from 0"):
        open_image_set(tmp_path)


def test_pictures_of_another_size_get_the_published_crop(tmp_path: Path) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 31, 3), dtype=np.uint8))
    picture.save(tmp_path / "x.png")
    images, _ = collected(tmp_path, size=8)
    np.testing.assert_array_equal(images[0].permute(1, 2, 0), center_crop(picture, 8))


def test_grey_pictures_become_colour_only_if_asked(tmp_path: Path, pixels: np.ndarray) -> None:
    save_folder(tmp_path, pixels[:3, :, :, :1])
    assert open_image_set(tmp_path).shape == (6, 6, 1)
    images = next(open_image_set(tmp_path, channels=3).batches(3))[0]
    assert torch.equal(images, torch.from_numpy(pixels[:3, :, :, :1]).permute(0, 3, 1, 2).expand(-1, 3, -1, -1))


def test_colour_among_grey_pictures_is_refused(tmp_path: Path, pixels: np.ndarray) -> None:
    save_folder(tmp_path, pixels[:2, :, :, :1])
    Image.fromarray(pixels[0]).save(tmp_path / "zebra.png")
    with pytest.raises(ValueError, match=r"2 L, 1 RGB; for example 0000\.png is L and zebra\.png is RGB; --channels 3"):
        open_image_set(tmp_path)
    with pytest.raises(ValueError, match=r"zebra\.png is in colour where grey"):
        open_image_set(tmp_path, channels=1)
    assert open_image_set(tmp_path, channels=3).shape == (6, 6, 3)
    assert open_image_set(tmp_path, channels=4).shape == (6, 6, 4)
    with pytest.raises(ValueError, match="pictures have 1, 3 or 4 channels, and 2 were asked for"):
        open_image_set(tmp_path, channels=2)


def test_samples_without_labels_have_none(tmp_path: Path, pixels: np.ndarray) -> None:
    save_shards(tmp_path, pixels, np.full(150, -1))
    assert collected(tmp_path)[1] is None


def test_mixed_sizes_are_refused_naming_the_file(tmp_path: Path, pixels: np.ndarray) -> None:
    save_folder(tmp_path, pixels[:2])
    Image.fromarray(pixels[0, :5]).save(tmp_path / "odd.png")
    with pytest.raises(ValueError, match=r"odd\.png has 5x6 pixels but .*0000\.png has 6x6: a set must have one size"):
        collected(tmp_path)
    assert collected(tmp_path, size=4)[0].shape == (3, 3, 4, 4)


def test_shards_of_mixed_sizes_are_refused(tmp_path: Path, pixels: np.ndarray, labels: np.ndarray) -> None:
    save_shards(tmp_path, pixels, labels)
    write_shard(tmp_path, 1, Shard(images=pixels[40:80, :5], labels=labels[40:80], ids=np.arange(40, 80)))
    with pytest.raises(ValueError, match=r"mixes images of shape \(6, 6, 3\) and \(5, 6, 3\)"):
        collected(tmp_path)


def test_a_broken_picture_is_named(tmp_path: Path, pixels: np.ndarray) -> None:
    save_folder(tmp_path, pixels[:3])
    (tmp_path / "0001.png").write_bytes((tmp_path / "0001.png").read_bytes()[:60])
    with pytest.raises(ValueError, match=r"0001\.png is not a readable image"):
        collected(tmp_path)


def test_unfinished_samples_are_refused(tmp_path: Path, pixels: np.ndarray, labels: np.ndarray) -> None:
    save_shards(tmp_path, pixels, labels)
    shard_path(tmp_path, 2).unlink()
    with pytest.raises(ValueError, match=r"lacks 1 of its 4 shards \(2\)"):
        open_image_set(tmp_path)


def test_fractions_that_were_cut_to_integers_are_refused_wherever_they_lie(tmp_path: Path) -> None:
    cut = np.random.default_rng(0).random((20, 6, 6, 3)).round().astype(np.uint8)
    np.savez(tmp_path / "x.npz", arr_0=cut)
    for path in (tmp_path / "x.npz", save_folder(tmp_path / "pictures", cut)):
        with pytest.raises(ValueError, match=r"all but black: no value of 0\.\.255 is above 1; .* multiply by 255"):
            open_image_set(path)


def test_black_samples_of_ours_are_samples(tmp_path: Path) -> None:
    black = np.zeros((20, 6, 6, 3), np.uint8)
    assert len(open_image_set(save_shards(tmp_path, black, np.zeros(20, np.int64)))) == 20


def test_places_without_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no images in .*; give a path that holds some"):
        open_image_set(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is nothing at"):
        open_image_set(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match=r"there is nothing at hf:cifar10; .*\(hf:NAME or saved\)"):
        open_image_set(Path("hf:cifar10"))
    (tmp_path / "x.txt").write_text("x")
    with pytest.raises(ValueError, match="is a file of no known format"):
        open_image_set(tmp_path / "x.txt")
    with pytest.raises(FileNotFoundError, match="there is nothing at"):
        open_image_set(tmp_path / "x.txt" / "y")


def test_loose_pictures_beside_class_folders_are_refused(tmp_path: Path, pixels: np.ndarray) -> None:
    save_folder(tmp_path, pixels[:3], np.arange(3))
    save_folder(tmp_path, pixels[:1])
    with pytest.raises(ValueError, match=r"holds images beside its class folders \('0000\.png' and 0 more\)"):
        open_image_set(tmp_path)


def test_stored_images_of_another_size_or_channel_count_are_refused(tmp_path: Path, pixels: np.ndarray) -> None:
    np.savez(tmp_path / "x.npz", arr_0=pixels)
    with pytest.raises(ValueError, match="images of 6x6 pixels where 8x8 were expected; stored arrays are not resized"):
        open_image_set(tmp_path / "x.npz", image_size=8)
    with pytest.raises(ValueError, match="3 channels where 1 were expected"):
        open_image_set(tmp_path / "x.npz", channels=1)


def test_a_batch_size_of_zero_is_refused(tmp_path: Path, pixels: np.ndarray) -> None:
    with pytest.raises(ValueError, match="batch_size must be positive"):
        next(open_image_set(save_folder(tmp_path, pixels[:1])).batches(0))


def test_training_reads_no_stored_arrays(tmp_path: Path, pixels: np.ndarray, labels: np.ndarray) -> None:
    np.savez(tmp_path / "x.npz", arr_0=pixels)
    for path in (tmp_path / "x.npz", save_shards(tmp_path / "samples", pixels, labels)):
        with pytest.raises(ValueError, match=r"holds stored arrays \((npz|shards)\), which evaluation"):
            open_training_set(DataConfig(path=path), image_size=6)
