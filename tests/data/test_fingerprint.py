"""The fingerprint of a set of pictures is that which runs on disk hold."""

import os
from hashlib import sha256
from pathlib import Path

from data.storages import png, write_folder, write_shards, write_zip

from guided_diffusion.data import index
from guided_diffusion.data.config import DataConfig
from guided_diffusion.data.fingerprint import MOST_READ, fingerprint
from guided_diffusion.data.image_set import ImageSet, open_training_set
from guided_diffusion.data.preparation import write_prepared
from guided_diffusion.data.subset import evenly_spaced


def opened(path: Path, **config) -> ImageSet:
    return open_training_set(DataConfig(path=path, **config), image_size=4)


def former_fingerprint(images: ImageSet) -> str:
    """The fingerprint with a stat of every file, as runs on disk hold it."""
    digest = sha256()
    for path, label in zip(images.paths, images.labels.tolist(), strict=True):
        try:
            size = path.stat().st_size
        except OSError:
            size = next((parent.stat().st_size for parent in path.parents if parent.is_file()), None)
        place = str(path).removeprefix(str(images.path))
        digest.update(f"{place}\0{size}\0{label}\n".encode(errors="surrogateescape"))
    for number in evenly_spaced(len(images), most=MOST_READ):
        with images.source.files.open(int(images.source.entries[number])) as file:
            digest.update(file.read())
    return digest.hexdigest()


def test_the_fingerprint_is_that_of_runs_on_disk(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(index, "FEWEST", 1)
    files = {f"ant/{number}.png": png(number) for number in range(70)} | {os.fsdecode(b"bee/\n\xff.png"): png(70)}
    folder = write_folder(tmp_path / "data", files)
    write_zip(tmp_path / "data.zip", inside="./x//", files={"ant/0.png": png(0)})
    write_prepared(tmp_path / "prepared", opened(folder), DataConfig(path=folder))
    sources = [folder, tmp_path / "data.zip", write_shards(tmp_path / "shards"), tmp_path / "prepared"]
    monkeypatch.chdir(folder)
    for path in [*sources, Path(), Path("../data"), Path("../data.zip")] * 2:
        images = opened(path)
        assert fingerprint(images) == former_fingerprint(images)
    before = fingerprint(opened(folder))
    (folder / "ant" / "1.png").write_bytes(png(1) + b"\0")
    assert fingerprint(opened(folder)) == former_fingerprint(opened(folder)) != before
    (folder / "ant" / "2.png").write_bytes(b"no image")
    images = opened(folder, on_error="skip")
    assert fingerprint(images) == former_fingerprint(images)
