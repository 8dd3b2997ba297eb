"""Bad inputs and what a user reads of each: `python tests/bad_inputs.py > docs/errors.md` writes the table.

Over 300 lines because it is a list: how each input is made stands beside the message that it gets.
"""

import contextlib
import dataclasses
import io
import json
import logging
import os
import runpy
import shutil
import sys
import tarfile
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tiny
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from guided_diffusion.checkpoint import open_checkpoint, read_weights
from guided_diffusion.commands.prepare_data import PrepareConfig, prepare_data
from guided_diffusion.commands.train_classifier import train_classifier
from guided_diffusion.commands.train_diffusion import train_diffusion
from guided_diffusion.files import file_sha256
from guided_diffusion.openai import Converted, revert

RUN = ("--data.path=pictures", "--out=out", "--training.iterations=2")
BUDGET = RUN[2:]
DIFFUSION = (*tiny.DIFFUSION_OPTIONS, *RUN)
CLASSIFIER = (
    *(option for option in tiny.DIFFUSION_OPTIONS if not option.startswith(("--chain", "--preview"))),
    "--training.ema_decays=[]", *RUN,
)  # fmt: skip
REGRESSION = (
    "--data.path=data", "--data.labels=table.csv", "--target=regression", "--columns", "slant",
)  # fmt: skip
USUAL: dict[str, tuple[str, ...]] = {
    "train_diffusion": DIFFUSION,
    "train_classifier": CLASSIFIER,
    "train_upsampler": (*DIFFUSION, "--low_res_size=4"),
    "diagnose_classifier": ("--classifier=runs/classifier", "--data.path=pictures", "--data.num_workers=0"),
    "inspect_data": ("--data.path=pictures", "--data.num_workers=0"),
    "prepare_data": ("--data.path=pictures", "--data.num_workers=0", "--size=8", "--out=out"),
    "evaluate": (
        "--generated=pictures",
        "--real=pictures",
        "--extractor.name=classifier:runs/judge",
        "--out=report.json",
    ),
    "average_weights": ("runs/diffusion", "--widths=[0.1]", "--out=out"),
    "sample": ("--diffusion=runs/diffusion", "--out=out", "--num_samples=2", "--sampler.steps=2"),
    "sweep": (
        "--diffusion=runs/diffusion",
        "--classifier=runs/classifier",
        "--real=pictures",
        "--extractor.name=classifier:runs/judge",
        "--scales=[1,2]",
        "--steps=[2]",
        "--num_samples=4",
        "--out=out",
    ),
    "export_diffusers": ("--run=runs/diffusion", "--out=exported"),
    "import_diffusers": ("--folder=pipeline", "--out=out"),
    "make_reference": ("--images=pictures", "--extractor.name=classifier:runs/judge", "--out=reference.npz"),
    "import_openai": ("--file=published.pt", "--out=out"),
}
"""A good command line of each script, whose options those of a case replace."""


@dataclass(frozen=True, kw_only=True)
class BadInput:
    """One thing that a user may get wrong. Paths are relative to a directory of its own, which holds `write_material`'s
    files."""

    name: str
    """Description of the input, for the table."""
    script: str = "train_diffusion"
    options: tuple[str, ...] = ()
    """Beside those of `USUAL`."""
    make: Callable[[], object] | None = None
    """Files that it needs; None: none."""
    says: tuple[str, ...]
    """Parts of the message, in their order."""
    writes: bool = False
    """True if something may have been written by then; what can be seen before is refused before."""
    status: int = 2
    """Of the process; 0: a warning, after which the command goes on."""


@dataclass(frozen=True)
class Outcome:
    """Exit status of a command, and its message."""

    status: int
    message: str
    """Without "error: "."""
    changed: tuple[str, ...]
    """Files and directories that are new or different."""


def write_material(here: Path) -> None:
    """Twenty pictures of 8x8 grey pixels in two classes, and a run of each kind that was trained on them."""
    tiny.write_class_folder(here / "pictures")
    with contextlib.chdir(here), contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        pictures = Path("pictures")
        options: dict[str, Any] = {"iterations": 2, "save_every_iterations": 1}
        train_diffusion(tiny.diffusion_config(Path("runs/diffusion"), pictures, **options))
        train_classifier(
            tiny.classifier_config(Path("runs/classifier"), pictures, diffusion=Path("runs/diffusion"), **options)
        )
        train_classifier(tiny.classifier_config(Path("runs/judge"), pictures, **options))
        prepare_data(PrepareConfig(data=tiny.data(pictures), size=8, out=Path("prepared")))


def attempt(case: BadInput, material: Path, here: Path) -> Outcome:
    """Run a case's command for real, in this process, in the new directory `here` beside a copy of the material."""
    shutil.copytree(material, here)
    with contextlib.chdir(here):
        if case.make is not None:
            case.make()
        before = _files()
        status, printed = _run(case.script, (*USUAL[case.script], *case.options))
        after = _files()
    changed = tuple(sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path)))
    printed = printed.replace(f"{here.resolve()}/", "").replace(str(Path.home()), "~")
    return Outcome(status, printed, changed)


def _files() -> dict[str, tuple[int, int]]:
    """Size and time of the last change of everything below the working directory."""
    found = [Path(root) / name for root, folders, files in os.walk(".") for name in (*folders, *files)]
    return {str(path): (path.lstat().st_size, path.lstat().st_mtime_ns) for path in found}


def _run(script: str, options: tuple[str, ...]) -> tuple[int, str]:
    """Status and message of a script, which is executed as `python scripts/NAME.py` does."""
    errors, warnings = io.StringIO(), io.StringIO()
    handler, root = logging.StreamHandler(warnings), logging.getLogger()
    arguments, sys.argv = sys.argv, [f"scripts/{script}.py", *options]
    debug = os.environ.pop("GUIDED_DIFFUSION_DEBUG", None)
    root.addHandler(handler)
    try:
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
            runpy.run_path(str(tiny.REPOSITORY / "scripts" / f"{script}.py"), run_name="__main__")
        status = 0
    except SystemExit as end:
        status = int(end.code or 0)
    finally:
        sys.argv = arguments
        root.removeHandler(handler)
        if debug is not None:
            os.environ["GUIDED_DIFFUSION_DEBUG"] = debug
    _, _, stated = f"\n{errors.getvalue()}".rpartition("\nerror: ")
    return status, (stated if status else warnings.getvalue()).removesuffix("\n")


def _put(path: str, content: str | bytes = "") -> None:
    """A file, its folder with it."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(content.encode() if isinstance(content, str) else content)


def _picture(path: str, mode: str = "L", size: int = 8) -> None:
    """A picture of noise in a Pillow mode."""
    pixels = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).convert("L" if mode == "I;16" else mode).convert(mode).save(path)


def _cut(path: str, length: int) -> None:
    """Leave the first bytes of a file alone."""
    Path(path).write_bytes(Path(path).read_bytes()[:length])


def _truncated_jpegs() -> None:
    for name in ("a/0.jpg", "a/1.jpg"):
        _picture(f"data/{name}", "RGB", size=64)
        _cut(f"data/{name}", 900)


def _classes(*names: str, mode: str = "L") -> None:
    for name in names:
        _picture(f"data/{name}/0.png", mode)
        _picture(f"data/{name}/1.png", mode)


def _valued(*rows: str, header: str = "file,slant") -> None:
    """Pictures a/0.png and a/1.png in data/, and the rows of a table beside them."""
    _classes("a")
    _put("data/table.csv", "\n".join([header, *rows]))


def _zipped(*names: str) -> None:
    with zipfile.ZipFile("data.zip", "w") as archive:
        for name in names:
            archive.write("pictures/dark/000.png", name)


def _encrypted_zip() -> None:
    _zipped("a/0.png", "b/0.png")
    content = bytearray(Path("data.zip").read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # where a header holds the flag "encrypted"
        start = -1
        while (start := content.find(signature, start + 1)) >= 0:
            content[start + offset] |= 1
    _put("data.zip", bytes(content))


def _tarred(*names: str, mode: Literal["w", "w:gz"] = "w") -> None:
    with tarfile.open("data.tar", mode) as archive:
        for name in names:
            archive.add("pictures/dark/000.png", name)


def _cut_tar() -> None:
    _put("0.cls", "0")
    with tarfile.open("data.tar", "w") as archive:
        archive.add("pictures/dark/000.png", "0.png")
        archive.add("0.cls")
    _cut("data.tar", 1600)


def _table(*rows: str) -> Callable[[], None]:
    """Labels of the pictures: the rows given."""
    return lambda: _put("pictures/labels.csv", "\n".join(rows) + "\n")


def _all_rows() -> list[str]:
    return [f"{name}/{i:03d}.png,{name}" for name in ("dark", "light") for i in range(10)]


def _npz(name: str = "data.npz", **arrays: Any) -> Callable[[], None]:
    """A file of numpy's; values are arrays or what makes one."""
    return lambda: np.savez(name, **arrays)


def _images(values: Sequence[float], dtype: str, *, shape: tuple[int, ...] = (20, 8, 8, 1)) -> np.ndarray:
    """A batch of images of these values alone."""
    return np.resize(np.array(values, dtype), shape)


