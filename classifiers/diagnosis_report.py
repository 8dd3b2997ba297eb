"""Table, figure and verdict of a diagnosis."""

import math
from collections.abc import Callable, Sequence

from matplotlib.figure import Figure

from guided_diffusion.diffusion.chain import sigma

from .calibration import SCALE_LIMIT
from .diagnosis import Diagnosis, LevelReport

_COLUMNS: dict[str, Callable[[LevelReport], str]] = {
    "t": lambda level: f"{level.t:g}",
    "signal": lambda level: f"{level.alpha_bar:.5f}",
    "accuracy": lambda level: f"{level.accuracy:.1%}",
    "log p(y), nats": lambda level: f"{level.log_likelihood:.3f}",
    "ECE": lambda level: f"{level.calibration_error:.3f}",
    "entropy": lambda level: f"{level.entropy:.3f}",
    "correction": lambda level: f"{level.correction:.4f}",
    "slope error": lambda level: f"{level.slope_error:.0e}",
}

_PANELS: tuple[tuple[str, str, Callable[[LevelReport], float]], ...] = (
    ("Accuracy", "share of the images", lambda level: level.accuracy),
    ("Log-likelihood of the right class", "mean log p(y | x_t), nats", lambda level: level.log_likelihood),
    ("Expected calibration error", "mean |accuracy − confidence|", lambda level: level.calibration_error),
    ("Guidance at scale 1, relative to the noise", "√(1 − ᾱ) ‖∇ log p(y | x_t)‖ / ‖ε‖", lambda level: level.correction),
)
"""Title, label of the y axis and curve of each panel."""

RESOLUTION = 1.25
"""Scales within this factor count as equal: ADM's tuned scales (table 14) are a quarter apart or more."""

SOUND = 0.01
"""Largest relative error of a sound slope: a hundred times float32's rounding, a hundredth of a visible effect."""

WEAK = 0.5
"""Accuracy at its best level below which a classifier is called weak, though above chance."""

NEGLIGIBLE = 1e-4
"""Corrections below this share of eps change no pixel and may be rounding alone."""


