"""Curves of guidance along the chain: nats spent and effective particles at each timestep."""

from collections.abc import Mapping
from itertools import cycle, product
from typing import Any

from matplotlib.figure import Figure

PANELS = {
    "nats_by_timestep": ("Nats of guidance", "nats of each link"),
    "ess_by_timestep": ("Effective particles", "share of the particles"),
}
"""Title and label of what a manifest has by timestep."""


def path_curves(measured: Mapping[str, Mapping[str, Any]]) -> Figure | None:
    """Each measurement against the timestep, a line for each setting that has it; None without any.

    measured: what the manifests of samples have of guidance, by the settings in words.
    """
    found = {key: {name: one[key] for name, one in measured.items() if key in one} for key in PANELS}
    found = {key: lines for key, lines in found.items() if lines}
    if not found:
        return None
    styles = dict(zip(measured, cycle(product(("-", "--"), range(6))), strict=False))  # a setting's own in all panels
    figure = Figure(figsize=(6 * len(found), 4.4), layout="constrained")
    for place, (key, lines) in enumerate(found.items(), start=1):
        axis, (title, label) = figure.add_subplot(1, len(found), place), PANELS[key]
        for name, points in lines.items():
            style, colour = styles[name]
            axis.plot(*zip(*points, strict=True), label=name, linestyle=style, color=f"C{colour}")
        axis.set(title=title, ylabel=label, xlabel="timestep t (noise grows to the right)", ylim=(0, None))
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    return figure
