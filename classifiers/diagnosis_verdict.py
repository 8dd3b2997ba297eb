"""Verdict of a diagnosis, in words."""

import math
from collections.abc import Sequence
from statistics import NormalDist

from guided_diffusion.diffusion.chain import sigma

from .calibration import SCALE_LIMIT
from .diagnosis import Diagnosis, LevelReport, PairReport
from .information import Information

RESOLUTION = 1.25
"""Scales within this factor count as equal: ADM's tuned scales (table 14) are a quarter apart or more."""

SOUND = 0.01
"""Largest relative error of a sound slope: a hundred times float32's rounding, a hundredth of a visible effect."""

WEAK = 0.5
"""Accuracy at its best level below which a classifier is called weak, though above chance."""

NEGLIGIBLE = 1e-4
"""Corrections below this share of eps change no pixel and may be rounding alone."""

INTERPOLATION = 5.0
"""The sum of the nats over all links may err by this share over the square of the number of pairs of levels: by 0.05
at 11 levels, where 0.03 was measured on Gaussians and 0.02 on digits."""

FALSE_ALARMS = 0.01
"""Share of the exact classifiers that the martingale test of all bins and pairs of levels calls inconsistent."""


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
    if diagnosis.pairs:
        sentences.append(_consistency(diagnosis.pairs))
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
    sentences.append(_sound(effective, worst))
    if diagnosis.information is not None:
        sentences.append(_information(diagnosis, diagnosis.information))
    return [*sentences, _starting_scale(diagnosis.scale)]


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
    return f"It is calibrated: the best scale of its log-probabilities is {scale:.2g} ({error})."


def _consistency(pairs: Sequence[PairReport]) -> str:
    pair = max(pairs, key=lambda pair: pair.z)
    limit = NormalDist().inv_cdf(1 - FALSE_ALARMS / 2 / sum(len(pair.bins) for pair in pairs))
    if pair.z <= limit:
        return (
            f"It is consistent between noise levels: along a noising path its probabilities keep their mean, to within "
            f"{pair.z:.1f} standard errors."
        )
    failed = sum(pair.z > limit for pair in pairs)
    return (
        f"It contradicts itself at {failed} of {len(pairs)} pairs of noise levels: classes of p = {pair.worst.p_t:.3f} "
        f"at t = {pair.t:g} have {pair.worst.p_s:.3f} on average at t = {pair.s:g} of the same noising paths "
        f"({pair.z:.1f} standard errors), where an exact classifier keeps the mean. One of the two levels is wrong, "
        f"however well each is calibrated."
    )


def _information(diagnosis: Diagnosis, found: Information) -> str:
    wasted = sum(level.nats or 0.0 for level in diagnosis.levels if not diagnosis.is_informed(level))
    spends = (
        f"At scale 1 its guidance spends {found.spent:.2f} nats (standard error {found.standard_error:.2f}), "
        f"{wasted:.2f} of them at noise levels where it is no better than chance. It knows {found.known:.2f} at "
        f"t = {diagnosis.levels[0].t:g}, and at most {found.ceiling:.2f} can be known."
    )
    margin = 2 * found.standard_error + INTERPOLATION / len(diagnosis.pairs) ** 2 * found.known
    if margin > found.known:
        return f"{spends} More images or --levels are needed to compare what it spends and what it knows."
    if found.spent < found.known - margin:
        return f"{spends} It spends less than it knows: its gradients are flatter than its probabilities say."
    if found.spent <= found.known + margin:
        return f"{spends} That is what it knows, to within {margin:.2f}, as for an exact classifier."
    limit = "can be known" if found.spent > found.ceiling + margin else "it knows"
    return f"{spends} It spends more than {limit}: {_excess(diagnosis, found)}"


def _excess(diagnosis: Diagnosis, found: Information) -> str:
    """The excess of the nats, the pair of levels with most of it, and the remedy."""
    last = max(level.t for level in diagnosis.levels if diagnosis.is_informed(level))
    unguided = sum(pair.spent for pair in diagnosis.pairs if pair.s >= last)
    excess, pair = found.spent - found.known, max(diagnosis.pairs, key=lambda pair: pair.spent - pair.gained)
    remedy = f"The above --guidance.sigma_max spares {unguided:.2f}." if unguided else ""
    if unguided < excess / 2:
        remedy = f"{remedy} Train it longer, or if it is overfit on more images, crops and flips.".lstrip()
    return (
        f"{excess:.2f} nats go into errors of its gradients, the most between t = {pair.s:g} and {pair.t:g}, where it "
        f"spends {pair.spent:.2f} and gains {pair.gained:.2f}. {remedy}"
    )


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
