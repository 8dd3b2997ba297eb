"""Reference files: their layout, what is refused, and that they stand for the images that they were made of."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluation.pixel_extractor import LABELS, PixelExtractor, noisy_images, save_class_folders
from PIL import Image

from guided_diffusion.commands.make_reference import MakeReferenceConfig, main
from guided_diffusion.data.formats.tree import files_sha256
from guided_diffusion.data.image_set import open_image_set
from guided_diffusion.evaluation.config import EvaluationConfig
from guided_diffusion.evaluation.extractors.config import EXTRACTORS
from guided_diffusion.evaluation.extractors.features import Features
from guided_diffusion.evaluation.extractors.inception import WEIGHTS as INCEPTION
from guided_diffusion.evaluation.metrics.frechet import frechet_distance
from guided_diffusion.evaluation.reference import Reference, read_reference, write_reference
from guided_diffusion.evaluation.reference_builder import make_reference
from guided_diffusion.evaluation.report import Report
from guided_diffusion.evaluation.run import cache_directory, evaluate
from guided_diffusion.evaluation.statistics import Gaussian, gaussian, moments
from guided_diffusion.files import file_sha256

OF_IMAGES = {"precision", "recall", "density", "coverage", "kernel_distance"}
RECORD = {"path": "photos", "num_images": 200}


class WithoutSpatial(PixelExtractor):
    def __call__(self, images_uint8: torch.Tensor) -> Features:
        return replace(super().__call__(images_uint8), spatial=None)


@pytest.fixture
def statistics() -> Gaussian:
    return gaussian(moments(torch.randn(200, 6, generator=torch.Generator().manual_seed(0))))


def found(path: Path) -> Reference:
    reference = read_reference(path)
    assert reference is not None
    return reference


def compared(generated: Path, real: Path, **settings: int) -> Report:
    config = EvaluationConfig(kid_subset_size=20, **settings)
    return evaluate(generated=generated, real=real, extractor=PixelExtractor(), config=config)


def test_a_reference_file_has_the_published_layout_and_comes_back(statistics, real: Path, tmp_path: Path) -> None:
    spatial = Gaussian(statistics.mean[:3], statistics.cov[:3, :3])
    path = tmp_path / "reference.npz"
    images = open_image_set(real)
    stored = Reference(pooled=statistics, spatial=spatial, extractor="judge", extractor_sha256="ab", record=RECORD)
    write_reference(path, stored, images=images, kept=[3, 50, 119])
    with np.load(path) as arrays:
        assert {"mu", "sigma", "mu_s", "sigma_s", "arr_0"} <= set(arrays)
        np.testing.assert_array_equal(arrays["sigma"], statistics.cov.numpy(), strict=True)
        expected = images.read(range(120)).permute(0, 2, 3, 1)[[3, 50, 119]]
        np.testing.assert_array_equal(arrays["arr_0"], expected.numpy(), strict=True)
    back = found(path)
    assert (back.extractor, back.extractor_sha256, back.has_images, back.pooled.count) == ("judge", "ab", True, 200)
    assert back.record == RECORD
    assert back.spatial is not None
    assert torch.equal(back.pooled.mean, statistics.mean)
    assert torch.equal(back.spatial.cov, spatial.cov)


def test_the_same_statistics_make_the_same_bytes(statistics: Gaussian, tmp_path: Path) -> None:
    for name in ("a.npz", "b.npz"):
        write_reference(tmp_path / name, Reference(pooled=statistics, extractor="judge", extractor_sha256="ab"))
    assert file_sha256(tmp_path / "a.npz") == file_sha256(tmp_path / "b.npz")


def test_a_network_without_spatial_features_has_a_reference_without_them(real: Path, tmp_path: Path) -> None:
    make_reference(real, extractor=WithoutSpatial(), out=tmp_path / "r.npz")
    assert found(tmp_path / "r.npz").spatial is None


def test_the_command_makes_the_reference_and_says_what_it_is_of(
    real: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.setitem(EXTRACTORS, "pixels", lambda weights, device: PixelExtractor())
    main(["--images", str(real), "--extractor.name", "pixels", "--out", str(tmp_path / "r.npz")])
    assert "statistics of 120 images on classifier:runs/judge, with 120 of the images" in capsys.readouterr().out
    assert found(tmp_path / "r.npz").pooled.count == 120


def test_a_published_reference_is_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "r.npz", mu=np.zeros(4, np.float32), sigma=np.eye(4))
    back = found(tmp_path / "r.npz")
    assert (back.spatial, back.has_images, back.extractor_sha256, back.pooled.count) == (None, False, None, None)
    assert back.record is None


def test_a_batch_of_images_is_no_reference(tmp_path: Path) -> None:
    np.savez(tmp_path / "batch.npz", arr_0=np.zeros((1, 2, 2, 3), np.uint8))
    assert read_reference(tmp_path / "batch.npz") is None


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"sigma": np.eye(3)}, r"mu \(4,\) and sigma \(3, 3\) are not \(D,\) and \(D, D\)"),
        ({"sigma": np.eye(4) * np.nan}, "mu or sigma has values that are not finite"),
        ({"sigma": np.triu(np.ones((4, 4)))}, "sigma is no covariance: a covariance must be symmetric"),
        ({"sigma": np.eye(4) - 0.3}, "sigma is no covariance: a covariance must not have negative eigenvalues"),
        ({}, "sigma is not a file in the archive"),
        ({"sigma": np.eye(4), "mu_s": np.zeros(2)}, "sigma_s is not a file in the archive"),
        ({"sigma": np.eye(4), "record": np.array("{")}, "Expecting property name"),
        ({"sigma": np.eye(4), "record": np.array("[1]")}, r"record is damaged: it holds \[1\] where an object"),
        ({"sigma": np.eye(4), "record": np.array('{"channels": "3"}')}, 'record is damaged: channels is "3"'),
        ({"sigma": np.eye(4), "num_images": np.array([1, 2])}, "only .* can be converted"),
        ({"sigma": np.full((4, 4), "one")}, "sigma holds <U3, not real numbers"),
        ({"sigma": np.array([{}])}, "allow_pickle"),
    ],
)
def test_what_is_no_mean_and_covariance_is_refused_by_the_files_name(tmp_path: Path, arrays, message: str) -> None:
    np.savez(tmp_path / "r.npz", mu=np.zeros(4), **arrays)
    with pytest.raises(ValueError, match=rf"r\.npz is no reference file \(.*{message}"):
        read_reference(tmp_path / "r.npz")


@pytest.mark.parametrize(("rank", "asymmetry"), [(40, 9e-6), (40, 0), (3, 0)])
def test_statistics_that_are_read_have_a_distance(tmp_path: Path, rank: int, asymmetry: float) -> None:
    x = np.random.default_rng(0).standard_normal((rank, 20))
    cov = (x.T @ x).astype(np.float32)
    cov[0, 1] += asymmetry * abs(cov).max()
    np.savez(tmp_path / "r.npz", mu=np.zeros(20), sigma=cov)
    pooled = found(tmp_path / "r.npz").pooled
    assert torch.equal(pooled.cov, pooled.cov.T)
    zero, wider = torch.zeros(20), torch.from_numpy(4 * x.T @ x)
    assert frechet_distance(pooled.mean, pooled.cov, zero, wider) == pytest.approx(np.trace(x.T @ x), rel=1e-4)


def test_junk_is_no_reference(tmp_path: Path) -> None:
    (tmp_path / "r.npz").write_bytes(b"junk")
    with pytest.raises(ValueError, match=r"r\.npz is not a readable npz file"):
        read_reference(tmp_path / "r.npz")


@pytest.mark.parametrize("kept", [120, 50])
def test_evaluating_against_the_file_gives_the_numbers_of_the_folder(
    samples: Path, real: Path, tmp_path: Path, kept: int
) -> None:
    make_reference(real, extractor=PixelExtractor(), out=tmp_path / "reference.npz", manifold_images=kept)
    direct = compared(samples, real, real_manifold=kept)
    report = compared(samples, tmp_path / "reference.npz", real_manifold=kept)
    assert report.metrics.keys() == direct.metrics.keys() > {"precision", "recall", "kernel_distance", "coverage"}
    told = report.protocol["real"]
    assert (told["num_manifold_images"], told["statistics"], len(told["sha256"])) == (kept, "stored", 64)
    if kept == 120:
        assert report.metrics == direct.metrics
    else:  # the 50 are in other batches now, whose matrix products round otherwise
        assert report.metrics == pytest.approx(direct.metrics, rel=1e-5)


def test_the_file_says_which_images_it_is_of(real: Path, tmp_path: Path) -> None:
    make_reference(real, extractor=PixelExtractor(), out=tmp_path / "r.npz", image_size=4)
    record = found(tmp_path / "r.npz").record
    assert record is not None
    assert (record["path"], record["kind"], record["num_images"]) == (str(real), "folder", 120)
    assert (record["image_size"], record["class_names"]) == ([4, 4], ["dark", "grey", "light"])
    assert "published centre crop to 4 px" in record["resize"]
    assert record["files_sha256"] == files_sha256(real)
    assert record["versions"]["torch"] == torch.__version__.split("+")[0] or torch.__version__
    assert found(tmp_path / "r.npz").extractor == PixelExtractor().name


def test_without_kept_images_there_are_statistics_only(samples: Path, real: Path, tmp_path: Path) -> None:
    make_reference(real, extractor=PixelExtractor(), out=tmp_path / "r.npz", manifold_images=0)
    assert not found(tmp_path / "r.npz").has_images
    report = compared(samples, tmp_path / "r.npz")
    assert report.metrics["frechet_distance"] == compared(samples, real).metrics["frechet_distance"]
    assert set(report.absent) == OF_IMAGES
    assert set(report.metrics).isdisjoint(report.absent)
    assert "holds statistics but no images" in report.absent["precision"]


def test_statistics_of_another_extractor_are_refused(samples: Path, real: Path, tmp_path: Path) -> None:
    judge = replace(PixelExtractor(), name="judge", sha256="f" * 64)
    make_reference(real, extractor=judge, out=tmp_path / "r.npz")
    with pytest.raises(ValueError, match=r"was made with judge \(SHA-256 ffff.*use the same extractor for both sides"):
        compared(samples, tmp_path / "r.npz")


def test_published_statistics_serve_inception_only(samples: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "r.npz", mu=np.zeros(5), sigma=np.eye(5))
    with pytest.raises(ValueError, match="count as the published 2015 Inception's, which classifier:runs/judge is not"):
        evaluate(generated=samples, real=tmp_path / "r.npz", extractor=PixelExtractor())
    report = evaluate(
        generated=samples, real=tmp_path / "r.npz", extractor=replace(PixelExtractor(), published=INCEPTION)
    )
    assert report.display_names["frechet_distance"] == "FID-120"
    assert set(report.absent) == {"spatial_frechet_distance", *OF_IMAGES}


def test_statistics_of_images_of_another_size_are_refused(samples: Path, real: Path, tmp_path: Path) -> None:
    make_reference(real, extractor=PixelExtractor(), out=tmp_path / "r.npz", image_size=4, manifold_images=0)
    with pytest.raises(ValueError, match=r"have image_size \[6, 6\], .* statistics in .*r\.npz \[4, 4\]; make"):
        compared(samples, tmp_path / "r.npz")


def test_statistics_of_grey_images_are_refused_for_samples_in_colour(samples: Path, tmp_path: Path) -> None:
    grey = save_class_folders(tmp_path / "grey", noisy_images(LABELS, seed=1, channels=1), LABELS)
    make_reference(grey, extractor=PixelExtractor(), out=tmp_path / "r.npz", manifold_images=0)
    with pytest.raises(ValueError, match=r"generated images have channels 3, .* statistics in .*r\.npz 1; make"):
        compared(samples, tmp_path / "r.npz")


@pytest.mark.parametrize(("pooled", "spatial", "name"), [(5, 7, "mu_s of 7"), (4, 6, "mu of 4")])
def test_statistics_of_other_dimensions_are_refused(samples, tmp_path: Path, pooled, spatial, name: str) -> None:
    stored = Reference(
        pooled=Gaussian(torch.zeros(pooled), torch.eye(pooled)),
        spatial=Gaussian(torch.zeros(spatial), torch.eye(spatial)),
        extractor="classifier:runs/judge",
        extractor_sha256="0" * 64,
        record={},
    )
    write_reference(tmp_path / "r.npz", stored)
    with pytest.raises(
        ValueError, match=rf"r\.npz holds {name} dimensions, but features of classifier:runs/judge have"
    ):
        compared(samples, tmp_path / "r.npz")


def test_outs_that_cannot_be_are_refused_before_anything_is_measured(real: Path, tmp_path: Path) -> None:
    def refused(out: Path, message: str, error: type[Exception] = ValueError) -> None:
        with pytest.raises(error, match=message):
            make_reference(real, extractor=PixelExtractor(), out=out)

    refused(tmp_path / "r.npy", r"a reference file is NAME\.npz, got --out .*r\.npy")
    refused(real / "dark" / "r.npz", "would lie among the images")
    (tmp_path / "there.npz").write_bytes(b"mine")
    refused(tmp_path / "there.npz", r"there\.npz is there already; remove it or give another --out", FileExistsError)
    assert (tmp_path / "there.npz").read_bytes() == b"mine"


def test_the_same_reference_again_finds_its_result_and_another_is_refused(real: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.npz"

    def make(extractor: PixelExtractor | None = None, **settings: int) -> bool:
        return make_reference(real, extractor=extractor or PixelExtractor(), out=out, **settings)

    assert make()
    before, cache = out.stat().st_mtime_ns, cache_directory(out)
    cache.mkdir()  # of a process that was killed as soon as the file had its name
    assert not make()
    assert (out.stat().st_mtime_ns, cache.exists()) == (before, False)
    for settings in ({"manifold_images": 7}, {"image_size": 4}, {"extractor": PixelExtractor(sha256="1" * 64)}):
        with pytest.raises(FileExistsError, match=r"r\.npz is there already; remove it or give another --out"):
            make(**settings)
    Image.new("RGB", (6, 6)).save(next(real.rglob("*.png")))
    with pytest.raises(FileExistsError, match=r"r\.npz is there already"):
        make()


def test_a_reference_is_not_made_of_the_few_images_that_another_holds(real: Path, tmp_path: Path) -> None:
    make_reference(real, extractor=PixelExtractor(), out=tmp_path / "first.npz", manifold_images=9)
    with pytest.raises(ValueError, match=r"first\.npz is a reference already .*--real, or give here the images"):
        make_reference(tmp_path / "first.npz", extractor=PixelExtractor(), out=tmp_path / "second.npz")


def test_pictures_that_break_halfway_leave_nothing_behind(real: Path, tmp_path: Path) -> None:
    picture = real / "light" / "119.png"
    picture.write_bytes(picture.read_bytes()[:60])
    with pytest.raises(ValueError, match=r"119\.png is not a readable image"):
        make_reference(real, extractor=PixelExtractor(), out=tmp_path / "out" / "r.npz")
    assert not (tmp_path / "out" / "r.npz").exists()


def test_pictures_of_mixed_sizes_are_refused_with_the_way_out(real: Path, tmp_path: Path) -> None:
    Image.new("RGB", (9, 8), "red").save(real / "light" / "200.png")
    with pytest.raises(ValueError, match=r"200\.png has 8x9 pixels but .*crop them all to one, with --image_size N"):
        make_reference(real, extractor=PixelExtractor(), out=tmp_path / "r.npz")
    make_reference(real, extractor=PixelExtractor(), out=tmp_path / "r.npz", image_size=6)


def test_one_image_has_no_statistics(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    Image.new("RGB", (6, 6), "red").save(tmp_path / "one" / "0.png")
    with pytest.raises(ValueError, match=r"one holds 1 image, and a covariance needs at least 2"):
        make_reference(tmp_path / "one", extractor=PixelExtractor(), out=tmp_path / "r.npz")


def test_too_few_images_for_the_covariance_are_warned_of(tmp_path: Path, caplog) -> None:
    few = save_class_folders(tmp_path / "few", noisy_images(LABELS[:5], seed=1), LABELS[:5])
    make_reference(few, extractor=PixelExtractor(), out=tmp_path / "r.npz")
    assert "the real side has 5 images for features of 5 dimensions" in caplog.text


@pytest.mark.parametrize(("field", "value"), [("batch_size", 0), ("image_size", 0), ("manifold_images", -1)])
def test_settings_out_of_range_are_refused(field: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{field} must be at least"):
        MakeReferenceConfig(images=Path("a"), out=Path("b.npz"), **{field: value})
