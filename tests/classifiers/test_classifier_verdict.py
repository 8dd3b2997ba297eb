"""The verdict on constructed diagnoses, one for each thing that it can say."""

from dataclasses import replace
from typing import Any

import pytest

from classifiers.calibration import SCALE_LIMIT
from classifiers.diagnosis import Diagnosis, LevelReport, PairReport
from classifiers.diagnosis_verdict import verdict
from classifiers.information import Information
from classifiers.martingale import Bin

LEVEL = LevelReport(
    t=0.0, alpha_bar=0.99, accuracy=0.9, log_likelihood=-0.3, confidence=0.9, calibration_error=0.02, entropy=0.2,
    correction=0.05, slope_error=1e-6,
)  # fmt: skip
NOISE = replace(
    LEVEL, t=999.0, alpha_bar=1e-4, accuracy=0.11, log_likelihood=-2.31, confidence=0.12, entropy=1.0, correction=0.01
)


def diagnosis(*levels: LevelReport, **changes: Any) -> Diagnosis:
    usual = {
        "classifier": "classifier/checkpoint-0000001", "data": "heldout", "num_images": 1000, "trained_on_it": False,
        "guides": True, "chance": 0.1, "commonest": 0.1, "scale": 1.1,
    }  # fmt: skip
    return Diagnosis(
        levels=levels or (LEVEL, replace(LEVEL, t=500.0, alpha_bar=0.5, accuracy=0.4), NOISE), **(usual | changes)
    )


def said(*levels: LevelReport, **changes: Any) -> str:
    return " ".join(verdict(diagnosis(*levels, **changes)))


def test_a_good_classifier_is_called_so():
    text = said()
    assert "knows the classes from t = 0, 90.0% right, to t = 500, 40.0% right" in text
    assert "--guidance.sigma_max 1 leaves those levels unguided" in text  # alpha_bar 0.5
    assert "is calibrated" in text
    assert "gradient is sound" in text
    assert "by 1.00% (t = 999) to 5.00% of it (t = 0)" in text
    assert "Start from --guidance.scale 1.1" in text
    for fault in ("overfit", "overconfident", "underconfident", "NOT", "not held out"):
        assert fault not in text


def test_a_classifier_that_knows_something_at_every_level_needs_no_limit():
    assert "sigma_max" not in said(LEVEL, replace(LEVEL, t=999.0, accuracy=0.2))


@pytest.mark.parametrize("scale", [None, 2.0])
def test_a_random_network_is_no_better_than_chance_and_gets_no_scale(scale):
    random = [replace(NOISE, t=t) for t in (0.0, 999.0)]
    text = said(*random, scale=scale)
    assert "no better than chance at any noise level" in text
    assert "--guidance.scale" not in text


def test_an_overconfident_classifier_is_told_from_an_underconfident_one():
    worst = replace(LEVEL, t=300.0, calibration_error=0.2)
    text = said(LEVEL, worst, scale=0.5)
    assert (
        "overconfident: its log-probabilities are calibrated when scaled by 0.5 "
        "(calibration error up to 0.200, at t = 300)" in text
    )
    assert "Start from --guidance.scale 0.5" in text
    text = said(LEVEL, worst, scale=2.0)
    assert "underconfident: its log-probabilities are calibrated when scaled by 2" in text
    assert "is calibrated" not in text


def test_right_but_less_likely_than_chance_is_overfit():
    text = said(replace(LEVEL, accuracy=0.6, log_likelihood=-4.2, calibration_error=0.35), scale=0.2)
    assert "overfit: at t = 0, 60.0% right, yet the right class has -4.20 nats, less than the -2.30 of chance" in text
    assert "calibration error up to 0.350" in text
    # Below chance where it knows nothing is no overfitting.
    assert "overfit" not in said(LEVEL, replace(NOISE, log_likelihood=-9.0))


def test_a_gradient_that_is_no_slope_is_named_with_its_worst_level():
    text = said(LEVEL, replace(LEVEL, t=300.0, slope_error=0.2))
    assert "NOT sound: it misses the slope of log p(y | x_t) by 20.0% at t = 300" in text
    assert "--guidance.scale" not in text


def test_gradients_too_small_to_matter_are_not_judged():
    assert "gradient is sound" in said(LEVEL, replace(LEVEL, t=1.0, correction=1e-6, slope_error=0.5))
    text = said(replace(LEVEL, correction=1e-6, slope_error=0.5))
    assert "guides nothing" in text
    assert "--guidance.scale" not in text


def test_images_without_an_error_cannot_calibrate_and_give_scale_one():
    text = said(LEVEL, scale=SCALE_LIMIT)
    assert "cannot show whether it is overconfident" in text
    assert "Start from --guidance.scale 1 " in text


