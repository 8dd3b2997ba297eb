"""Several processes: they report what one does, and are refused where accelerate does not see them."""

import json
from pathlib import Path

import numpy as np
import programs
import pytest
import torch
from evaluation.pixel_extractor import LABELS, PixelExtractor, noisy_images, save_class_folders, save_samples

from guided_diffusion.evaluation.config import EvaluationConfig
from guided_diffusion.evaluation.reference_builder import make_reference
from guided_diffusion.evaluation.run import evaluate

# Of 120 images: four batches for two processes; two, one each; one batch, so that the first process has none.
SHARED_BATCH_SIZES = (32, 100, 120)


@pytest.fixture(scope="module")
def both_sides(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    directory = tmp_path_factory.mktemp("sides")
    return (
        save_samples(directory / "samples", noisy_images(LABELS, seed=0), LABELS),
        save_class_folders(directory / "real", noisy_images(LABELS, seed=1, spread=35), LABELS),
    )


@pytest.fixture(scope="module")
def reports_of_two_processes(both_sides: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("reports")
    arguments = [str(argument) for argument in (*both_sides, out, *SHARED_BATCH_SIZES)]
    program = programs.start(Path(__file__).with_name("two_processes.py"), *arguments, processes=2)
    status, output = program.finish()
    assert status == 0, output
    return out


@pytest.mark.parametrize("batch_size", SHARED_BATCH_SIZES)
def test_two_processes_report_what_one_does(
    both_sides, reports_of_two_processes: Path, tmp_path, batch_size: int
) -> None:
    config = EvaluationConfig(batch_size=batch_size, split_size=50)
    samples, real = both_sides
    evaluate(generated=samples, real=real, extractor=PixelExtractor(), config=config, out=tmp_path / "one.json")
    alone = json.loads((tmp_path / "one.json").read_text())
    together = json.loads((reports_of_two_processes / f"{batch_size}.json").read_text())
    distances = ("frechet_distance", "spatial_frechet_distance")
    found, expected = ([report["metrics"].pop(metric) for metric in distances] for report in (together, alone))
    assert found == pytest.approx(expected, rel=1e-10)  # moments merged in another order
    for side in ("generated", "real"):
        found, expected = (report["protocol"][side].pop("features") for report in (together, alone))
        assert found == pytest.approx(expected, rel=1e-10)
    assert together == alone


@pytest.mark.parametrize("batch_size", SHARED_BATCH_SIZES)
def test_two_processes_make_the_reference_that_one_does(
    both_sides, reports_of_two_processes: Path, tmp_path, batch_size: int
) -> None:
    out, statistics = tmp_path / "one.npz", {"mu", "sigma", "mu_s", "sigma_s"}
    make_reference(both_sides[1], extractor=PixelExtractor(), out=out, batch_size=batch_size, manifold_images=50)
    with np.load(out) as alone, np.load(reports_of_two_processes / f"{batch_size}.npz") as together:
        assert set(alone) == set(together)
        for name in statistics:  # moments merged in another order
            np.testing.assert_allclose(together[name], alone[name], rtol=1e-12, atol=1e-14)
        for name in set(alone) - statistics:
            np.testing.assert_array_equal(together[name], alone[name])
    assert not list(reports_of_two_processes.glob(".*"))


def test_processes_that_accelerate_does_not_see_are_refused(both_sides: tuple[Path, Path], monkeypatch) -> None:
    samples, real = both_sides
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    with pytest.raises(ValueError, match="accelerate sees 1 process where 2 were started"):
        evaluate(generated=samples, real=real, extractor=PixelExtractor())