def format_diagnosis(diagnosis: Diagnosis) -> str:
    """A table with a row a noise level and a legend."""
    rows = [tuple(_COLUMNS), *(tuple(cell(level) for cell in _COLUMNS.values()) for level in diagnosis.levels)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        [
            f"{diagnosis.num_images} images of {diagnosis.data}; chance: {diagnosis.chance:.1%}, "
            f"{math.log(diagnosis.chance):.3f} nats",
            "",
            *("  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows),
            "",
            "ECE: expected calibration error. entropy: of the prediction, 1 = uniform. correction: of eps at scale 1,",
            "as a share of eps. slope error: of the gradient against finite differences, relative.",
        ]
    )


def diagnosis_figure(diagnosis: Diagnosis) -> Figure:
    """Accuracy, log-likelihood, calibration error and correction against the timestep, hollow at chance level."""
    figure = Figure(figsize=(10, 7), layout="constrained")
    figure.suptitle(f"{diagnosis.classifier} on {diagnosis.num_images} images of {diagnosis.data}")
    axes, levels = list(figure.subplots(2, 2, sharex=True).flat), diagnosis.levels
    t, unknown = [level.t for level in levels], [level for level in levels if not diagnosis.is_informed(level)]
    for axis, (title, label, value) in zip(axes, _PANELS, strict=True):
        axis.plot(t, [value(level) for level in levels], marker="o", markersize=5, label="measured")
        if unknown:
            axis.plot(
                [level.t for level in unknown], [value(level) for level in unknown], linestyle="none", marker="o",
                markersize=5, markerfacecolor="white", color="C0", label="measured, no better than chance",
            )  # fmt: skip
        axis.grid(alpha=0.3)
        axis.set_title(title, fontsize=11)
        axis.set_ylabel(label)
    accuracy, likelihood, calibration, correction = axes
    accuracy.plot(t, [level.confidence for level in levels], "--", color="C1", label="mean confidence")
    for axis, chance in ((accuracy, diagnosis.chance), (likelihood, math.log(diagnosis.chance))):
        axis.axhline(chance, color="grey", linestyle=":", label="chance")
    accuracy.set_ylim(0, 1.03)
    likelihood.set_ylim(top=max(0.0, likelihood.get_ylim()[1]))
    for axis in (calibration, correction):
        axis.set_ylim(bottom=0)
        axis.set_xlabel("timestep t (noise grows to the right)")
    figure.legend(*accuracy.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def verdict(diagnosis: Diagnosis) -> list[str]:
    """Sentences on accuracy, calibration and gradient, and a scale to start from."""
    informed = [level for level in diagnosis.levels if diagnosis.is_informed(level)]
    sentences: list[str] = []
    if diagnosis.trained_on_it:
        sentences.append(
            "These images are not held out: the classifier was trained on this folder, which flatters every number."
        )
    if not informed or diagnosis.scale is None:
        return [
            *sentences,
            "It is no better than chance at any noise level. Guidance by it would add noise and no class: train it "
            "longer, and make sure that images and labels match.",
        ]
    sentences += [_accuracy(diagnosis, informed), _calibration(diagnosis, informed, diagnosis.scale)]
    if not diagnosis.guides:
        return [
            *sentences,
            "It was trained on clean images: it judges samples, or guides at the estimate of x_0 by "
            "--guidance.clean_classifier.name classifier:RUN, but not as --classifier.",
        ]
    effective = [level for level in diagnosis.levels if level.correction > NEGLIGIBLE]
    if not effective:
        return [
            *sentences,
            f"It guides nothing: at scale 1 it corrects eps by less than {NEGLIGIBLE:g} of it everywhere.",
        ]
    worst = max(effective, key=lambda level: level.slope_error)
    if worst.slope_error > SOUND:
        return [
            *sentences,
            f"Its gradient is NOT sound: it misses the slope of log p(y | x_t) by {worst.slope_error:.1%} at "
            f"t = {worst.t:g}; do not guide by it before the cause is found (precision, or a broken backward).",
        ]
    return [*sentences, _sound(effective, worst), _starting_scale(diagnosis.scale)]


def _accuracy(diagnosis: Diagnosis, informed: Sequence[LevelReport]) -> str:
    first, last = informed[0], informed[-1]
    known = f"at {_right(first)}" if last is first else f"from {_right(first)}, to {_right(last)}"
    span = f"It knows the classes {known}."
    best = max(level.accuracy for level in informed)
    if best < WEAK:
        span = f"It is weak: it errs on {1 - best:.1%} at its best level; train it longer before it guides. {span}"
    if last is diagnosis.levels[-1]:
        return span
    return (
        f"{span} In more noise than that it is no better than chance, and its gradient means nothing: "
        f"--guidance.sigma_max {math.ceil(100 * sigma(last.alpha_bar)) / 100:g} leaves those levels unguided."
    )


def _right(level: LevelReport) -> str:
    return f"t = {level.t:g}, {level.accuracy:.1%} right"


def _calibration(diagnosis: Diagnosis, informed: Sequence[LevelReport], scale: float) -> str:
    chance = math.log(diagnosis.chance)
    worst = max(informed, key=lambda level: level.calibration_error)
    error = f"calibration error up to {worst.calibration_error:.3f}, at t = {worst.t:g}"
    overfit = [level for level in informed if level.log_likelihood < chance]
    if overfit:
        level = min(overfit, key=lambda level: level.log_likelihood)
        return (
            f"It is overfit: at {_right(level)}, yet the right class has {level.log_likelihood:.2f} nats, less than "
            f"the {chance:.2f} of chance, because it is sure of its errors ({error}). Early stopping "
            f"(--training.stop_after_worse), random crops and flips, weight decay or --entropy_weight help."
        )
    if scale == SCALE_LIMIT:
        return "It makes no error at the levels above chance, so these images cannot show whether it is overconfident."
    if scale < 1 / RESOLUTION:
        return f"It is overconfident: its log-probabilities are calibrated when scaled by {scale:.2g} ({error})."
    if scale > RESOLUTION:
        return f"It is underconfident: its log-probabilities are calibrated when scaled by {scale:.2g} ({error})."
    return f"It is calibrated: scaling its log-probabilities by {scale:.2g}, about 1, is best ({error})."


def _sound(effective: Sequence[LevelReport], worst: LevelReport) -> str:
    least, most = min(effective, key=lambda level: level.correction), max(effective, key=lambda level: level.correction)
    return (
        f"Its gradient is sound, the slope of log p(y | x_t) to within {worst.slope_error:.1g}. At scale 1 it corrects "
        f"eps by {least.correction:.2%} (t = {least.t:g}) to {most.correction:.2%} of it (t = {most.t:g})."
    )


def _starting_scale(scale: float) -> str:
    if scale == 0:
        return "There is no scale to start from: on these images its log-probabilities say less than a guess does."
    start = 1.0 if scale == SCALE_LIMIT else scale
    reason = "nothing here says otherwise" if scale == SCALE_LIMIT else "it calibrates p(y | x_t)"
    return (
        f"Start from --guidance.scale {start:.2g} ({reason}) and go up by factors of 2: this makes no promise about "
        f"looks, for which ADM's models were sampled at 0.5 to 10 (table 14), trading diversity for likeness."
    )
