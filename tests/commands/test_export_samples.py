"""Samples in other forms: the same pixels, labels and numbers, whole or not at all."""

from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from evaluation.pixel_extractor import CLASS_NAMES, PixelExtractor, noisy_images, save_class_folders, save_samples
from PIL import Image

from guided_diffusion.commands.export_samples import ExportConfig, export_samples, folder_names
from guided_diffusion.data.image_set import open_image_set
from guided_diffusion.evaluation.run import evaluate

LABELS = torch.arange(120) % 3


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    return save_samples(tmp_path / "samples", noisy_images(LABELS, seed=1), LABELS)


def exported(samples: Path, out: Path, **options) -> Path:
    export_samples(ExportConfig(samples=samples, out=out, **options))
    return out


def stored(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    source = open_image_set(path)
    return np.concatenate(list(source.stream(range(len(source))))), source.labels if source.is_labelled else None


@pytest.mark.parametrize("form", ["x.npz", "x"])
def test_every_form_is_measured_as_the_samples_are(tmp_path, samples, form):
    real = save_class_folders(tmp_path / "real", noisy_images(LABELS, seed=2), LABELS)
    direct = evaluate(generated=samples, real=real, extractor=PixelExtractor()).metrics
    again = evaluate(generated=exported(samples, tmp_path / form), real=real, extractor=PixelExtractor()).metrics
    absent = set() if form == "x" else {"accuracy"}  # an npz does not say what its labels mean
    assert direct.keys() - again.keys() == absent
    for name, value in again.items():
        # Features are float32, and their last bits depend on an image's place in a batch; classes change the order.
        assert value == pytest.approx(direct[name], rel=1e-6 if form == "x" else 0, abs=0)


def test_an_npz_has_the_published_layout(tmp_path, samples):
    with np.load(exported(samples, tmp_path / "x.npz")) as arrays:
        assert np.array_equal(arrays["arr_0"], noisy_images(LABELS, seed=1).numpy())
        assert np.array_equal(arrays["arr_1"], LABELS.numpy())


def test_a_folder_has_a_directory_for_each_class_also_for_one_without_samples(tmp_path):
    labels = torch.tensor([2, 0, 0, 2])
    pixels = noisy_images(labels, seed=1)
    out = exported(save_samples(tmp_path / "samples", pixels, labels), tmp_path / "x")
    assert sorted(path.relative_to(out).as_posix() for path in out.rglob("*.png")) == [
        "dark/1.png", "dark/2.png", "light/0.png", "light/3.png",
    ]  # fmt: skip
    images, found = stored(out)
    assert open_image_set(out).class_names == CLASS_NAMES
    assert np.array_equal(images, pixels[[1, 2, 0, 3]].numpy())
    assert found is not None
    assert found.tolist() == [0, 0, 2, 2]


@pytest.mark.parametrize("channels", [1, 3])
def test_samples_without_labels_lie_in_the_order_of_their_ids(tmp_path, channels):
    pixels = noisy_images(LABELS, seed=1, channels=channels)
    samples = save_samples(tmp_path / "samples", pixels, torch.full_like(LABELS, -1))
    images, labels = stored(exported(samples, tmp_path / "x"))
    assert labels is None
    assert np.array_equal(images, pixels.numpy())


def test_a_grid_has_the_rows_and_columns_asked_for(tmp_path, samples):
    with Image.open(exported(samples, tmp_path / "x.png", columns=4, rows=2)) as picture:
        factor = 11  # of 6 pixels to 64 at least
        assert picture.height == (7 * 2 + 1) * factor
        pixels = np.asarray(picture)[:, -(7 * 4 + 1) * factor :]
    for row in range(2):  # sample 0 is the first of the first class, sample 1 of the second
        image = noisy_images(LABELS, seed=1)[row].numpy()
        assert np.array_equal(pixels[::factor, ::factor][1 + 7 * row : 7 + 7 * row, 1:7], image)


def test_the_same_folder_again_finds_its_result_and_another_is_refused(tmp_path, samples, capsys):
    out = exported(samples, tmp_path / "x")
    first = next(out.rglob("*.png"))
    before = first.stat().st_mtime_ns
    exported(samples, out)
    assert "x is there already, whole, with these pictures" in capsys.readouterr().out
    assert first.stat().st_mtime_ns == before

    def refused() -> None:
        with pytest.raises(FileExistsError, match="x is there already; remove it or give another --out"):
            exported(samples, out)

    content = first.read_bytes()
    first.write_bytes(content + b" ")
    refused()
    first.unlink()
    refused()
    first.write_bytes(content)
    (out / "more.txt").touch()
    refused()


@pytest.mark.parametrize(
    ("names", "folders"),
    [
        (("ant", "bee, wasp", "caf\xe9"), ("ant", "bee, wasp", "caf\xe9")),
        (("a/b", "a_b", "a\\b"), ("a_b (0)", "a_b", "a_b (2)")),
        (("..", "", ".git"), ("_", "_ (1)", "_git")),
        (("con", "Nul.txt", "@eaDir"), ("_con", "_Nul.txt", "_@eaDir")),
        (("what?", "dot.", "a:b"), ("what_", "dot", "a_b")),
        (("x" * 300, "same", "same"), ("x" * 60, "same", "same (2)")),
    ],
)
def test_classes_of_any_name_have_folders_of_their_own(names, folders, caplog):
    assert tuple(folder_names(names)) == folders
    assert ("cannot name directories" in caplog.text) == (names != folders)


def test_no_class_leaves_the_folder(tmp_path, caplog):
    samples = save_samples(tmp_path / "s", noisy_images(LABELS, seed=1), LABELS, class_names=("../a", "b/c", "d"))
    out = exported(samples, tmp_path / "out" / "x")
    assert sorted(path.name for path in out.iterdir()) == ["__a", "b_c", "d"]
    assert len(list(out.rglob("*.png"))) == len(LABELS)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["x"]


def test_what_cannot_be_written_is_refused_and_leaves_nothing(tmp_path, samples):
    there = tmp_path / "there"
    there.mkdir()
    with pytest.raises(FileExistsError, match="there is there already; remove it or give another --out"):
        exported(samples, there)
    with pytest.raises(ValueError, match=r"out is NAME.npz, NAME.png, or a folder's name .*; got x.jpg"):
        ExportConfig(samples=samples, out=Path("x.jpg"))
    with pytest.raises(ValueError, match="rows must be at least 1, got 0"):
        ExportConfig(samples=samples, out=Path("x.png"), rows=0)
    with pytest.raises(FileNotFoundError, match="holds no manifest.json"):
        exported(there, tmp_path / "x")
    (samples / "shard-00001.npz").write_bytes(b"damaged")
    for form in ("x", "x.npz", "x.png"):
        with pytest.raises(ValueError, match="lacks 1 of its 3 shards"):
            exported(samples, tmp_path / form)
        assert not (tmp_path / form).exists()
    assert not list(tmp_path.glob(".*"))


def test_the_script_exports(tmp_path, samples):
    process = tiny.start("export_samples.py", f"--samples={samples}", f"--out={tmp_path / 'x'}")
    status, output = tiny.finish(process)
    assert (status, output) == (0, "")
    assert len(list((tmp_path / "x").rglob("*.png"))) == 120
