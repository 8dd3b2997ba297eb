"""Guidance as a score, and as a denoiser made of others.

A `ScoreTerm` is s * grad_{x_t} log p(y | x_t), the part that Bayes' rule adds to the score of x_t. There are two places
to put it: `ddpm(..., mean_shift=term)` adds Sigma * term to the mean (ADM Algorithm 1), and `tilted(denoiser, term)`
subtracts sqrt(1 - alpha_bar) * term from eps (ADM Algorithm 2), which works with every sampler. Guidance that needs no
classifier is `extrapolated`, and classifiers of clean images are asked about the estimate of x_0 (`guided_through`,
`guided_at_estimate`): denoisers in, denoiser out. All of it composes by nesting.

What strength 1 means: `classifier_score` Bayes' rule, so with an exact classifier the class's own distribution, and 0
no guidance; `entropy_scaled_score` the same where the classifier knows nothing, more wherever it knows something;
`extrapolated` the denoiser `main`, so with an unconditional reference the conditional model without any guidance, and
with a weaker one no guidance; `guided_through` Bayes' rule if the classifier's log-probability were linear in x_0;
`guided_at_estimate` nothing exact. Above 1 all of them sharpen.
"""

from .classifier import ENTROPY_FLOOR, classifier_score, entropy_scaled_score
from .classifier_free import extrapolated
from .estimate import guided_at_estimate, guided_through, joint_log_prob, sine_schedule
from .interval import between, within
from .score import CleanLogProb, LogProb, Scale, ScoreTerm, summed, tilted

__all__ = [
    "ENTROPY_FLOOR",
    "CleanLogProb",
    "LogProb",
    "Scale",
    "ScoreTerm",
    "between",
    "classifier_score",
    "entropy_scaled_score",
    "extrapolated",
    "guided_at_estimate",
    "guided_through",
    "joint_log_prob",
    "sine_schedule",
    "summed",
    "tilted",
    "within",
]
