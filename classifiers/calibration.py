"""Accuracy, likelihood and calibration of a classifier's predictions.

Throughout, log_p (N, C) are log-probabilities in nats and y (N,) int64 the right classes, on one device.
"""

import math

from torch import Tensor

SCALE_LIMIT = 100.0
"""Upper limit of `calibrating_scale`, where all probabilities are 0 or 1 already."""

_ROWS = 4096
"""Predictions at a time in float64 in the search for a scale."""


def accuracy(log_p: Tensor, y: Tensor) -> float:
    """Share of the images whose likeliest class is the right one, 0..1."""
    return float((log_p.argmax(dim=1) == y).double().mean())


def log_likelihood(log_p: Tensor, y: Tensor) -> float:
    """Mean log-probability of the right class, nats; -log C is chance."""
    return float(log_p.gather(1, y[:, None]).double().mean())


def mean_confidence(log_p: Tensor) -> float:
    """Mean probability of the likeliest class, 0..1; above the accuracy where a classifier is overconfident."""
    return float(log_p.amax(dim=1).double().exp().mean())


def normalized_entropy(log_p: Tensor) -> float:
    """Mean entropy of the prediction over that of the uniform one, log C: 0 is certain, 1 uniform."""
    entropy = -(log_p.double().exp() * log_p.double()).sum(dim=1)
    return float(entropy.mean()) / math.log(log_p.shape[1])


def calibration_error(log_p: Tensor, y: Tensor, *, bins: int = 15) -> float:
    """Expected calibration error (1706.04599 eq. 3): the mean |accuracy - confidence| of the images' bins, 0..1.

    Bins are equally wide and include their upper ends. Those of torchmetrics' metric include the lower ends, so that
    a confidence of exactly 1, which float32 often reaches, is in a bin of its own.
    """
    log_confidence, predicted = log_p.max(dim=1)
    confidence = log_confidence.double().exp()
    index = (confidence * bins).ceil().long().clamp(1, bins) - 1
    excess = confidence - (predicted == y).double()
    return float(excess.new_zeros(bins).index_add(0, index, excess).abs().sum() / len(y))


def calibrating_scale(log_p: Tensor, y: Tensor) -> float:
    """s* = argmax over s in [0, SCALE_LIMIT] of mean log softmax(s * log_p)[y], the inverse of temperature scaling's T.

    Below 1 the classifier was overconfident, above 1 underconfident. softmax(s * log_p) is p(y | x)^s normalised over
    the classes. Guidance with scale s follows the gradient of log p(y | x)^s without that normaliser (ADM section 4.3),
    so s* calibrates the probabilities and need not be the scale of the best samples. The mean is concave in s: its
    derivative, the mean of log p(y) - E_{c ~ softmax(s * log_p)}[log p(c)], falls to 0 once.
    """
    from scipy.optimize import root_scalar  # here, since it is slow to import and training has no use for it

    def derivative(s: float) -> float:
        total = 0.0
        for rows, labels in zip(log_p.split(_ROWS), y.split(_ROWS), strict=True):
            logits = rows.double()
            # Terms of right predictions are never negative, so that rounding cannot make a root of a flat end.
            lead = logits.gather(1, labels[:, None]) - logits
            total += float(((s * logits).softmax(dim=1) * lead).sum())
        return total / len(y)

    if derivative(0.0) <= 0:
        return 0.0
    if derivative(SCALE_LIMIT) >= 0:
        return SCALE_LIMIT
    return float(root_scalar(derivative, bracket=(0.0, SCALE_LIMIT)).root)


def kl_to_uniform(log_p: Tensor) -> Tensor:
    """(N,) KL(p || uniform) = log C - H(p), nats, differentiable: 0 for the uniform prediction."""
    return math.log(log_p.shape[1]) + (log_p.exp() * log_p).sum(dim=1)
