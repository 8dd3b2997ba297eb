"""The verdict on a classifier's diagnosis, in plain sentences."""

import math
from collections.abc import Sequence

from guided_diffusion.diffusion.chain import sigma

from .calibration import SCALE_LIMIT
from .diagnosis import Diagnosis, LevelReport

RESOLUTION = 1.25
"""Scales within this factor count as equal: ADM's tuned scales (table 14) are a quarter apart or more."""

SOUND = 0.01
"""Largest relative error of a sound slope: a hundred times float32's rounding, a hundredth of a visible effect."""

NEGLIGIBLE = 1e-4
"""Corrections below this share of eps change no pixel and may be rounding alone."""


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
        return [*sentences, "It was trained on clean images, so it can judge samples and guides none."]
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
