"""The report of a sweep: its best setting, and texts of stored evaluations."""

from pathlib import Path

from guided_diffusion.commands.path_curves import path_curves
from guided_diffusion.commands.sweep_report import (
    MOST_LINES,
    Outcome,
    best_of,
    curve_axis,
    format_outcomes,
    grid_edges,
    quality_curves,
    write_sweep_report,
)


def outcome(scale: float, distance: float, grid: Path, **changes) -> Outcome:
    names = {"frechet_distance": "<b>FD-9</b>", "accuracy": "accuracy"}
    plain = {"sampler": "ddim", "steps": 5, "network_evaluations": 5, "grid": grid, "display_names": names}
    return Outcome(scale=scale, metrics={"frechet_distance": distance, "accuracy": 0.5}, **(plain | changes))


def test_the_report_shows_the_best_and_its_pictures(tmp_path):
    (tmp_path / "grid.png").write_bytes(b"picture")
    grid = tmp_path / "grid.png"
    outcomes = [outcome(0, 3.0, grid), outcome(2, 1.5, grid), outcome(2, 2.0, grid, sampler="<heun>")]
    assert best_of(outcomes) is outcomes[1]
    starred = [line for line in format_outcomes(outcomes).splitlines() if line.startswith("*")]
    assert len(starred) == 1
    assert "1.500" in starred[0]
    page = write_sweep_report(tmp_path, outcomes).read_text()
    assert "ddim, 5 steps, s = 2" in page
    assert page.count("<figcaption>") == 2
    assert "&lt;heun&gt;" in page
    assert "<heun>" not in page
    assert "The best &lt;b&gt;FD-9&lt;/b&gt; of 3 settings" in page
    assert "<b>" not in page
    assert {"curves.png", "cost.png"} <= {file.name for file in tmp_path.iterdir()}


def test_a_best_at_an_edge_of_the_grid_is_said(tmp_path):
    grid = tmp_path / "grid.png"
    grid.write_bytes(b"picture")
    scales = [outcome(scale, distance, grid) for scale, distance in ((1, 3.0), (2, 1.5), (4, 1.2))]
    (edge,) = grid_edges(scales)
    assert edge == "s = 4 is the largest scale of the sweep: the optimum may lie beyond; widen --scales"
    assert edge in write_sweep_report(tmp_path, scales).read_text()
    assert grid_edges([*scales, outcome(8, 1.3, grid)]) == []
    assert grid_edges([outcome(0, 1.0, grid), *scales]) == []  # no scale is lower
    assert grid_edges(scales[2:]) == []  # a single one
    (edge,) = grid_edges([outcome(0.5, 1.0, grid), *scales])
    assert edge.startswith("s = 0.5 is the smallest scale of the sweep")
    more = outcome(2, 1.1, grid, steps=50, network_evaluations=50)
    assert grid_edges([outcome(2, 1.5, grid), more]) == [
        "50 steps are the most of the sweep: more may be better; add to --steps"
    ]
    fewer = outcome(2, 1.9, grid, steps=50, network_evaluations=50)
    assert grid_edges([outcome(2, 1.5, grid), fewer]) == []


def test_further_axes_have_columns_curves_and_pictures(tmp_path):
    grid = tmp_path / "grid.png"
    grid.write_bytes(b"picture")
    values = ((3.0, 2.0, "<a>"), (2.0, 5.0, "<a>"), (2.5, 2.0, "b"), (1.5, float("inf"), "b"))
    outcomes = [
        outcome(4, distance, grid, axes={"guidance.sigma_max": bound, "weights": weights})
        for distance, bound, weights in values
    ]
    head, *rows = format_outcomes(outcomes).splitlines()
    assert head.split()[:5] == ["sampler", "steps", "sigma_max", "weights", "s"]
    assert rows[-1].split()[:5] == ["*", "ddim", "5", "inf", "b"]
    assert curve_axis(outcomes) == "guidance.sigma_max"  # the axis of most numbers
    assert [text.get_text() for text in quality_curves(outcomes).legends[0].get_texts()] == ["weights <a>", "weights b"]
    page = write_sweep_report(tmp_path, outcomes).read_text()
    assert "ddim, 5 steps, sigma_max inf, weights b, s = 4" in page
    assert "<td>weights</td><td>&lt;a&gt;</td><td>2.000</td><td>sigma_max 5</td>" in page
    assert "Samples by sigma_max: ddim, 5 steps, weights b, s = 4" in page
    assert page.count("<figcaption>") == 2 + 1
    scales = [outcome(scale, 1.0, grid, axes={"seed": seed}) for scale in (1, 2) for seed in (0, 1, 2)]
    assert curve_axis(scales) == "guidance.scale"
    texts = [outcome(None, 1.0, grid, axes={"weights": weights}) for weights in ("a", "b")]
    assert curve_axis(texts) == "weights"


def test_guidance_along_the_chain_is_drawn_for_settings_that_have_it():
    nats, ess = [[999.0, 0.1], [500.0, 0.3]], [[999.0, 1.0], [500.0, 0.6]]
    figure = path_curves(
        {"K = 1": {"nats_by_timestep": nats}, "K = 4": {"nats_by_timestep": nats, "ess_by_timestep": ess}}
    )
    drawn = [[line.get_label() for line in axis.get_lines()] for axis in figure.axes]
    assert drawn == [["K = 1", "K = 4"], ["K = 4"]]
    assert figure.axes[1].get_lines()[0].get_ydata().tolist() == [1.0, 0.6]
    assert len({axis.get_lines()[-1].get_color() for axis in figure.axes}) == 1  # of K = 4, in both panels
    assert path_curves({"unguided": {}}) is None


def test_nats_have_a_column_where_a_setting_has_them(tmp_path):
    plain, measured = outcome(0, 2.0, tmp_path), outcome(2, 1.0, tmp_path, measured={"nats": 3.1416})
    head, first, second = (line.split() for line in format_outcomes([plain, measured]).splitlines())
    assert head[3:6] == ["evaluations", "nats", "<b>FD-9</b>"]
    assert (first[3:5], second[4:6]) == (["5", "2.000"], ["5", "3.14"])
    assert "nats" not in format_outcomes([plain])


def test_of_many_combinations_the_best_have_curves(tmp_path):
    outcomes = [
        outcome(scale, 30.0 - seed, tmp_path, axes={"seed": seed}) for seed in range(20) for scale in (1, 2)
    ]  # fmt: skip
    labels = [text.get_text() for text in quality_curves(outcomes).legends[0].get_texts()]
    assert labels == [f"seed {seed}" for seed in range(20 - MOST_LINES, 20)]


def test_a_best_at_an_edge_of_an_axis_is_said_where_values_lie_beyond(tmp_path):
    def edges(best: float, *others: float, option: str = "guidance.sigma_max") -> list[str]:
        return grid_edges([outcome(4, 1.0 + (v != best), tmp_path, axes={option: v}) for v in (best, *others)])

    assert edges(5.0, 2.0) == [
        "sigma_max 5 is the largest value of the sweep: the optimum may lie beyond; widen its values in --axes"
    ]
    assert edges(2.0, 1.0, 5.0) == []
    assert edges(float("inf"), 2.0) == []
    assert edges(0.0, 2.0) == []
    assert edges(1, 2, option="sampler.langevin_steps") == []  # a count has none below 1
