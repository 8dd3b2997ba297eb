"""The same few pictures as a folder, a zip, WebDataset shards and a Hugging Face dataset."""

import io
import tarfile
import zipfile
from pathlib import Path

import datasets
import numpy as np
from PIL import Image
from torch import Tensor

from guided_diffusion.data.batches import sample_rng
from guided_diffusion.data.decoder import x0_of
from guided_diffusion.data.image_set import ImageSet

NAMES = ("ant/0.png", "ant/1.png", "bee/0.png", "bee/1.png", "bee/deep/2.png")
LABELS = (0, 0, 1, 1, 1)


def png(seed: int, *, size: tuple[int, int] = (9, 7)) -> bytes:
    """An encoded RGB picture of noise; size is width and height."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return encoded(Image.fromarray(pixels), "png")


def encoded(image: Image.Image, kind: str) -> bytes:
    """The bytes of a file of that kind."""
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


PICTURES = {name: png(seed) for seed, name in enumerate(NAMES)}


def write_folder(path: Path, files: dict[str, bytes] = PICTURES) -> Path:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def write_zip(
    path: Path, files: dict[str, bytes] = PICTURES, *, inside: str = "", compression: int = zipfile.ZIP_DEFLATED
) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(inside + name, content)
    return path


def write_tar(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def samples(*numbers: int) -> dict[str, bytes]:
    """The files of a WebDataset shard that holds these of the pictures."""
    files: dict[str, bytes] = {}
    for number in numbers:
        files[f"{number:06d}.png"] = PICTURES[NAMES[number]]
        files[f"{number:06d}.cls"] = str(LABELS[number]).encode()
    return files


def write_shards(path: Path) -> Path:
    """Two shards and the names of the classes."""
    write_tar(path / "shard-000000.tar", samples(0, 1, 2))
    write_tar(path / "shard-000001.tar", samples(3, 4))
    (path / "classes.txt").write_text("ant\nbee\n")
    return path


def write_saved(path: Path) -> Path:
    """A dataset as `save_to_disk` of the datasets library writes it."""
    hugging_face_dataset().save_to_disk(path)
    return path


def hugging_face_dataset(**columns: list[int | None]) -> datasets.Dataset:
    """The pictures as "img" and their classes as "label"; further columns are classes too."""
    classes = {"label": list(LABELS), **columns}
    class_label = datasets.ClassLabel(names=["ant", "bee"])
    features = datasets.Features({"img": datasets.Image(), **dict.fromkeys(classes, class_label)})
    images = [{"bytes": content, "path": None} for content in PICTURES.values()]
    return datasets.Dataset.from_dict({"img": images, **classes}, features=features)


def augmented(images: ImageSet, index: int, counter: int, *, seed: int = 0) -> Tensor:
    """The training sample number `counter`, made of an image."""
    return x0_of(images.augmented(index, sample_rng(seed, counter)))