def test_log_probabilities_worse_than_a_guess_get_no_scale():
    assert "There is no scale to start from" in said(LEVEL, scale=0.0)


def test_a_judge_of_clean_images_guides_at_the_estimate_alone():
    text = said(LEVEL, guides=False)
    assert "guides at the estimate of x_0 by --guidance.clean_classifier.name classifier:RUN, but not as" in text
    assert "--guidance.scale" not in text


def test_a_classifier_that_errs_more_often_than_not_is_called_weak():
    text = said(replace(LEVEL, accuracy=0.3), replace(LEVEL, t=500.0, accuracy=0.2))
    assert "It is weak: it errs on 70.0% at its best level; train it longer before it guides. It knows the" in text
    assert "weak" not in said()


def test_training_images_are_called_what_they_are():
    assert verdict(diagnosis(trained_on_it=True))[0].startswith("These images are not held out")


def test_better_than_chance_means_beyond_a_constant_answer_and_beyond_luck():
    level = replace(LEVEL, accuracy=0.15)
    assert diagnosis(commonest=0.1, num_images=1000).is_informed(level)
    assert not diagnosis(commonest=0.1, num_images=100).is_informed(level)  # 3 standard errors are 0.09
    assert not diagnosis(commonest=0.2, num_images=1000).is_informed(level)
    usual = diagnosis()
    assert [level.t for level in usual.levels if usual.is_informed(level)] == [0.0, 500.0]


def pair(t: float, s: float, *, spent: float, gained: float, change: float = 0.0) -> PairReport:
    bins = tuple(Bin(count=1000, p_t=p, p_s=p + change, standard_error=0.01) for p in (0.25, 0.75))
    return PairReport(t=t, s=s, spent=spent, gained=gained, moved=0.0, z=abs(change) / 0.01, bins=bins)


def informed(spent: float, *, noisy: float = 0.1, change: float = 0.0) -> str:
    """The verdict where 2.0 nats are known; `noisy` is spent between the last level above chance and pure noise."""
    levels = [replace(LEVEL, nats=1.0), replace(LEVEL, t=500.0, alpha_bar=0.5, accuracy=0.4, nats=spent - 1.25),
              replace(NOISE, nats=0.25)]  # fmt: skip
    information = Information(spent=spent, standard_error=0.05, known=2.0, ceiling=2.3)
    pairs = (
        *(pair(0, 0, spent=0.0, gained=0.0) for _ in range(8)),  # 10 pairs, as of 11 levels
        pair(500, 0, spent=spent - noisy, gained=1.9), pair(999, 500, spent=noisy, gained=0.1, change=change),
    )  # fmt: skip
    return said(*levels, information=information, pairs=pairs)


def test_nats_are_held_against_what_is_known_and_what_can_be():
    text = informed(2.1)
    assert "At scale 1 its guidance spends 2.10 nats (standard error 0.05), 0.25 of them at noise levels where" in text
    assert "It knows 2.00 at t = 0, and at most 2.30 can be known. That is what it knows, to within 0.20" in text
    assert "It spends less than it knows" in informed(1.7)
    assert "It spends more than it knows: 0.40 nats go into errors of its gradients" in informed(2.4)
    assert "It spends more than can be known: 1.00 nats" in informed(3.0)
    few = (pair(999, 0, spent=0.8, gained=2.0),)
    information = Information(spent=0.8, standard_error=0.05, known=2.0, ceiling=2.3)
    assert "More images or --levels are needed to compare" in said(information=information, pairs=few)
    assert "nats" not in said()


def test_nats_in_noise_are_spared_by_an_interval_and_others_are_not():
    text = informed(3.0, noisy=0.9)
    assert "between t = 500 and 999, where it spends 0.90 and gains 0.10" in text
    assert "The above --guidance.sigma_max spares 0.90" in text
    assert "Train it longer" not in text
    text = informed(3.0)
    assert "between t = 0 and 500, where it spends 2.90 and gains 1.90" in text
    assert "spares 0.10. Train it longer, or if it is overfit on more images" in text


def test_levels_that_contradict_each_other_are_named_with_what_they_say():
    assert "It is consistent between noise levels: along a noising path its probabilities keep their" in informed(2.1)
    assert "to within 2.0 standard errors" in informed(2.1, change=0.02)
    text = informed(2.1, change=-0.1)
    assert "contradicts itself at 1 of 10 pairs of noise levels: classes of p = 0.250 at t = 999 have 0.150 on" in text
    assert "(10.0 standard errors)" in text
