"""Curves of training runs."""

import json

import numpy as np
import pytest
from PIL import Image

from guided_diffusion.commands.plot_runs import PlotConfig, plot_runs, read_curves, smoothed


def record(run, lines) -> None:
    run.mkdir(exist_ok=True)
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_numbers_are_read_with_their_iterations_and_without_what_a_line_says_of_itself(tmp_path):
    record(
        tmp_path / "run",
        [
            {"iteration": 5, "loss": 2.0, "images_per_second": 9.0},
            {"iteration": 5, "observed": True, "accuracy": 0.5},
            {"iteration": 10, "loss": 1.0, "images_per_second": 9.0},
        ],
    )
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"iteration": 15, "lo')  # a run that goes on
    assert read_curves(tmp_path / "run") == {"loss": [(5, 2.0), (10, 1.0)], "accuracy": [(5, 0.5)]}


def test_smoothing_takes_means_of_so_many_points():
    points = [(1, 1.0), (2, 3.0), (3, 5.0), (4, 7.0), (5, 2.0)]
    assert smoothed({"loss": points}, 2) == {"loss": [(2, 2.0), (4, 6.0), (5, 2.0)]}
    assert smoothed({"loss": points}, 1) == {"loss": points}


def test_a_picture_has_ink_where_the_curve_goes(tmp_path):
    record(tmp_path / "a", [{"iteration": i, "loss": 1.0 / i} for i in range(1, 40)])
    record(tmp_path / "b", [{"iteration": i, "loss": 2.0 / i, "mse": 1.0} for i in range(1, 40)])
    plot_runs(PlotConfig(runs=(tmp_path / "a",), out=tmp_path / "a.png"))
    plot_runs(PlotConfig(runs=(tmp_path / "a", tmp_path / "b"), out=tmp_path / "both.png"))
    one, both = (np.asarray(Image.open(tmp_path / f"{name}.png").convert("RGB")) for name in ("a", "both"))
    first, second = (0x1F, 0x77, 0xB4), (0xFF, 0x7F, 0x0E)  # matplotlib's first two colours
    assert (one == first).all(axis=2).sum() > 100
    assert not (one == second).all(axis=2).any()
    assert (both == second).all(axis=2).sum() > 100
    assert both.shape[1] > one.shape[1]  # a panel more


def test_what_cannot_be_drawn_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no .*metrics.jsonl; give the directory of a training run"):
        plot_runs(PlotConfig(runs=(tmp_path,), out=tmp_path / "a.png"))
    record(tmp_path / "empty", [])
    with pytest.raises(ValueError, match="has recorded nothing yet"):
        plot_runs(PlotConfig(runs=(tmp_path / "empty",), out=tmp_path / "a.png"))
    for damage in ("}", "[1]", '{"iteration": 2, "loss": [1]}', '{"iteration": "2"}', '{"loss": 1}', "\0"):
        record(tmp_path / "broken", [{"iteration": 1, "loss": 1.0}])
        with (tmp_path / "broken" / "metrics.jsonl").open("a") as file:
            file.write(f"{damage}\n")
        with pytest.raises(ValueError, match=r"line 2 of .*metrics.jsonl is damaged: .*; remove it"):
            plot_runs(PlotConfig(runs=(tmp_path / "broken",), out=tmp_path / "a.png"))
    for wrong in ({"runs": ()}, {"smoothing": 0}, {"out": tmp_path / "a.pdf"}):
        with pytest.raises(ValueError, match=r"runs names no|smoothing must|out is a PNG"):
            PlotConfig(**({"runs": (tmp_path,), "out": tmp_path / "a.png"} | wrong))
    assert not list(tmp_path.glob("*.png"))
