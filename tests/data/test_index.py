"""The index of a data set: it saves the reading of headers, and never shows but in the time that a start takes."""

import io
import os
import pickle
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import programs
import pytest
from data.storages import encoded, png, write_folder, write_shards, write_zip
from PIL import Image

from guided_diffusion.data import crops, index
from guided_diffusion.data.config import DataConfig
from guided_diffusion.data.crops import DamagedImageError
from guided_diffusion.data.image_set import ImageSet, open_image_set, open_training_set
from guided_diffusion.data.summary import summary

ODD = os.fsdecode(b"bee/line\nbreak \xff.png")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """The cache folder; sets of any size have an index, and files are older than a tick of the clock."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(index, "FEWEST", 1)
    monkeypatch.setattr(time, "time_ns", lambda now=time.time_ns: now() + 10**10)
    return tmp_path / "cache" / "guided-diffusion" / "data"


@pytest.fixture
def read(monkeypatch) -> list[str]:
    """Names of the files whose headers were read since it was cleared."""
    names, opened = list[str](), crops.opened

    def watched(file):
        if hasattr(file, "name"):  # else the content of a file, whose pixels are decoded
            names.append(Path(file.name).name)
        return opened(file)

    monkeypatch.setattr(crops, "opened", watched)
    return names


@pytest.fixture
def folder(tmp_path) -> Path:
    """Colour, grey, turned and animated pictures, and an odd name."""
    exif, turned, animated = Image.Exif(), io.BytesIO(), io.BytesIO()
    exif[0x0112] = 6
    Image.new("RGB", (6, 4), "red").save(turned, "png", exif=exif)
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(animated, "png", save_all=True, append_images=frames[1:])
    files = {f"ant/{number}.png": png(number) for number in range(3)}
    files |= {"ant/grey.png": encoded(Image.new("L", (5, 5), 9), "png"), "bee/turned.png": turned.getvalue()}
    return write_folder(tmp_path / "data", files | {"bee/animated.png": animated.getvalue(), ODD: png(7)})


def opened(path: Path, **config) -> ImageSet:
    return open_training_set(DataConfig(path=path, **({"mode": "RGB"} | config)), image_size=4)


def facts(images: ImageSet) -> tuple:
    """All that was learned of a set before its pixels are read."""
    headers = images.headers
    assert headers is not None
    modes = [headers.modes[number] for number in headers.mode_numbers]
    counts = (headers.turned, headers.animated, headers.deep, list(headers.counts.items()))
    sizes = None if headers.num_bytes is None else headers.num_bytes.tolist()
    return modes, headers.sizes.tolist(), counts, sizes, images.paths, images.skipped, summary(images)


def without_index(path: Path, monkeypatch, **config) -> tuple:
    with monkeypatch.context() as patched:
        patched.setattr(index, "FEWEST", 1_000)
        return facts(opened(path, **config))


def test_the_second_start_reads_no_header_and_finds_the_same(folder, read, cache):
    first = facts(opened(folder))
    assert (len(read), len(first[0]), first[2][:2]) == (7, 7, (1, 1))
    read.clear()
    files = {file: file.read_bytes() for file in cache.iterdir()}
    assert facts(opened(folder)) == first
    assert (read, len(files)) == ([], 1)
    assert {file: file.read_bytes() for file in cache.iterdir()} == files


@pytest.mark.parametrize("options", [{"labels": "filenames"}, {"mode": "L"}, {"labels": Path("labels.json")}])
def test_labels_and_settings_are_no_part_of_the_index(folder, read, monkeypatch, options):
    opened(folder)
    names = [str(path.relative_to(folder)) for path in opened(folder).paths if path.name != Path(ODD).name]
    (folder / ODD).unlink()
    for label in ("x", "y"):  # another table of the same name
        (folder / "labels.json").write_text("{" + ", ".join(f'"{name}": "{label}"' for name in names) + "}")
        read.clear()
        images = opened(folder, **options)
        assert read == []
        assert facts(images) == without_index(folder, monkeypatch, **options)
    assert "json" not in str(options) or images.class_names == ("y",)
    assert open_image_set(folder, channels=3, image_size=4).headers is not None


def test_a_window_is_no_part_of_the_index(tmp_path, read):
    deep = encoded(Image.fromarray(np.arange(16, dtype=np.uint16).reshape(4, 4) * 4000), "png")
    path = write_folder(tmp_path / "deep", {"a/0.png": deep, "a/1.png": encoded(Image.new("L", (4, 4)), "png")})
    assert opened(path, mode="auto", window=(0, 4095)).headers.counts == {"L": 2}
    read.clear()
    with pytest.raises(ValueError, match=r"images of several modes in .*: 1 I;16, 1 L; for example a/0.png is I;16"):
        opened(path, mode="auto")
    assert opened(path, mode="L").headers.deep == 1
    assert read == []


def added(folder: Path) -> None:
    (folder / "ant" / "10.png").write_bytes(png(9))


def removed(folder: Path) -> None:
    (folder / "ant" / "1.png").unlink()


def renamed(folder: Path) -> None:
    (folder / "ant" / "1.png").rename(folder / "ant" / "4.png")


def renamed_class(folder: Path) -> None:
    (folder / "bee").rename(folder / "cat")


def replaced_at_the_same_size_and_time(folder: Path) -> None:
    path = folder / "ant" / "1.png"
    before, content = path.stat(), encoded(Image.new("L", (3, 3)), "png")
    path.write_bytes(content.ljust(before.st_size, b"\0"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def exchanged(folder: Path) -> None:
    (folder / "ant" / "1.png").rename(folder / "kept")
    (folder / "ant" / "grey.png").rename(folder / "ant" / "1.png")
    (folder / "kept").rename(folder / "ant" / "grey.png")


def linked_elsewhere(folder: Path) -> None:
    path = write_folder(folder.parent / "other", {"0.png": png(3, size=(3, 9))}) / "0.png"
    (folder / "bee" / "turned.png").unlink()
    (folder / "bee" / "turned.png").symlink_to(path)


@pytest.mark.parametrize(
    ("change", "names"),
    [
        *((added, ["10.png"]), (removed, []), (renamed, ["4.png"])),
        (renamed_class, ["animated.png", Path(ODD).name, "turned.png"]),
        (replaced_at_the_same_size_and_time, ["1.png"]),
        (exchanged, ["1.png", "grey.png"]),
        (linked_elsewhere, ["turned.png"]),
    ],
)
def test_only_files_that_differ_are_read_again(folder, read, monkeypatch, change: Callable[[Path], None], names):
    opened(folder)
    change(folder)
    read.clear()
    found = opened(folder)
    assert read == names
    assert facts(found) == without_index(folder, monkeypatch)
    read.clear()
    assert (facts(opened(folder)), read) == (facts(found), [])


def test_a_file_younger_than_a_tick_of_the_clock_is_read_again(folder, read, monkeypatch):
    monkeypatch.setattr(time, "time_ns", lambda now=time.time_ns: now() - 10**10)
    opened(folder)
    opened(folder)
    assert len(read) == 14


def test_on_slow_disks_a_sample_is_compared_and_all_if_it_differs(folder, read, monkeypatch):
    monkeypatch.setattr(index, "MOST_SECONDS", 0)
    monkeypatch.setattr(index, "SAMPLED", 1)
    stats, stat = [], os.stat
    opened(folder)
    monkeypatch.setattr(os, "stat", lambda path, **how: stats.append(path) or stat(path, **how))
    read.clear()
    opened(folder)
    assert len([path for path in stats if isinstance(path, bytes)]) == 7
    monkeypatch.setattr(index, "SAMPLED", 7)
    stats.clear()
    opened(folder)
    assert len([path for path in stats if isinstance(path, bytes)]) == 1
    assert read == []
    for path in opened(folder).paths:
        path.touch()
    opened(folder)
    assert len(read) == 7


def test_a_linked_folder_has_the_index_of_its_target(folder, read, tmp_path):
    opened(folder)
    (tmp_path / "link").symlink_to(folder)
    assert opened(tmp_path / "link").paths[0] == tmp_path / "link" / "ant" / "0.png"
    assert len(read) == 7


@pytest.mark.parametrize("content", [b"", b"no npz", "cut", "misfit"])
def test_a_damaged_index_is_made_anew_with_a_word(folder, read, cache, caplog, content):
    first = facts(opened(folder))
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    if content == "misfit":
        arrays = dict(np.load(file))
        np.savez(file, **arrays | {"rows": arrays["rows"][:-1]})
    else:
        file.write_bytes(whole[:-300] if content == "cut" else content)
    read.clear()
    assert facts(opened(folder)) == first
    assert len(read) == 7
    assert f"{file}, the index of {folder}, cannot be read" in caplog.text
    assert file.read_bytes() == whole


def test_an_index_of_another_version_is_made_anew(folder, read, cache, caplog, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(index, "VERSION", "0, Pillow 1")
        opened(folder)
    read.clear()
    opened(folder)
    assert (len(read), caplog.text) == (7, "")


def test_without_a_place_for_the_index_all_headers_are_read(folder, read, tmp_path, caplog, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    opened(folder)
    assert "XDG_CACHE_HOME=FOLDER moves it" in caplog.text
    caplog.clear()

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    for value in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        opened(folder)
    assert (len(read), caplog.text) == (21, "")


def test_a_broken_image_is_named_at_every_start_and_the_others_are_not_read_again(folder, read, monkeypatch):
    (folder / "ant" / "2.png").write_bytes(b"no image")
    for _ in range(2):
        with pytest.raises(DamagedImageError, match=r"ant/2.png is not a readable image"):
            opened(folder)
    assert [name for name in read if name == "2.png"] == ["2.png"] * 2
    assert len(read) == 4
    for _ in range(2):
        read.clear()
        assert opened(folder, on_error="skip").skipped == (folder / "ant" / "2.png",)
    assert read == ["2.png"]
    (folder / "ant" / "2.png").write_bytes(png(2))
    (folder / "bee" / "turned.png").write_bytes(b"no image")
    assert facts(opened(folder, on_error="skip")) == without_index(folder, monkeypatch, on_error="skip")


def test_members_of_archives_are_known_again(tmp_path, read):
    path, files = tmp_path / "data.zip", {f"ant/{number}.png": png(number) for number in range(3)}
    shards = write_shards(tmp_path / "shards")
    first = facts(opened(write_zip(path, files))), facts(opened(shards))
    read.clear()
    assert ((facts(opened(path)), facts(opened(shards))), read) == (first, [])
    opened(write_zip(path, files | {"ant/1.png": png(1, size=(4, 4))}))  # moves the next one
    assert read == ["1.png", "2.png"]


def test_a_set_takes_less_than_60_bytes_an_image(tmp_path):
    source = write_folder(tmp_path / "source", {"0.JPEG": encoded(Image.new("RGB", (8, 8)), "jpeg")}) / "0.JPEG"
    for number in range(4_000):
        path = tmp_path / "data" / f"n{1440764 + number // 400:08d}"
        path.mkdir(parents=True, exist_ok=True)
        (path / f"{path.name}_{number}.JPEG").hardlink_to(source)
    assert len(pickle.dumps(opened(tmp_path / "data"))) < 60 * 4_000  # with two copies of the labels


def test_two_processes_open_each_file_once_between_them(folder, tmp_path):
    (tmp_path / "broken").mkdir()
    write_folder(tmp_path / "broken", {"a/0.png": png(0), "a/1.png": b"no image"})
    script = Path(__file__).with_name("two_openers.py")
    arguments = [str(path) for path in (folder, tmp_path / "broken", tmp_path)]
    status, output = programs.start(script, *arguments, processes=2).finish()
    assert status == 0, output
    opens = b"\0".join((tmp_path / f"opened-{rank}").read_bytes() for rank in range(2)).strip(b"\0").split(b"\0")
    assert sorted(opens) == sorted(map(os.fsencode, opened(folder).paths))
    for name in ("facts", "errors"):
        told = [(tmp_path / f"{name}-{rank}").read_bytes() for rank in range(2)]
        assert told[0] == told[1]
    errors = (tmp_path / "errors-1").read_text()
    assert f"DamagedImageError: {tmp_path}/broken/a/1.png is not a readable image" in errors
    assert f"FileNotFoundError: there is nothing at {tmp_path}/absent" in errors
