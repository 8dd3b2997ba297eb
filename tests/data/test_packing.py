"""Prepared data: the very pixels of the folder, whole or not at all, continued wherever it was stopped.

Over 300 lines because each way in which a preparation can stop, be damaged or be of other images is a test.
"""

import json
import os
import pickle
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from data.storages import augmented
from PIL import Image

from guided_diffusion.commands.prepare_data import PrepareConfig, prepare_data
from guided_diffusion.commands.train_diffusion import train_diffusion
from guided_diffusion.data.config import DataConfig
from guided_diffusion.data.formats import open_stored
from guided_diffusion.data.image_set import ImageSet, open_training_set

SIZE = 6
FILES = ["checksums.npy", "dataset.json", "images.npy", "labels.npy"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Colour pictures of sides that need resizing, halving first and enlarging, and one file in a subdirectory."""
    rng = np.random.default_rng(0)
    for label, name in enumerate(("ant", "bee", "cat")):
        for i, shape in enumerate([(6, 6, 3), (9, 7, 3), (40, 31, 3), (4, 5, 3), (13, 26, 3)][label:]):
            path = tmp_path / "data" / name / ("deep" if i == 2 else "") / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(path)
    return tmp_path / "data"


def prepare(folder: Path, out: Path, *, size: int = SIZE, **data: object) -> Path:
    config = DataConfig(**({"path": folder, "num_workers": 0} | data))
    prepare_data(PrepareConfig(data=config, size=size, out=out))
    return out


def items(path: Path, *, size: int = SIZE, **data: object) -> tuple[torch.Tensor, list[int], tuple[str, ...]]:
    dataset = open_training_set(tiny.data(path, **data), image_size=size)
    x0, labels = zip(*(dataset[index] for index in range(len(dataset))), strict=True)
    return torch.stack(x0), list(labels), dataset.class_names


def test_prepared_data_are_those_of_the_folder_to_the_bit(tmp_path, folder, capsys):
    packed, original = items(prepare(folder, tmp_path / "out")), items(folder)
    assert torch.equal(packed[0], original[0])
    assert packed[1:] == original[1:]
    assert f"{tmp_path / 'out'}: 12 images of 6x6 in 3 classes" in capsys.readouterr().out
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == FILES


def test_grey_data_stay_grey(tmp_path):
    folder = tiny.write_class_folder(tmp_path / "grey", per_class=3)
    packed = items(prepare(folder, tmp_path / "out"))
    assert packed[0].shape == (6, 1, SIZE, SIZE)
    assert torch.equal(packed[0], items(folder)[0])
    assert items(tmp_path / "out", mode="RGB")[0].shape == (6, 3, SIZE, SIZE)


def test_mirrors_of_a_training_are_those_it_would_draw_from_the_folder(tmp_path, folder):
    prepare(folder, tmp_path / "out")
    datasets = [open_training_set(tiny.data(path, flip=True), image_size=SIZE) for path in (folder, tmp_path / "out")]
    samples = [[augmented(dataset, index % 12, index) for index in range(40)] for dataset in datasets]
    assert all(torch.equal(a, b) for a, b in zip(*samples, strict=True))
    assert any(not torch.equal(x0, datasets[0][index % 12][0]) for index, x0 in enumerate(samples[0]))


def test_a_training_of_another_size_resizes_the_stored_squares(tmp_path, folder):
    prepare(folder, tmp_path / "out")
    assert items(tmp_path / "out", size=3)[0].shape == (12, 3, 3, 3)
    stored = np.load(tmp_path / "out" / "images.npy")
    halved = Image.fromarray(stored[0]).resize((3, 3), Image.Resampling.BOX)
    dataset = open_training_set(tiny.data(tmp_path / "out"), image_size=3)
    assert np.array_equal(dataset.pixels(0), np.asarray(halved))


def test_the_files_are_plain_arrays_and_say_what_they_are(tmp_path, folder):
    prepare(folder, tmp_path / "out")
    images = np.load(tmp_path / "out" / "images.npy", mmap_mode="r")
    assert images.shape == (12, SIZE, SIZE, 3)
    assert np.load(tmp_path / "out" / "labels.npy").tolist() == [0] * 5 + [1] * 4 + [2] * 3
    record = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert record["class_names"] == ["ant", "bee", "cat"]
    found = [record[name] for name in ("count", "size", "crop", "mode", "source")]
    assert found == [12, SIZE, "center", "RGB", str(folder)]


def test_any_number_of_processes_writes_the_same_bytes(tmp_path, folder):
    outs = [prepare(folder, tmp_path / str(n), num_workers=n) for n in (0, 2)]
    for name in ("images.npy", "labels.npy"):
        assert (outs[0] / name).read_bytes() == (outs[1] / name).read_bytes()


def test_a_zip_is_prepared_as_its_folder_is(tmp_path, folder):
    archive = shutil.make_archive(str(tmp_path / "archive"), "zip", folder)
    outs = [prepare(source, tmp_path / name) for name, source in (("a", folder), ("b", Path(archive)))]
    for name in ("images.npy", "labels.npy"):
        assert (outs[0] / name).read_bytes() == (outs[1] / name).read_bytes()


def test_a_broken_image_ends_the_preparation_or_is_stood_in_for_as_in_training(tmp_path, folder):
    whole = (folder / "ant" / "1.png").read_bytes()
    (folder / "ant" / "1.png").write_bytes(whole[:-30])  # a sound header: found only when decoded
    with pytest.raises(ValueError, match=r"ant/1\.png is not a readable image .*--data.on_error skip"):
        prepare(folder, tmp_path / "out", num_workers=1)
    packed = items(prepare(folder, tmp_path / "skipped", on_error="skip"))
    assert torch.equal(packed[0], items(folder, on_error="skip")[0])


@pytest.mark.parametrize("left", [0, 50, 128, 128 + 108 * 5, 128 + 108 * 5 + 7, 128 + 108 * 12])
def test_a_partial_file_is_continued_from_its_last_whole_image(tmp_path, folder, monkeypatch, left):
    """128 bytes are the header and 108 an image."""
    whole = (prepare(folder, tmp_path / "whole") / "images.npy").read_bytes()
    assert len(whole) == 128 + 108 * 12
    out, cropped, pixels = tmp_path / "out", [], ImageSet.pixels

    def failing(self: ImageSet, index: int) -> np.ndarray:
        raise OSError("the disk failed")

    monkeypatch.setattr(ImageSet, "pixels", failing)
    with pytest.raises(OSError, match="the disk failed"):
        prepare(folder, out)
    (out / "images.npy.partial").write_bytes(whole[:left])

    def counted(self: ImageSet, index: int) -> np.ndarray:
        cropped.append(index)
        return pixels(self, index)

    monkeypatch.setattr(ImageSet, "pixels", counted)
    prepare(folder, out)
    assert (out / "images.npy").read_bytes() == whole
    assert cropped == list(range(max(0, left - 128) // 108, 12))
    assert sorted(file.name for file in out.iterdir()) == FILES


def test_a_killed_preparation_is_no_data_set_and_goes_on_where_it_was(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "data" / "a").mkdir(parents=True)
    for i in range(256):
        (tmp_path / "data" / "a" / f"{i:03d}.png").symlink_to(tmp_path / "a.png")
    out = tmp_path / "out"
    process = tiny.start(
        "prepare_data.py", f"--data.path={tmp_path / 'data'}", "--size=32", f"--out={out}", "--data.num_workers=0"
    )
    partial = out / "images.npy.partial"
    deadline = time.monotonic() + 60
    while not (partial.exists() and partial.stat().st_size > 128):
        assert time.monotonic() < deadline, "nothing was written"
        assert process.poll() is None, tiny.finish(process)
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    tiny.finish(process)
    assert partial.stat().st_size < 128 + 256 * 32 * 32 * 3
    with pytest.raises(ValueError, match="is not prepared to its end; the same command of prepare_data.py goes on"):
        open_training_set(tiny.data(out), image_size=32)
    prepare(tmp_path / "data", out, size=32)
    stored = np.load(out / "images.npy")
    assert len(stored) == 256
    assert (stored == open_training_set(tiny.data(tmp_path / "data"), image_size=32).pixels(0)).all()


def test_other_images_are_refused_where_some_are_whole_or_begun(tmp_path, folder):
    out = prepare(folder, tmp_path / "out")
    with pytest.raises(ValueError, match="is of other images: size: 6 there, 8 now; give another --out"):
        prepare(folder, out, size=8)
    os.truncate(folder / "ant" / "0.png", 1000)  # behind the same name
    with pytest.raises(ValueError, match="is of other images: sizes_sha256: "):
        prepare(folder, out)
    (folder / "ant" / "0.png").rename(folder / "ant" / "00.png")
    with pytest.raises(ValueError, match="is of other images: listing_sha256: "):
        prepare(folder, out)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(ValueError, match="holds other files; give --out a directory that is new or empty"):
        prepare(folder, tmp_path / "mine")


def test_images_prepared_with_another_value_window_are_other_images(tmp_path, caplog):
    levels = np.linspace(0, 4095, 64).reshape(8, 8).astype(np.uint16)
    (tmp_path / "data" / "a").mkdir(parents=True)
    Image.fromarray(levels).save(tmp_path / "data" / "a" / "0.png")
    windows = {"with": {"window": (0, 4095)}, "without": {"mode": "L"}}
    for name, other in (("with", "without"), ("without", "with")):
        out = prepare(tmp_path / "data", tmp_path / name, size=8, **windows[name])
        pixels = (out / "images.npy").read_bytes()
        with pytest.raises(ValueError, match=r"is of other images: window: .* now; give another --out"):
            prepare(tmp_path / "data", out, size=8, **windows[other])
        assert (out / "images.npy").read_bytes() == pixels
    assert "is damaged" not in caplog.text


def test_repeating_a_finished_preparation_changes_nothing(tmp_path, folder, monkeypatch):
    out = prepare(folder, tmp_path / "out")
    monkeypatch.setattr(ImageSet, "pixels", None)
    prepare(folder, out)


def flip_bit(path: Path, offset: int = -1) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["cut", "changed", "missing"])
def test_a_finished_preparation_that_was_damaged_is_prepared_again(tmp_path, folder, caplog, name, damage):
    out = prepare(folder, tmp_path / "out")
    whole = {path.name: path.read_bytes() for path in out.iterdir()}
    if damage == "cut":
        (out / name).write_bytes(whole[name][:-3])
    elif damage == "missing":
        (out / name).unlink()
    elif name == "dataset.json":
        (out / name).write_text("{}")
    else:
        flip_bit(out / name)
    prepare(folder, out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == whole
    assert ("it is prepared again" in caplog.text) == ((name, damage) != ("dataset.json", "missing"))


def test_prepared_images_and_labels_that_changed_are_never_read(tmp_path, folder):
    out = prepare(folder, tmp_path / "out")
    flip_bit(out / "images.npy")
    dataset = open_training_set(tiny.data(out, on_error="skip"), image_size=SIZE)
    with pytest.raises(OSError, match="it differs from the image that was prepared; the same command of prepare_data"):
        dataset.pixels(11)
    flip_bit(out / "labels.npy", offset=-8)
    with pytest.raises(ValueError, match=r"labels.npy is damaged: it holds .*; the same command of prepare_data"):
        open_stored(out, None)


def test_a_directory_of_before_there_were_checksums_opens_and_is_compared_with_its_hash(tmp_path, folder, caplog):
    out = prepare(folder, tmp_path / "out")
    record = json.loads((out / "dataset.json").read_text())
    (out / "checksums.npy").unlink()
    (out / "dataset.json").write_text(json.dumps({key: record[key] for key in record if key != "labels_sha256"}))
    original = items(folder)[0]
    assert torch.equal(items(prepare(folder, out))[0], original)
    assert caplog.text == ""
    flip_bit(out / "images.npy")
    assert torch.equal(items(prepare(folder, out))[0], original)
    assert "images.npy is damaged: it holds other pixels than were prepared; it is prepared again" in caplog.text


def test_a_record_of_other_types_or_labels_is_named_with_its_field(tmp_path, folder):
    out = prepare(folder, tmp_path / "out")
    record = json.loads((out / "dataset.json").read_text())
    for changes, message in (
        ({"class_names": ["ant", "bee"]}, "labels.npy is damaged: it holds label 2 of 2 classes"),
        ({"count": 12.0}, "count is 12.0"),
    ):
        (out / "dataset.json").write_text(json.dumps(record | changes))
        with pytest.raises(ValueError, match=f"{message}.*; the same command of prepare_data.py makes it anew"):
            open_stored(out, None)


@pytest.mark.parametrize("option", [{"crop": "random"}, {"flip": True}])
def test_what_training_draws_anew_each_time_cannot_be_prepared(tmp_path, option):
    with pytest.raises(ValueError, match="prepared images are centre crops, not mirrored: leave out data.crop"):
        prepare(tmp_path / "nowhere", tmp_path / "out", **option)


def test_damaged_files_are_refused_by_name(tmp_path, folder):
    out = prepare(folder, tmp_path / "out")
    images, record = (out / "images.npy").read_bytes(), json.loads((out / "dataset.json").read_text())
    (out / "images.npy").write_bytes(images[:-1])
    with pytest.raises(ValueError, match=r"images.npy is damaged: 1,423 bytes for uint8 \(12, 6, 6, 3\)"):
        open_stored(out, None)
    (out / "images.npy").write_bytes(b"no array")
    with pytest.raises(ValueError, match=r"images.npy is no array of numpy's"):
        open_stored(out, None)
    (out / "images.npy").write_bytes(images)
    (out / "dataset.json").write_text(json.dumps(record | {"count": 11}))
    with pytest.raises(ValueError, match=r"tells of images \(11, 6, 6, 3\), images.npy holds \(12, 6, 6, 3\)"):
        open_stored(out, None)
    (out / "dataset.json").write_text(json.dumps(record | {"format": 2}))
    with pytest.raises(ValueError, match="is of format 2; this version reads format 1"):
        open_stored(out, None)
    (out / "dataset.json").write_text("{")
    with pytest.raises(ValueError, match="dataset.json is damaged"):
        open_stored(out, None)


def test_labels_of_prepared_data_are_their_own(tmp_path, folder):
    out = prepare(folder, tmp_path / "out")
    with pytest.raises(ValueError, match="holds prepared images, whose labels are their own; leave out data.labels"):
        open_training_set(tiny.data(out, labels="filenames"), image_size=SIZE)


def test_worker_processes_get_names_and_numbers_not_the_pixels(tmp_path):
    folder = tiny.write_class_folder(tmp_path / "data", per_class=50, size=16)
    storage = open_stored(prepare(folder, tmp_path / "out", size=16), None).images
    assert len(pickle.dumps(storage)) < 1000 < (tmp_path / "out" / "images.npy").stat().st_size
    assert pickle.loads(pickle.dumps(storage)).open(99).read() == storage.open(99).read()


def test_a_training_on_prepared_data_is_the_training_on_the_folder(tmp_path, class_folder):
    packed = prepare(class_folder, tmp_path / "packed", size=8)
    losses = []
    for path in (class_folder, packed):
        out = tmp_path / f"run-{path.name}"
        train_diffusion(tiny.diffusion_config(out, path, iterations=2, log_every_iterations=1))
        losses.append([json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()])
    assert losses[0] == losses[1]
    assert len(losses[0]) == 2
