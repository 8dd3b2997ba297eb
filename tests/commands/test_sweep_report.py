"""The report of a sweep: its best setting, and texts of stored evaluations."""

from pathlib import Path

from guided_diffusion.commands.sweep_report import (
    Outcome,
    best_of,
    format_outcomes,
    grid_edges,
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
    assert {"scales.png", "cost.png"} <= {file.name for file in tmp_path.iterdir()}


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
