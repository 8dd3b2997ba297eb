"""The demonstration's report.html: pictures, curves, a table, and the commands that made them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ..evaluation.metrics import HEADLINES, RANKING
from ..html import Markup, gallery, image, png, section, table, write_page
from .sweep_report import Outcome, metric_cells, quality_curves


def write_demo_report(out: Path, outcomes: Sequence[Outcome], *, commands: Sequence[str]) -> str:
    """Write out/report.html from the records that the commands left in `out`; its table as text."""
    real = json.loads((out / "floor.json").read_text())["metrics"]
    levels = json.loads((out / "classifier_levels.json").read_text())
    judge: dict[str, float] = {}
    for line in (out / "judge" / "metrics.jsonl").read_text().splitlines():
        judge |= json.loads(line)
    columns = {number.key: number.name for number in HEADLINES}  # on the judge's features, so that none is an FID
    head = ["sampler", "s", *columns.values()]
    rows = [[o.sampler, f"{o.scale:g}", *metric_cells(o.metrics, list(columns))] for o in outcomes]
    rows.append(["held-out real", "", *metric_cells(real, list(columns))])
    title, samplers = "Classifier guidance on handwritten digits", dict.fromkeys(o.sampler for o in outcomes)
    grids = [[(o.name, o.grid.read_bytes()) for o in outcomes if o.sampler == sampler] for sampler in samplers]
    sections = [
        Markup(
            "<h1>{}</h1><p>An <em>unconditional</em> diffusion model is guided to the class asked for by a separate "
            "classifier of noisy images. A third network, the judge, is trained on clean images only. It classifies "
            "{:.1%} of held-out real digits correctly, and FD, precision and recall are computed on its features. FD "
            "of the held-out real digits, the floor: {:.3f}.</p>"
        ).format(title, judge["heldout_accuracy_t0"], real[RANKING.key]),
        section("Guidance scale against quality", image(png(quality_curves(outcomes, real=real)))),
        section("Numbers", table(head, rows)),
        Markup("<h2>Samples</h2><p>Each row is one class, 0 at the top; the seeds are the same at every scale.</p>"),
        *map(gallery, grids),
        Markup(
            "<h2>Accuracy of the classifier</h2><p>Accuracy of the noisy classifier on {} held-out digits at each "
            "noise level. At the right end no trace of the digit is left, and no classifier can do better than "
            "chance.</p>{}"
        ).format(levels["num_images"], image(png(_level_curve(levels)))),
        section("Commands", Markup("<pre>{}</pre>").format("\n".join(f"python {command}" for command in commands))),
    ]
    write_page(out / "report.html", title, sections)
    text = (f"{row[0]:<14}{row[1]:>4}" + "".join(f"{cell:>11}" for cell in row[2:]) for row in (head, *rows))
    return "\n".join(text)


def _level_curve(levels: Mapping[str, Any]) -> Figure:
    figure = Figure(figsize=(6, 3.4), layout="constrained")
    axis = figure.subplots()
    points = [(level["t"], level["accuracy"]) for level in levels["levels"]]
    axis.plot(*zip(*points, strict=True), marker="o", label="held-out accuracy")
    axis.axhline(levels["chance"], color="grey", linestyle=":", label="chance")
    axis.set(xlabel="timestep t (noise grows to the right)", ylabel="accuracy", ylim=(0, 1.02))
    axis.legend()
    return figure