def _deep(kind: type, suffix: str) -> None:
    """Noise of 12 bits in pixels that could hold more."""
    levels = np.random.default_rng(0).integers(0, 4096, (8, 8)).astype(kind)
    levels[0, :2] = 0, 4095
    for number in range(4):
        Path("data/a").mkdir(parents=True, exist_ok=True)
        Image.fromarray(levels).save(f"data/a/{number}.{suffix}")


def _bomb() -> None:
    with zipfile.ZipFile("data.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write("pictures/dark/000.png", "a/0.png")
        archive.writestr("a/1.png", Path("pictures/dark/001.png").read_bytes()[:-12] + bytes(48 << 20))


def _deep_label() -> None:
    _put("0.json", "[" * 100_000 + "]" * 100_000)
    with tarfile.open("data.tar", "w") as archive:
        archive.add("pictures/dark/000.png", "0.png")
        archive.add("0.json")
    Path("0.json").unlink()


def _huge_claim() -> None:
    """An npz whose header tells of 8 TB."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"shape": (10**6, 10**6), "fortran_order": False, "descr": "<f8"})
    with zipfile.ZipFile("data.npz", "w") as archive:
        for name in ("mu", "sigma"):
            archive.writestr(f"{name}.npy", header.getvalue() + bytes(800))


def _cut_npz() -> None:
    _npz(arr_0=_images([0, 255], "uint8"))()
    _cut("data.npz", 900)


def _changed_byte(path: str) -> None:
    content = Path(path).read_bytes()
    _put(path, content[:-1] + bytes([content[-1] ^ 1]))


def _changed_json(path: str, **changes: object) -> None:
    _put(path, json.dumps(json.loads(Path(path).read_text()) | changes))


def _changed_record(run: str, **changes: object) -> Callable[[], None]:
    """Another config.json in a run's newest checkpoint."""

    def change() -> None:
        file = Path(run) / "checkpoint-0000002/config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return change


def _damaged(*checkpoints: int) -> Callable[[], None]:
    def damage() -> None:
        for iteration in checkpoints:
            _cut(f"runs/diffusion/checkpoint-{iteration:07d}/network.safetensors", 100)

    return damage


def _changed_model(*path: str, to: object) -> Callable[[], None]:
    """Another value in the description of the diffusion model."""

    def change() -> None:
        model = json.loads(Path("runs/diffusion/checkpoint-0000002/config.json").read_text())["model"]
        inner = model
        for name in path[:-1]:
            inner = inner[name]
        inner[path[-1]] = to
        _changed_record("runs/diffusion", model=model)()

    return change


def _flipped(file: str) -> Callable[[], None]:
    """Weights with one bit flipped, in the middle of a tensor."""

    def flip() -> None:
        path = next(Path("runs").glob(file))
        content = bytearray(path.read_bytes())
        content[-100] ^= 1
        path.write_bytes(content)

    return flip


def _not_finite(run: str) -> Callable[[], None]:
    """Weights of which one is NaN, as a diverged training leaves them, with the hash of their file."""

    def change() -> None:
        checkpoint = Path(run) / "checkpoint-0000002"
        hashes = json.loads((checkpoint / "config.json").read_text())["sha256"]
        for file in checkpoint.glob("*.safetensors"):
            tensors = load_file(file)
            next(iter(tensors.values())).flatten()[0] = float("nan")
            save_file(tensors, file)
            hashes[file.name] = file_sha256(file)
        _changed_record(run, sha256=hashes)()

    return change


def _vanishing_data() -> None:
    """The pictures go as soon as the training has written something."""

    def remove() -> None:
        until = time.monotonic() + 60
        while not Path(here / "out/metrics.jsonl").exists() and time.monotonic() < until:
            time.sleep(0.01)
        (here / "pictures").rename(here / "elsewhere")

    here = Path.cwd()
    threading.Thread(target=remove, daemon=True).start()


def _remove(path: str) -> Callable[[], None]:
    return lambda: shutil.rmtree(path)


def _published(name: str = "published.pt", form: Callable[[dict[str, Any]], object] = dict) -> Callable[[], object]:
    """Write the weights of runs/diffusion, for 8x8 grey pixels, in the published layout, `form` of them."""

    def write() -> None:
        checkpoint = open_checkpoint(Path("runs/diffusion"), "diffusion")
        weights = revert(Converted("unet", checkpoint.model, read_weights(checkpoint))).weights
        torch.save(form({**weights}), name)

    return write


def _of_two_channels(weights: dict[str, Any]) -> dict[str, Any]:
    """A U-Net of grey pixels as a grey upsampler."""
    first = weights["input_blocks.0.0.weight"]
    return {**weights, "input_blocks.0.0.weight": torch.cat([first, first], dim=1)}


PUBLISHED_FLAGS = ("--flags=--image_size 8",)
DATA = ("--data.path=data",)
VQ_MODEL = {"vqvae": ["diffusers", "VQModel"]}


def _pipeline(*, index: dict[str, Any] | None = None, weights: bool = False, **unet: Any) -> None:
    """The records of a pipeline of one level in `pipeline`, with a scheduler of consistency models."""
    parts = {"unet": ["diffusers", "UNet2DModel"], "scheduler": ["diffusers", "CMStochasticIterativeScheduler"]}
    network = {"block_out_channels": [32], "sample_size": 8, "down_block_types": ["DownBlock2D"],
               "up_block_types": ["UpBlock2D"]}  # fmt: skip
    _put("pipeline/model_index.json", json.dumps(parts | (index or {})))
    _put("pipeline/unet/config.json", json.dumps(network | unet))
    _put("pipeline/scheduler/scheduler_config.json", json.dumps({"_class_name": parts["scheduler"][1]}))
    if weights:
        save_file({"conv_in.bias": torch.zeros(32)}, "pipeline/unet/diffusion_pytorch_model.safetensors")


RESUMED = ("--out=runs/diffusion", "--resume=auto", "--training.iterations=4")


DATA_CASES = (
    BadInput(name="No such folder", options=DATA, says=("there is nothing at data; expected a folder of images",)),
    BadInput(name="A text file where a folder is expected", make=lambda: _put("data"), options=DATA,
             says=("data is a file of no known format; expected a folder of images",)),
    BadInput(name="A folder without class folders", make=lambda: _put("data/readme.txt"), options=DATA,
             says=("no images in data: it holds no class folders", "readme.txt", "expected data/<class>/*.jpg")),
    BadInput(name="An empty class folder", make=lambda: (_classes("a"), Path("data/b").mkdir()), options=DATA,
             says=("the class folder 'b' in data holds no images", "fill it or remove it")),
    BadInput(name="Images without class folders", make=lambda: _picture("data/0.png"), options=DATA,
             says=("no class folders; put them into one folder per class, or all into one",)),
    BadInput(name="The parent of train/ and val/", options=DATA,
             make=lambda: [_picture(f"data/{split}/a/0.png") for split in ("train", "val")],
             says=("the folders in data (train, val) are splits of a data set, not classes", "data/train")),
    BadInput(name="Classes of several words, by file names", options=(*DATA, "--data.labels=filenames"), status=0,
             make=lambda: [_picture(f"data/golden_{kind}_{i}.png") for kind in ("eagle", "retriever") for i in (1, 2)],
             says=('"golden" holds golden_eagle (2), golden_retriever (2)', "give a table of labels"), writes=True),
    BadInput(name="File names without classes", options=(*DATA, "--data.labels=filenames"), status=0, writes=True,
             make=lambda: [_picture(f"data/{i}.png") for i in range(4)],
             says=("data has 4 classes for 4 images, nearly one each", "check --data.labels")),
    BadInput(name="Class numbers that begin at 1", options=("--data.labels=labels.csv",), status=0, writes=True,
             make=_table("file,label", *(row.replace(",dark", ",1").replace(",light", ",2") for row in _all_rows())),
             says=('1 of the 3 classes of pictures have no images ("0")', "subtract 1 from each label")),
    BadInput(name="Images beside the class folders", make=lambda: (_classes("a"), _picture("data/0.png")), options=DATA,
             says=("data holds images beside its class folders ('0.png'", "move them")),
    BadInput(name="Images of an unknown format alone", make=lambda: _put("data/a/0.xcf"), options=DATA,
             says=("the class folder 'a' in data holds no images", "but 1 .xcf files, the first a/0.xcf")),
    BadInput(name="A text file named .jpg", make=lambda: (_classes("a"), _put("data/a/2.jpg", "text")), options=DATA,
             says=("data/a/2.jpg is not a readable image (its content is of no known image format)",
                   "repair or remove the file, or pass --data.on_error skip")),
    BadInput(name="PostScript named .png", options=DATA,
             make=lambda: (_classes("a"), Image.new("RGB", (8, 8)).save("data/a/2.png", format="EPS")),
             says=("data/a/2.png is not a readable image (its content is of the format EPS, which is not read)",)),
    BadInput(name="An empty file named .png", make=lambda: (_classes("a"), _put("data/a/2.png")), options=DATA,
             says=("data/a/2.png is not a readable image", "--data.on_error skip")),
    BadInput(name="A JPEG cut short", make=_truncated_jpegs, options=DATA,
             says=("is not a readable image (", "truncated", "--data.on_error skip")),
    BadInput(name="No readable image in a class", make=lambda: (_classes("a"), _put("data/b/0.jpg", "text")),
             options=(*DATA, "--data.on_error=skip"), says=("every image of the class 'b' is broken", "repair")),
    BadInput(name="Grey and colour images mixed", make=lambda: (_classes("a"), _classes("b", mode="RGB")), options=DATA,
             says=("images of several modes in data: 2 L, 2 RGB", "--data.mode RGB converts all to colour")),
    BadInput(name="16-bit images", make=lambda: _classes("a", mode="I;16"), options=DATA,
             says=("the images in data are of mode I;16", "--data.mode L converts them")),
    BadInput(name="16-bit images that use 12 bits", make=lambda: _deep(np.uint16, "png"), status=0, writes=True,
             options=(*DATA, "--data.mode=L"),
             says=("nearly all values of data lie in 0..15 of 0..255", "--data.window 0 4095 stretches them")),
    BadInput(name="Float images without a window", make=lambda: _deep(np.float32, "tif"),
             options=(*DATA, "--data.mode=L"),
             says=("data/a/0.tif has values from 0 to 4095, of no known range", "--data.window BLACK WHITE")),
    BadInput(name="A window for images of 8 bits", options=("--data.window", "0", "4095"),
             says=("no image of pictures has grey of more than 8 bits; leave out --data.window",)),
    BadInput(name="A window upside down", options=("--data.window", "4095", "0"),
             says=("--data.window is the value of black, then a larger one of white; got 4095",)),
    BadInput(name="An image of 196 megapixels", options=DATA,
             make=lambda: (_classes("a"), Image.new("1", (14_000, 14_000)).save("data/a/2.png")),
             says=("data/a/2.png is too large to be read (Image size (196000000 pixels) exceeds limit of 178956970",
                   "make it smaller, or pass --data.on_error skip")),
    BadInput(name="A named pipe among the images", make=lambda: (_classes("a"), os.mkfifo("data/a/2.png")),
             options=DATA, says=("this is no regular file, but a pipe, a device or a directory: data/a/2.png",)),
    BadInput(name="A zip member far larger than its pixels", options=("--data.path=data.zip",), make=_bomb,
             writes=True, says=("data.zip/a/1.png is not a readable image (its header tells of 8x8 pixels, but more",)),
    BadInput(name="A label in JSON nested 100,000 deep", options=("--data.path=data.tar",), make=_deep_label,
             says=("the image 0.png of data.tar has no label: expected 0.cls, a class number, or 0.json",)),
    BadInput(name="CMYK images", make=lambda: [_picture(f"data/a/{i}.jpg", "CMYK") for i in range(2)], options=DATA,
             says=("the images in data are of mode CMYK", "--data.mode RGB converts them")),
    BadInput(name="Images with transparency", make=lambda: _classes("a", mode="RGBA"), options=DATA,
             says=("the images in data are of mode RGBA", "--data.mode RGB converts them")),
    BadInput(name="Two classes that are one folder by a link", make=lambda: Path("pictures/new").symlink_to("dark"),
             says=("the classes 'dark' and 'new' of pictures are one folder, by a link; remove one",)),
    BadInput(name="A run among its training images", options=("--out=pictures/dark/run",),
             says=("pictures/dark/run would lie among the images of pictures and change them; give --out another",)),
    BadInput(name="A page of thumbnails among the images", script="inspect_data", options=("--out=pictures/a.png",),
             says=("pictures/a.png would lie among the images of pictures and change them",)),
    BadInput(name="Prepared images among the images", script="prepare_data", options=("--out=pictures/prepared",),
             says=("pictures/prepared would lie among the images of pictures and change them",)),
    BadInput(name="A link to a file that is gone", options=DATA,
             make=lambda: (_classes("a"), Path("data/a/2.png").symlink_to("gone.png")),
             says=("No such file behind the link data/a/2.png", "--data.on_error skip")),
    BadInput(name="A link to itself", make=lambda: (_classes("a"), Path("data/a/2.png").symlink_to("2.png")),
             options=DATA, says=("Too many levels of symbolic links: data/a/2.png",)),
    BadInput(name="A misspelt word for the labels", options=("--data.labels=filename",),
             says=("there is no filename, neither in pictures nor from here; data.labels is folders, filenames or",)),
    BadInput(name="A table of labels that names files which are not there", options=("--data.labels=labels.csv",),
             make=_table("file,label", "gone.png,dark"),
             says=("pictures/labels.csv labels 1 files that are no images of pictures, the first gone.png",)),
    BadInput(name="A table of labels that leaves images out", options=("--data.labels=labels.csv",),
             make=_table("file,label", "dark/000.png,dark"),
             says=("pictures/labels.csv has no label for 19 of the 20 images", "add their labels or remove")),
    BadInput(name="A table of labels that names a file twice", options=("--data.labels=labels.csv",),
             make=_table("file,label", *_all_rows(), "dark/000.png,light"),
             says=("pictures/labels.csv has 1 files more than once, the first dark/000.png; give each one label",)),
    BadInput(name="A table of labels with other columns", options=("--data.labels=labels.csv",),
             make=_table("image,class", *_all_rows()),
             says=("the first line of pictures/labels.csv is 'image,class'; expected file,label",)),
    BadInput(name="Labels in a file of another kind", options=("--data.labels=labels.txt",),
             make=lambda: _put("pictures/labels.txt", "dark"),
             says=("pictures/labels.txt is no table of labels; expected CSV with the columns file,label",)),
    BadInput(name="A damaged zip", make=lambda: (_zipped("a/0.png"), _cut("data.zip", 60)),
             options=("--data.path=data.zip",), says=("data.zip is not a whole zip", "fetch or pack it again")),
    BadInput(name="An encrypted zip", make=_encrypted_zip, options=("--data.path=data.zip",),
             says=("2 members of data.zip are encrypted, the first a/0.png; pack it without a password",)),
    BadInput(name="A folder that is not in the zip", make=lambda: _zipped("a/0.png"),
             options=("--data.path=data.zip/train",), says=("data.zip holds nothing below train",)),
    BadInput(name="A tar cut short", make=_cut_tar, options=("--data.path=data.tar",),
             says=("data.tar is not a whole, uncompressed tar", "fetch or pack it again")),
    BadInput(name="A compressed tar", make=lambda: _tarred("a/0.png", mode="w:gz"), options=("--data.path=data.tar",),
             says=("data.tar is not a whole, uncompressed tar", "without compression")),
    BadInput(name="A tar of class folders", make=lambda: _tarred("a/0.png", "b/0.png"),
             options=("--data.path=data.tar",), says=("a/0.png of data.tar has no label", "unpack it")),
    BadInput(name="Held-out images of a class that training has not", script="train_classifier",
             make=lambda: _classes("dark", "grey"), options=("--heldout=data",),
             says=("data holds 1 classes, 'grey' for one, that are not among the 2 asked for (dark, light)",)),
    BadInput(name="A target without its table", script="train_classifier", options=REGRESSION[2:],
             says=("--target regression learns columns of a table: give --data.labels TABLE.csv, not folders",)),
    BadInput(name="A target without columns", script="train_classifier", options=REGRESSION[:3],
             says=("--target regression learns one column of table.csv; give --columns NAME",)),
    BadInput(name="Columns without a target", script="train_classifier", options=REGRESSION[3:],
             says=("--columns slant need a target: give --target regression or attributes",)),
    BadInput(name="Balanced classes of a regression", script="train_classifier",
             options=(*REGRESSION, "--data.balance=true"),
             says=("data.balance is of classes, which --target regression has none of; leave it out",)),
    BadInput(name="A column that the table lacks", script="train_classifier", options=REGRESSION,
             make=lambda: _valued("a/0.png,1", header="file,tilt"),
             says=("data/table.csv has no column \"slant\": its first line is 'file,tilt'",)),
    BadInput(name="A table without some image", script="train_classifier", options=REGRESSION,
             make=lambda: _valued("a/0.png,1", "b/1.png,2"),
             says=("data/table.csv has no row for 1 of the 2 images of data, the first a/1.png; files are named",)),
    BadInput(name="A value that is no number", script="train_classifier", options=REGRESSION,
             make=lambda: _valued("a/0.png,1", "a/1.png,inf"),
             says=('line 3 of data/table.csv: "slant" of a/1.png is "inf", where a finite number was expected',)),
    BadInput(name="A column of one value", script="train_classifier", options=REGRESSION,
             make=lambda: _valued("a/0.png,0.5", "a/1.png,0.5"),
             says=('the column "slant" of the table is 0.5 for every image; there is nothing to learn',)),
    BadInput(name="Attributes that are not 0 and 1", script="train_classifier",
             options=(*REGRESSION, "--target=attributes"), make=lambda: _valued("a/0.png,-1", "a/1.png,1"),
             says=("attributes are 0 for no and 1 for yes", '"slant" of the table holds -1, 1')),
    BadInput(name="A negative number of worker processes", options=("--data.num_workers=-1",),
             says=("data.num_workers is a number of processes, 0 or more, not -1",)),
    BadInput(name="Data that vanish during the training", make=_vanishing_data, writes=True,
             options=("--training.iterations=1000000", "--training.log_every_iterations=1"),
             says=("the data, pictures, are gone (moved, removed or unmounted?)",)),
)  # fmt: skip
OPTION_CASES = (
    BadInput(name="A misspelt option", options=("--training.learning_rte=1e-4",),
             says=("there is no option training.learning_rte; did you mean training.learning_rate?",)),
    BadInput(name="An option without its group", options=("--learning_rate=1e-4",),
             says=("there is no option learning_rate; did you mean training.learning_rate?",)),
    BadInput(name="A misspelt key of a YAML file", make=lambda: _put("mine.yaml", "network:\n  image_sze: 8\n"),
             options=("--config=mine.yaml",),
             says=("there is no option network.image_sze; did you mean network.image_size?",)),
    BadInput(name="A YAML file that is not YAML", make=lambda: _put("mine.yaml", "network: [8\n"),
             options=("--config=mine.yaml",), says=("mine.yaml is no YAML file of options, such as", "line 2")),
    BadInput(name="A picture as YAML file", options=("--config=pictures/dark/000.png",),
             says=("pictures/dark/000.png is no YAML file of options",)),
    BadInput(name="A named pipe as YAML file", make=lambda: os.mkfifo("mine.yaml"), options=("--config=mine.yaml",),
             says=("mine.yaml is no YAML file of options but a named pipe",)),
    BadInput(name="A YAML file that gives an option twice", options=("--config=mine.yaml",),
             make=lambda: _put("mine.yaml", "training:\n  seed: 1\n  learning_rate: 0.1\n  seed: 2\n"),
             says=("mine.yaml gives seed twice, in the mapping from line 2 on; leave one out",)),
    BadInput(name="A YAML file whose alias names the mapping that holds it", options=("--config=mine.yaml",),
             make=lambda: _put("mine.yaml", "training: &all\n  batch: *all"),
             says=("mine.yaml has an alias of the mapping from line 1 on in that mapping; write its values",)),
    BadInput(name="No such YAML file", options=("--config=mine.yaml",),
             says=("--config: File does not exist: 'mine.yaml'",)),
    BadInput(name="A value of the wrong type", options=("--training.learning_rate=fast",),
             says=("training.learning_rate takes a number; got fast",)),
    BadInput(name="A word that is no choice", options=("--loss=l2",),
             says=("loss takes simple, hybrid or vlb; got l2",)),
    BadInput(name="A list without its brackets", options=("--network.attention_sizes=8,4",),
             says=("network.attention_sizes takes whole numbers as a list, such as '[8,4]'; got 8,4",)),
    BadInput(name="An option without its value", options=("--training.iterations",),
             says=("training.iterations takes a whole number or null; got nothing",)),
    BadInput(name="An image size that cannot be halved as often",
             options=("--network.image_size=9", "--network.channel_mult=[1,2]"),
             says=("image_size 9 cannot be halved 1 times; ",)),
    BadInput(name="Attention at a size that the network has not", options=("--network.attention_sizes=[5]",),
             says=("attention_sizes [5] are no feature-map sides of this network; it has (8,)",)),
    BadInput(name="Channels that do not fit group normalisation", options=("--network.base_channels=48",),
             says=("level 0 has 48 channels", "needs a multiple of 32")),
    BadInput(name="Both kinds of attention heads", options=("--network.heads=2",),
             says=("give exactly one of head_channels and heads, and null for the other",)),
    BadInput(name="Channels that do not split into the heads", options=("--network.head_channels=24",),
             says=("32 channels cannot be split into heads of 24 channels; change head_channels or heads",)),
    BadInput(name="No attention heads", options=("--network.head_channels=null", "--network.heads=0"),
             says=("heads 0: the one given is at least 1",)),
    BadInput(name="A dropout of 1", options=("--network.dropout=1",),
             says=("network.dropout is a probability below 1, got 1.0",)),
    BadInput(name="No budget", options=("--training.iterations=null",),
             says=("needs a budget: give exactly one of --training.iterations and --training.images",)),
    BadInput(name="Two budgets", options=("--training.images=100",),
             says=("needs a budget: give exactly one of --training.iterations and --training.images",)),
    BadInput(name="A negative learning rate", options=("--training.learning_rate=-1e-4",),
             says=("training.learning_rate must be above 0", "-0.0001")),
    BadInput(name="A decay above 1", options=("--training.ema_decays=[9999]",),
             says=("training.ema_decays lie between 0 and 1, such as 0.9999; got 9999",)),
    BadInput(name="An average wider than the mean of all weights", options=("--training.ema_widths=[0.5]",),
             says=("training.ema_widths are shares of the training between 0 and 0.2887", "such as 0.1; got 0.5")),
    BadInput(name="Snapshots without power-function averages", options=("--training.snapshot_every_iterations=1",),
             says=("snapshot_every_iterations keeps power-function averages, and there are none; add",)),
    BadInput(name="A seed of more than 64 bits", options=("--training.seed=99999999999999999999",),
             says=("training.seed is a whole number of 64 bits, got 99999999999999999999",)),
    BadInput(name="Balanced classes where there is one", options=(*DATA, "--data.balance=true"),
             make=lambda: _classes("a"),
             says=("--data.balance draws classes equally often, and the images of data are of one class",)),
    BadInput(name="Balanced classes in prepared data", script="prepare_data", options=("--data.balance=true",),
             says=("prepared data hold every image once: leave out data.balance, and give it to the training",)),
    BadInput(name="An empty batch", options=("--training.batch.size=0",),
             says=("training.batch.size must be at least 1, got 0",)),
    BadInput(name="A batch of a trillion images", options=("--training.batch.size=1000000000000",),
             says=("--training.batch.size 1000000000000 does not fit into memory: the pixels of the 1,000,000,000,000",
                   "of an update take 2.56e+14 bytes in each process", "lower it")),
    BadInput(name="A feature map to recompute that the network has not", options=("--training.recompute_sizes=[3]",),
             says=("recompute_sizes [3] are no feature-map sides of this network; it has [8]",)),
    BadInput(name="float16 without a GPU", options=("--training.precision=float16",),
             says=("training.precision float16 needs a GPU; take float32 here",)),
    BadInput(name="Sharding over one process", options=("--training.shard=true",),
             says=("training.shard spreads a network over processes, but there is one; start several",)),
    BadInput(name="Labels to drop, but none told", options=("--label_dropout=0.1",),
             says=("label_dropout 0.1 drops labels that the network is never told; add --class_conditional true",)),
    BadInput(name="A weight of L_simple for L_vlb", options=("--loss=vlb", "--min_snr_gamma=5"),
             says=("min_snr_gamma weighs L_simple", "there is nothing for it to weigh: leave it out")),
    BadInput(name="A learned variance with L_simple", options=("--loss=simple",),
             says=('variance "learned_range" cannot be trained with loss "simple"; take loss "hybrid" or "vlb"',)),
    BadInput(name="Too few noise levels", options=("--chain.num_steps=0",),
             says=("chain.num_steps is 0; a chain needs at least 2 noise levels",)),
    BadInput(name="An upsampler that would not enlarge", script="train_upsampler", options=("--low_res_size=8",),
             says=("low_res_size is 8; an upsampler to 8 pixels starts from fewer: give a side between 1 and 7",)),
    BadInput(name="Stopping early without held-out images", script="train_classifier",
             options=("--training.stop_after_worse=3",),
             says=("training.stop_after_worse stops when held-out images grow less likely", "give --heldout PATH")),
    BadInput(name="Stopping early where nothing is held out", options=("--training.stop_after_worse=3",),
             says=("training.stop_after_worse needs a held-out measurement, and this training makes none; leave it",)),
    BadInput(name="No held-out images to measure", script="train_classifier",
             options=("--heldout=pictures", "--heldout_images=0"), says=("heldout_images must be at least 1, got 0",)),
    BadInput(name="A preview's guidance without a classifier", options=("--preview.scale=4",),
             says=("preview.scale 4 needs a classifier; add --preview.classifier RUN",)),
    BadInput(name="A learning rate far too high", writes=True,
             options=("--training.learning_rate=1e30", "--training.max_skipped=2", "--training.iterations=9"),
             says=("loss or gradient were not finite in 2 updates in a row", "images are in out/not_finite-",
                   "a lower learning rate")),
    BadInput(name="The mean trained by its squared error alone",
             options=("--prediction=mean", "--loss=simple", "--variance=small"),
             says=('prediction "mean" cannot be trained with loss "simple"', "take --loss vlb", "or --prediction eps")),
    BadInput(name="A classifier of one class", script="train_classifier", options=DATA, make=lambda: _classes("a"),
             says=("all images of data are of one class, 'a'", "give images of two or more classes")),
    BadInput(name="Held-out images that training sees", script="train_classifier", options=("--heldout=pictures",),
             status=0, writes=True, says=("held-out images of pictures are among the training images of pictures",)),
    BadInput(name="Thumbnails in a format other than PNG", script="inspect_data", options=("--out=page.jpg",),
             says=("give --out a name that ends in .png, not page.jpg",)),
    BadInput(name="Random crops to prepare", script="prepare_data", options=("--data.crop=random",),
             says=("prepared images are centre crops, not mirrored: leave out data.crop and data.flip",)),
    BadInput(name="Images to prepare of size 0", script="prepare_data", options=("--size=0",),
             says=("size must be at least 1, got 0",)),
)  # fmt: skip
RUN_CASES = (
    BadInput(name="A run that is there already", options=("--out=runs/diffusion",),
             says=("runs/diffusion/checkpoint-0000002 is there already: continue that run with --resume auto",)),
    BadInput(name="Resuming with another network", options=(*RESUMED, "--network.base_channels=64"),
             says=("cannot resume runs/diffusion/checkpoint-0000002", "network.base_channels: 32 there, 64 now")),
    BadInput(name="Resuming with other settings", options=(*RESUMED, "--training.learning_rate=0.01"),
             status=0, writes=True,
             says=("resuming runs/diffusion/checkpoint-0000002 with other settings:", "learning_rate: 0.001 there")),
    BadInput(name="Resuming a run that began from nothing with a source", status=0, writes=True,
             options=(*RESUMED, "--from=runs/gone"),
             says=("resuming runs/diffusion/checkpoint-0000002 with other settings: from: null there, \"runs/gone\"",)),
    BadInput(name="A source that is not there", options=("--from=runs/gone",),
             says=("no checkpoint at runs/gone (no such directory); give a run directory",)),
    BadInput(name="A source of another kind", options=("--from=runs/classifier",),
             says=('holds a model of kind "classifier", but kind "diffusion" is needed here',)),
    BadInput(name="A source file of two networks", options=("--from=two.pt",),
             make=lambda: torch.save({name: {"input_blocks.0.0.weight": torch.zeros(3)} for name in "ab"}, "two.pt"),
             says=("two.pt holds several networks", "--entry",
                   "; import it first, by scripts/import_openai.py two.pt --out RUN --flags")),
    BadInput(name="A file of a checkpoint as the source",
             options=("--from=runs/diffusion/checkpoint-0000002/network.safetensors",),
             says=("is a file of a checkpoint; give the checkpoint, --from runs/diffusion/checkpoint-0000002",)),
    BadInput(name="A source without its name", options=("--from",), says=("from takes a path or null; got nothing",)),
    BadInput(name="A source of another network", options=("--from=runs/diffusion", "--network.base_channels=64"),
             says=("network.base_channels is 32 in the weights that --from begins with, and 64 was asked for, but that",
                   "leave --network.base_channels out")),
    BadInput(name="A source that predicts something else", options=("--from=runs/diffusion", "--prediction=v"),
             says=("prediction is eps in the weights that --from begins with, and v was asked for",)),
    BadInput(name="A part to train that the network has not",
             options=("--from=runs/diffusion", "--training.train_only=[sky]"),
             says=("training.train_only sky is no part of this network; it begins with encoder, levels, norm_out,",
                   "*.attention")),
    BadInput(name="No iterations from nothing", options=("--training.iterations=0",),
             says=("the budget must be at least 1, got 0; only with --from do 0 iterations make a checkpoint",)),
    BadInput(name="A negative warm-up", options=("--training.warmup_iterations=-1",),
             says=("training.warmup_iterations must be at least 0, got -1",)),
    BadInput(name="Resuming with an average that was not kept", options=(*RESUMED, "--training.ema_decays=[0.5]"),
             says=("it holds no average of decay 0.5; give --training.ema_decays '[0.9]', those it has",)),
    BadInput(name="Resuming with a power-function average that was not kept",
             options=(*RESUMED, "--training.ema_widths=[0.1]"),
             says=("holds no average ema_power_0.1; give --training.ema_decays '[0.9]' --training.ema_widths '[]'",)),
    BadInput(name="Averages of a run that kept none", script="average_weights",
             says=("runs/diffusion/checkpoint-0000002 holds no power-function average; train with",)),
    BadInput(name="Resuming after the optimiser was deleted", options=RESUMED,
             make=_remove("runs/diffusion/checkpoint-0000002/resume"),
             says=("resume is gone: runs/diffusion/checkpoint-0000002 can be sampled from",
                   "begin again in another --out")),
    BadInput(name="Resuming as another kind of run", options=("--out=runs/classifier", "--resume=auto"),
             says=('holds a model of kind "classifier", but kind "diffusion" is needed here',)),
    BadInput(name="A damaged checkpoint, with one before it", options=RESUMED, make=_damaged(2), status=0, writes=True,
             says=("checkpoint-0000002/network.safetensors is damaged",
                   "damaged-checkpoint-0000002, and the checkpoint before it is tried")),
    BadInput(name="A description that is empty, with a checkpoint before it", options=RESUMED,
             make=_changed_record("runs/diffusion", model={}), status=0, writes=True,
             says=("config.json does not hold a DiffusionConfig: it has no network", "it is now",
                   "damaged-checkpoint-0000002, and the checkpoint before it is tried")),
    BadInput(name="No sound checkpoint", options=RESUMED, make=_damaged(1, 2),
             says=("none of the 2 checkpoints in runs/diffusion is sound; begin again in another --out",)),
    BadInput(name="A checkpoint of a later version", script="train_classifier", options=("--diffusion=runs/diffusion",),
             make=_changed_record("runs/diffusion", format=99),
             says=("checkpoint-0000002 has format 99; this version reads up to 1: update it",)),
    BadInput(name="A checkpoint's description cut short", script="train_classifier",
             make=lambda: _cut("runs/diffusion/checkpoint-0000002/config.json", 40),
             options=("--diffusion=runs/diffusion",), says=("config.json is damaged",)),
    BadInput(name="A description of another type than its field", script="sample",
             make=_changed_model("chain", "schedule", to=["linear"]),
             says=("config.json does not hold a DiffusionConfig: chain.schedule takes linear, cosine or offset",)),
    BadInput(name="A description without one of its fields", script="sample", make=_changed_model("network", to={}),
             says=("config.json does not hold a DiffusionConfig: it has no network.image_size",)),
    BadInput(name="A chain of a trillion steps", script="sample", make=_changed_model("chain", "num_steps", to=10**12),
             says=("not hold a DiffusionConfig: chain.num_steps is 1000000000000", "at most 1,000,000 are computed")),
    BadInput(name="A network of a trillion channels", script="sample",
             make=_changed_model("network", "base_channels", to=32 * 10**12),
             says=("not hold a DiffusionConfig: base_channels 32000000000000 and blocks_per_level 1 make 1.84e+28",)),
    BadInput(name="A network larger than its weights", script="sample",
             make=_changed_model("network", "blocks_per_level", to=10**5),
             says=("config.json describes a network of 1.84e+09 parameters or more, but ", "ema_0.9.safetensors has")),
    BadInput(name="Images of a trillion pixels", script="sample",
             make=_changed_model("network", "image_size", to=10**12),
             says=("config.json does not hold a DiffusionConfig: image_size is 1000000000000, and the largest is",)),
    BadInput(name="Weights of a diffusion model with one bit flipped", script="sample",
             make=_flipped("diffusion/checkpoint-0000002/ema_0.9.safetensors"),
             says=("ema_0.9.safetensors is damaged: its SHA-256 is not the one that was recorded; fetch it again",)),
    BadInput(name="Weights that are not finite", script="sample", make=_not_finite("runs/diffusion"), writes=True,
             says=("2 of 2 samples (ids 0, 1) are not finite from step 1 on: the weights in runs/diffusion/",
                   "ema_0.9.safetensors are not finite; take an earlier checkpoint")),
    BadInput(name="A classifier's weights that are not finite", script="sample", make=_not_finite("runs/classifier"),
             options=("--classifier=runs/classifier",), writes=True,
             says=("samples (ids 0, 1) are not finite from step 1 on: the weights in runs/classifier/",
                   "network.safetensors are not finite; take an earlier checkpoint")),
    BadInput(name="A step size beyond all numbers", script="sample",
             options=("--sampler.name=langevin", "--sampler.snr=1e20"), writes=True,
             says=("not finite from step 1 on: the likeliest cause is sampler.snr 1e+20; take values nearer",)),
    BadInput(name="A scale of guidance beyond all use", script="sample",
             options=("--classifier=runs/classifier", "--guidance.scale=1e30"),
             says=("guidance.scale must be a number between -1e+06 and 1e+06, got 1e+30",)),
    BadInput(name="A scale of a class that is no number", script="sample",
             options=("--classifier=runs/classifier", "--guidance.class_scales={dark: .nan}"),
             says=("guidance.class_scales of dark must be a number between", "got nan")),
    BadInput(name="An option of another score of the classifier", script="sample",
             options=("--classifier=runs/classifier", "--guidance.score_options={weight: 1}"),
             says=("guidance.score plain has no option weight (guidance.score_options); it has none",)),
    BadInput(name="A classifier of the model's classes as a discriminator", script="sample",
             options=("--guidance.function=discriminator", "--guidance.function_options={run: runs/classifier}"),
             says=("is no discriminator: its classes are dark, light, not generated and real",)),
    BadInput(name="Particles of a sampler that draws no noise", script="sample",
             options=("--classifier=runs/classifier", "--guidance.particles=4", "--sampler.name=ddim"),
             says=("guidance.particles 4 weighs samples by the density of the noise", "ddim with eta 0.0 has none",
                   "take ddpm, dpmpp_2m_sde, or ddim with sampler.eta 1")),
    BadInput(name="Particles that nothing weighs", script="sample",
             options=("--guidance.particles=4", "--sampler.name=ddpm"),
             says=("guidance.particles 4 weighs samples by a classifier of noisy images", "add --classifier RUN")),
    BadInput(name="Particles with a score that is no power of the class", script="sample",
             options=("--classifier=runs/classifier", "--guidance.particles=4", "--sampler.name=ddpm",
                      "--guidance.score=entropy_scaled"),
             says=("samples p(x) p(y given x)^s, and guidance.score entropy_scaled leads elsewhere",)),
    BadInput(name="No particles", script="sample",
             options=("--classifier=runs/classifier", "--guidance.particles=0"),
             says=("particles must be at least 1", "0")),
    BadInput(name="An interval of guidance with its ends exchanged", script="sample",
             options=("--classifier=runs/classifier", "--guidance.sigma_min=5", "--guidance.sigma_max=2"),
             says=("guidance acts where guidance.sigma_min < sigma <= guidance.sigma_max; got 5 and 2",)),
    BadInput(name="A misspelt axis of a sweep", script="sweep",
             options=("--axes={guidance.sigmamax: [1, 2]}",),
             says=("axes: there is no option guidance.sigmamax; did you mean guidance.sigma_max?",)),
    BadInput(name="An axis of a sweep with a value of another type", script="sweep",
             options=("--axes={guidance.sigma_max: [1, high]}",),
             says=("axes: guidance.sigma_max takes a number; got high",)),
    BadInput(name="A combination of a sweep that cannot be", script="sweep",
             options=("--samplers=[ddim,ddpm]", "--axes={sampler.eta: [0, 0.5]}"),
             says=("setting ddpm-2-scale1-eta=0: sampler.eta 0", "was given to ddpm; it is for ddim", "leave it out")),
    BadInput(name="Weights that a sweep's model has not", script="sweep",
             options=("--axes={weights: [network, ema_0.5]}",),
             says=("has no weights \"ema_0.5\"; it has", "network")),
    BadInput(name="An interval of guidance without a noise level", script="sample",
             options=("--classifier=runs/classifier", "--guidance.sigma_max=1e-5"),
             says=("none of the sampler's noise levels, ", "so that nothing would be guided; widen the interval")),
    BadInput(name="A clean classifier of one's own that is not there", script="sample",
             options=("--guidance.clean_classifier.name=mine:network",),
             says=("--guidance.clean_classifier.name mine:network gives no classifier (ModuleNotFoundError: No module",
                   "MODULE must be installed or lie in this directory")),
    BadInput(name="A clean classifier of one's own with other classes", script="sample",
             options=("--guidance.clean_classifier.name=mine_of_three:network",),
             make=lambda: _put("mine_of_three.py", "def network():\n    return lambda x: x.flatten(1)[:, :3]\n"),
             says=("mine_of_three:network gives 3 logits, but there are 2 classes in the model; name the class of",)),
    BadInput(name="A guiding function of one's own that is not there", script="sample",
             options=("--guidance.function=guides:bright",),
             says=("--guidance.function guides:bright gives no function (ModuleNotFoundError: No module named",
                   "MODULE must be installed or lie in this directory, and NAME be a function of images")),
    BadInput(name="An option that a guiding function does not take", script="sample",
             make=lambda: _put("guide_to.py", "def bright(x_0, target=0.5): ...\n"),
             options=("--guidance.function=guide_to:bright", "--guidance.function_options={radius: 3}"),
             says=("guidance.function guide_to:bright has no option radius; it takes target: --guidance",)),
    BadInput(name="A guiding function of pixels", script="sample",
             make=lambda: _put("guide_of_pixels.py", "def bright(x_0):\n    return x_0\n"),
             options=("--guidance.function=guide_of_pixels:bright",),
             says=("guide_of_pixels:bright must give one value for each image, (4,), got (4, 1, 8, 8); sum over the",)),
    BadInput(name="A guiding function that is not finite", script="sample",
             make=lambda: _put("guide_nan.py", "def bright(x_0):\n    return x_0.mean((1, 2, 3)).log()\n"),
             options=("--guidance.function=guide_nan:bright",),
             says=("guide_nan:bright gives values that are not finite for images in [-1, 1]; keep roots and",)),
    BadInput(name="A guiding function that mixes its images", script="sample",
             make=lambda: _put("guide_mixed.py", "def bright(x_0):\n    return x_0.mean((1, 2, 3)) - x_0.mean()\n"),
             options=("--guidance.function=guide_mixed:bright",),
             says=("guide_mixed:bright mixes the images of a batch: the value of one depends on another",)),
    BadInput(name="Measurements of another size", script="sample",
             options=("--guidance.function=measurement", "--guidance.function_options={pool: 2, images: pictures}"),
             says=("pictures holds images of 8x8 pixels, but measurements of this operator have 4x4; give those",)),
    BadInput(name="Langevin dynamics of too few steps", script="sample", status=0, writes=True,
             options=("--sampler.name=langevin", "--sampler.steps=5", "--sampler.langevin_steps=2"),
             says=("5 levels of 2 steps of snr 0.224 leave ", "take sampler.langevin_steps ", " or more levels")),
    BadInput(name="Weights of an extractor with one bit flipped", script="evaluate",
             make=_flipped("judge/checkpoint-0000002/network.safetensors"),
             says=("network.safetensors is damaged: its SHA-256 is not the one that was recorded; fetch it again",)),
    BadInput(name="A classifier of noisy images as extractor", script="evaluate",
             options=("--extractor.name=classifier:runs/classifier",),
             says=("was trained on noisy images and would judge its own guidance", "--diffusion null, also where")),
    BadInput(name="No such run", script="train_classifier", options=("--diffusion=runs/mine",),
             says=("no checkpoint at runs/mine (no such directory); give a run directory or a checkpoint in one",
                   "a classifier of clean images needs none: --diffusion null")),
    BadInput(name="A classifier where a diffusion model is needed", script="train_classifier",
             options=("--diffusion=runs/classifier",),
             says=('holds a model of kind "classifier", but kind "diffusion" is needed here',)),
    BadInput(name="A classifier of other classes than a conditional diffusion model", script="train_classifier",
             make=lambda: [_classes("day", "night"), _changed_model("network", "num_classes", to=2)()],
             options=("--diffusion=runs/diffusion", *DATA),
             says=("could not guide runs/diffusion/checkpoint-0000002", '"day" to the classifier, but "dark" to',
                   "give the same classes, or for a classifier of clean images --diffusion null")),
    BadInput(name="A classifier of another image size than the diffusion model", script="train_classifier",
             options=("--diffusion=runs/diffusion", "--network.image_size=16"),
             says=("trained on L images of 8 pixels, but this classifier would see L images of 16 pixels",
                   "give --network.image_size 8")),
    BadInput(name="A classifier of colour images for a grey diffusion model", script="train_classifier",
             options=("--diffusion=runs/diffusion", "--data.mode=RGB"),
             says=("trained on L images of 8 pixels, but this classifier would see RGB images", "--data.mode L")),
    BadInput(name="Previews guided by a classifier of clean images",
             options=("--preview.images=2", "--preview.classifier=runs/judge"),
             says=("judge/checkpoint-0000002 was trained on clean images only and cannot guide", "--diffusion out")),
    BadInput(name="Previews guided by a classifier of another chain",
             options=("--preview.images=2", "--preview.classifier=runs/classifier", "--chain.num_steps=40"),
             says=("cannot guide out: chain.num_steps is 40 to the diffusion model, but 50 to the classifier, ",
                   "so they mean different noise by a timestep; train a classifier with --diffusion out")),
    BadInput(name="A checkpoint under the name of another iteration", script="sample",
             make=lambda: Path("runs/diffusion/checkpoint-0000002").rename("runs/diffusion/checkpoint-0000009"),
             says=("checkpoint-0000009 holds iteration 2, not 9 as its name says; remove it, or rename it to",)),
    BadInput(name="An output directory that is a file", make=lambda: _put("out", "mine"),
             says=("out is a file, where --out out needs a directory; choose another --out",)),
    BadInput(name="An output directory below a file", make=lambda: _put("mine"), options=("--out=mine/out",),
             says=("mine is a file, where --out mine/out needs a directory; choose another --out",)),
    BadInput(name="A diffusion model to diagnose", script="diagnose_classifier",
             options=("--classifier=runs/diffusion",),
             says=('holds a model of kind "diffusion", but kind "classifier" is needed here',)),
    BadInput(name="A regression to diagnose", script="diagnose_classifier",
             make=_changed_record("runs/classifier", kind="regression"),
             says=("was trained with --target regression and is no classifier; it guides as --guidance.function",)),
    BadInput(name="A classifier where a regression is needed", script="sample",
             options=("--guidance.function=regression", "--guidance.function_options={run: runs/judge, target: 1}"),
             says=('holds a model of kind "classifier", but kind "regression" is needed here',)),
    BadInput(name="A diagnosis on one class", script="diagnose_classifier", make=lambda: _classes("dark"), options=DATA,
             says=("data holds images of one class only", "give images of several classes")),
    BadInput(name="A diagnosis on colour images of a classifier of grey ones", script="diagnose_classifier",
             options=("--data.mode=RGB",),
             says=("pictures holds images of 3 channels, the classifier takes 1; --data.mode converts",)),
    BadInput(name="A diagnosis into a file other than JSON", script="diagnose_classifier", options=("--out=page.png",),
             says=("out is a JSON file", "got page.png, not *.json")),
    BadInput(name="Nothing to inspect", script="inspect_data", options=DATA, says=("there is nothing at data;",)),
    BadInput(name="Prepared images whose pixels changed", options=("--data.path=prepared",), writes=True,
             make=lambda: _changed_byte("prepared/images.npy"),
             says=("could not read an image: it differs from the image that was prepared; the same command of "
                   "prepare_data.py makes it anew: prepared/images.npy/",)),
    BadInput(name="A prepared data set whose record lacks its classes", options=("--data.path=prepared",),
             make=lambda: _changed_json("prepared/dataset.json", class_names=None),
             says=("prepared/dataset.json is damaged: class_names is null", "prepare_data.py makes it anew")),
    BadInput(name="Prepared labels that are not among the classes", options=("--data.path=prepared",),
             make=lambda: _changed_json("prepared/dataset.json", class_names=["dark"]),
             says=("prepared/labels.npy is damaged: it holds label 1 of 1 classes", "makes it anew")),
    BadInput(name="A manifest of a million million samples", script="evaluate", options=("--generated=samples",),
             make=lambda: _put("samples/manifest.json", '{"num_samples": 1000000000000, "shard_size": 1000}'),
             says=("samples lacks 1000000000 of its 1000000000 shards (0, 1,", "run the sampling command again")),
    BadInput(name="A manifest of half shards", script="evaluate", options=("--generated=samples",),
             make=lambda: _put("samples/manifest.json", '{"num_samples": 10, "shard_size": 2.5}'),
             says=("samples/manifest.json is damaged: shard_size is 2.5", "make the samples again")),
    BadInput(name="Prepared images beside other files", script="prepare_data", make=lambda: _put("out/mine.txt"),
             says=("out holds other files; give --out a directory that is new or empty",)),
    BadInput(name="Prepared images of another data set", script="prepare_data", make=lambda: _classes("a"),
             options=(*DATA, "--out=prepared"), says=("prepared is of other images: class_names:",
                   "give another --out")),
)  # fmt: skip
DIFFUSERS_CASES = (
    BadInput(name="A diffusers folder that is there already", script="export_diffusers", options=("--out=pictures",),
             says=("pictures is there already; remove it or give another --out",)),
    BadInput(name="A classifier to export as a diffusers pipeline", script="export_diffusers",
             options=("--run=runs/classifier",), says=('kind "classifier", but kind "diffusion" is needed here',)),
    BadInput(name="A judge to guide an exported pipeline", script="export_diffusers",
             options=("--classifier=runs/judge",), says=("was trained on clean images only and cannot guide",)),
    BadInput(name="A folder without a pipeline", script="import_diffusers", options=("--folder=pictures",),
             says=("no model_index.json in pictures; give the folder of a pipeline of diffusers",)),
    BadInput(name="A pipeline on latents", script="import_diffusers", make=lambda: _pipeline(index=VQ_MODEL),
             says=("pipeline is no pipeline of a UNet2DModel on pixels and a scheduler; it has scheduler",)),
    BadInput(name="DDPM's network of CIFAR-10 in diffusers", script="import_diffusers",
             make=lambda: _pipeline(freq_shift=1, norm_eps=1e-6, downsample_padding=0),
             says=("this project's U-Net cannot compute what this UNet2DModel does: freq_shift is 1, here 0;",
                   "downsample_padding is 0, here 1; norm_eps is 1e-06, here 1e-05")),
    BadInput(name="A block that no U-Net here has", script="import_diffusers",
             make=lambda: _pipeline(down_block_types=["SkipDownBlock2D"]),
             says=("SkipDownBlock2D is no block of this project's U-Net, which can compute AttnDownBlock2D,",)),
    BadInput(name="A pipeline without weights", script="import_diffusers", make=lambda: _pipeline(),
             says=("no pipeline/unet/diffusion_pytorch_model.safetensors; save the pipeline with its U-Net's",)),
    BadInput(name="A consistency model", script="import_diffusers", make=lambda: _pipeline(weights=True),
             says=("CMStochasticIterativeScheduler follows no chain of this project's; the schedulers that do",)),
)  # fmt: skip
GENERATED = ("--generated=data",)
GENERATED_NPZ = ("--generated=data.npz",)
REAL_NPZ = ("--real=data.npz",)
STATISTICS = {"mu": np.zeros(32), "sigma": np.eye(32)}
EVALUATION_CASES = (
    BadInput(name="No images to evaluate", script="evaluate", options=GENERATED,
             says=("there is nothing at data; expected a folder of images (one folder per class), or ",)),
    BadInput(name="No real images", script="evaluate", options=("--real=photos",),
             says=("there is nothing at photos; expected",)),
    BadInput(name="An empty folder of samples", script="evaluate", make=lambda: Path("data").mkdir(),
             options=GENERATED, says=("no images in data (.jpg", "give a path that holds some")),
    BadInput(name="A text file of samples", script="evaluate", make=lambda: _put("data.txt", "text"),
             options=("--generated=data.txt",), says=("data.txt is a file of no known format; expected a folder",)),
    BadInput(name="A zip without pictures", script="evaluate", options=("--generated=data.zip",),
             make=lambda: _zipped("a/0.xcf"), says=("no images in data.zip", "but 1 .xcf files, the first a/0.xcf")),
    BadInput(name="An encrypted zip of samples", script="evaluate", options=("--generated=data.zip",),
             make=_encrypted_zip, says=("2 members of data.zip are encrypted, the first a/0.png; pack it without",)),
    BadInput(name="Samples beside class folders of samples", script="evaluate", options=GENERATED,
             make=lambda: (_classes("a"), _picture("data/0.png")),
             says=("data holds images beside its class folders ('0.png'", "move them")),
    BadInput(name="Samples of mixed sizes", script="evaluate", options=GENERATED,
             make=lambda: (_picture("data/0.png"), _picture("data/1.png", size=9)),
             says=("data/1.png has 9x9 pixels but data/0.png has 8x8: a set must have one size",
                   "--protocol.image_size N")),
    BadInput(name="Colour pictures to compare with grey samples", script="evaluate", options=("--real=data",),
             make=lambda: _classes("a", mode="RGB"),
             says=("data/a/0.png is in colour where grey pictures were expected; convert one of the sets",)),
    BadInput(name="A batch cut short", script="evaluate", make=_cut_npz, options=GENERATED_NPZ,
             says=("data.npz is not a readable npz file", "make or fetch it again")),
    BadInput(name="A batch of floats of -1..1", script="evaluate", options=GENERATED_NPZ,
             make=_npz(arr_0=_images([-1, 0.5], "float32")),
             says=("data.npz must hold arr_0 as uint8 0..255, got float32: its first 16 images hold values from -1 to",
                   "save ((arr_0 + 1) * 127.5).clip(0, 255).astype(np.uint8)")),
    BadInput(name="A batch of floats of 0..1", script="evaluate", options=GENERATED_NPZ,
             make=_npz(arr_0=_images([0.25, 0.5], "float32")),
             says=("got float32", "values from 0.25 to 0.5; if they mean 0..1, save (arr_0 * 255).round()")),
    BadInput(name="A batch of 0..1 that was cast to integers", script="evaluate", options=GENERATED_NPZ,
             make=_npz(arr_0=_images([0, 1], "uint8")),
             says=("the first 16 images of data.npz are all but black", "multiply by 255 before that")),
    BadInput(name="A batch with the channels first", script="evaluate", options=GENERATED_NPZ,
             make=_npz(arr_0=_images([0, 255], "uint8", shape=(20, 1, 8, 8))),
             says=("data.npz holds arr_0 with its axes in the order (N, C, H, W)", "arr_0.transpose(0, 2, 3, 1)")),
    BadInput(name="A batch of pickled objects", script="evaluate", options=GENERATED_NPZ,
             make=_npz(arr_0=np.array([{}], object)),
             says=("data.npz holds arr_0 as pickled Python objects, which are never loaded",)),
    BadInput(name="A real batch of another size than the samples", script="evaluate", options=REAL_NPZ,
             make=_npz(arr_0=_images([0, 255], "uint8", shape=(20, 9, 9, 1))),
             says=("data.npz holds images of 9x9 pixels where 8x8 were expected; stored arrays are not resized",)),
    BadInput(name="Published statistics for another network than Inception", script="evaluate", options=REAL_NPZ,
             make=_npz(**STATISTICS),
             says=("data.npz does not name the network of its statistics", "classifier:runs/judge is not; give")),
    BadInput(name="A reference of another extractor", script="evaluate", options=REAL_NPZ,
             make=_npz(**STATISTICS, extractor="inception-2015", extractor_sha256="67"),
             says=("data.npz was made with inception-2015 (SHA-256 67), not with classifier:runs/judge",
                   "use the same extractor for both sides")),
    BadInput(name="A reference that claims 8 TB", script="evaluate", options=REAL_NPZ, make=_huge_claim,
             says=("data.npz is no reference file (it ends within row 0 of (1000000, 1000000))",)),
    BadInput(name="A reference that is not finite", script="evaluate", options=REAL_NPZ,
             make=_npz(mu=np.full(32, np.nan), sigma=np.eye(32)),
             says=("data.npz is no reference file (mu or sigma has values that are not finite); make or fetch it",)),
    BadInput(name="A reference whose covariance is none", script="evaluate", options=REAL_NPZ,
             make=_npz(mu=np.zeros(32), sigma=np.eye(32) - 0.1),
             says=("data.npz is no reference file (sigma is no covariance: a covariance must not have negative",)),
    BadInput(name="A reference with text for a mean", script="evaluate", options=REAL_NPZ,
             make=_npz(mu=np.full(32, "0"), sigma=np.eye(32)),
             says=("data.npz is no reference file (mu holds <U1, not real numbers); make or fetch it again",)),
    BadInput(name="Fewer samples than neighbours", script="evaluate", options=GENERATED, make=lambda: _classes("a"),
             says=("data holds 2 images, but precision and recall look at 3 neighbours of each; give more images",)),
    BadInput(name="Fewer images than features have dimensions", script="evaluate", status=0, writes=True,
             says=("the generated side has 20 images for features of 32 dimensions: its covariance is singular",
                   "give more than 32 images")),
    BadInput(name="No Inception weights", script="evaluate",
             options=("--extractor.name=inception", "--extractor.weights=weights.pth"),
             says=("there are no Inception weights at weights.pth, which was given; get https://",
                   "--extractor.weights PATH", "GUIDED_DIFFUSION_INCEPTION_WEIGHTS", "copy the file to")),
    BadInput(name="An unknown extractor", script="evaluate", options=("--extractor.name=judge",),
             says=('there is no extractor "judge"; give inception', "classifier:RUN")),
    BadInput(name="A judge that was trained on noisy images", script="evaluate",
             options=("--extractor.name=classifier:runs/classifier",),
             says=("runs/classifier/checkpoint-0000002 was trained on noisy images and would judge its own guidance",)),
    BadInput(name="A report that is a directory", script="evaluate", options=("--out=runs",),
             says=("the report goes into a file NAME.json, a page NAME.html beside it; got --out runs",)),
    BadInput(name="Photographs of mixed sizes for a reference", script="make_reference", options=("--images=data",),
             make=lambda: (_picture("data/0.png"), _picture("data/1.png", size=9)),
             says=("a set must have one size",
                   "--protocol.image_size N")),
    BadInput(name="A reference of one image", script="make_reference", options=("--images=data",),
             make=lambda: _picture("data/0.png"), says=("data holds 1 image, and a covariance needs at least 2",)),
    BadInput(name="A reference of a reference", script="make_reference", options=("--images=data.npz",),
             make=_npz(**STATISTICS, arr_0=_images([0, 255], "uint8")),
             says=("data.npz is a reference already (it holds mu): give it to evaluate.py as --real, or give here",)),
    BadInput(name="A reference that is there already", script="make_reference", make=_npz("reference.npz"),
             says=("reference.npz is there already; remove it or give another --out",)),
    BadInput(name="A reference under another suffix", script="make_reference", options=("--out=reference.npy",),
             says=("a reference file is NAME.npz, got --out reference.npy",)),
    BadInput(name="A reference among its images", script="make_reference", options=("--out=pictures/reference.npz",),
             says=("pictures/reference.npz would lie among the images of pictures and change them",)),
)  # fmt: skip
UNPRIVILEGED_CASES = (
    BadInput(name="An image without permission", options=DATA,
             make=lambda: (_classes("a"), Path("data/a/0.png").chmod(0)),
             says=("could not read an image: Permission denied: data/a/0.png",)),
    BadInput(name="An output directory without permission", options=("--out=locked/out",),
             make=lambda: Path("locked").mkdir(mode=0o555),
             says=("--out locked/out cannot be written: locked",)),
)  # fmt: skip
"""Cases that root does not meet; they are not in the table."""
PUBLISHED_CASES = tuple(
    dataclasses.replace(case, script="import_openai")
    for case in (
        BadInput(name="A published file of an unknown image size", make=_published(),
                 says=('no tensor of published.pt shows the size of its images', '--flags, as "--image_size 64"')),
        BadInput(name="A published optimiser's file", options=("--file=opt000002.pt",), make=_published("opt000002.pt"),
                 says=("opt000002.pt holds an optimiser's state, no network", "give the model*.pt or ema_*.pt")),
        BadInput(name="An optimiser's state under another name",
                 make=_published(form=lambda _: {"state": {}, "param_groups": [{"lr": 0.1}]}),
                 says=("published.pt holds an optimiser's state, no network", "give the model*.pt or ema_*.pt")),
        BadInput(name="A published file of several networks", options=PUBLISHED_FLAGS,
                 make=_published(form=lambda weights: {"first": weights, "second": weights}),
                 says=('published.pt holds several networks: "first", "second"', "say by --entry which to take")),
        BadInput(name="An entry that a published file lacks", options=(*PUBLISHED_FLAGS, "--entry=ema"),
                 make=_published(form=lambda weights: {"model": weights}),
                 says=('--entry ema is none of the networks in published.pt: "model"',)),
        BadInput(name="A published file that two kinds of network fit", make=_published(form=_of_two_channels),
                 says=("those of a U-Net of 2-channel images whose variance is not learned, or of an upsampler of "
                       "1-channel images whose variance is", "--kind unet or --kind upsampler")),
        BadInput(name="A published file that is not of the kind given", options=(*PUBLISHED_FLAGS, "--kind=classifier"),
                 make=_published(), says=("published.pt holds no classifier; its tensors fit unet",)),
        BadInput(name="A published file of numbers that are not finite", options=PUBLISHED_FLAGS,
                 make=_published(form=lambda weights: {**weights, "out.2.bias": weights["out.2.bias"] / 0}),
                 says=('"out.2.bias" in published.pt has numbers that are not finite',)),
        BadInput(name="A published file of integers", options=PUBLISHED_FLAGS,
                 make=_published(form=lambda weights: {**weights, "out.2.bias": weights["out.2.bias"].int()}),
                 says=('"out.2.bias" in published.pt is of type torch.int32; give a file of',)),
        BadInput(name="A file of another layout's tensors",
                 make=_published(form=lambda _: {"conv.bias": torch.ones(3)}),
                 says=("published.pt is none of the released files", '"conv.bias", are of another layout')),
        BadInput(name="Flags of an unknown code base", options=("--flags=diffusers --image_size 8",),
                 make=_published(), says=('of no known family "diffusers"; known are guided-diffusion, improved-',)),
        BadInput(name="A published file cut short", options=PUBLISHED_FLAGS,
                 make=lambda: (_published()(), os.truncate("published.pt", 999)),
                 says=("published.pt is damaged, or was written neither by torch.save nor as safetensors",)),
    )
)  # fmt: skip
CHAPTERS = {"Data": DATA_CASES, "Options": OPTION_CASES, "Runs and checkpoints": RUN_CASES,
            "Published files": PUBLISHED_CASES, "Pipelines of diffusers": DIFFUSERS_CASES,
            "Evaluation": EVALUATION_CASES}  # fmt: skip
CASES = tuple(case for cases in CHAPTERS.values() for case in cases)

INTRODUCTION = """\
# What goes wrong, and what you read

A command that cannot do what it is asked says so in one line, `error: ...`, and ends with status 2. What can be seen
before the work begins is refused before anything is written. Rows marked *goes on* are warnings. With
`GUIDED_DIFFUSION_DEBUG=1` errors show their traceback.

The commands themselves printed what stands here: `python tests/bad_inputs.py > docs/errors.md`.
"""


def row(case: BadInput, message: str) -> str:
    """A line of the table."""
    command = " ".join((f"{case.script}.py", *case.options))
    goes_on = "" if case.status else "*goes on* "
    lines = "<br>".join(f"`{line}`" for line in message.replace("|", "\\|").split("\n"))
    return f"| {case.name}: `{command}` | {goes_on}{lines} |"


def main() -> None:
    """Print docs/errors.md."""
    with tempfile.TemporaryDirectory() as scratch:
        material = Path(scratch) / "material"
        write_material(material)
        print(INTRODUCTION, end="")
        for chapter, cases in CHAPTERS.items():
            print(f"\n## {chapter}\n\n| input | message |\n| --- | --- |")
            for number, case in enumerate(cases):
                print(row(case, attempt(case, material, Path(scratch) / f"{chapter}-{number}").message))


if __name__ == "__main__":
    main()
