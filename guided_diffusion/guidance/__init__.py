"""Guidance as a score, and as a denoiser made of others; all of it composes by nesting.

A `ScoreTerm` is s * grad_{x_t} log p(y | x_t), the part that Bayes' rule adds to the score of x_t. There are two places
to put it: `ddpm(..., mean_shift=term)` adds Sigma * term to the mean (ADM Algorithm 1), and `tilted(denoiser, term)`
subtracts sqrt(1 - alpha_bar) * term from eps (ADM Algorithm 2), which works with every sampler. `extrapolated`,
`guided_through` and `guided_at_estimate` make a denoiser of denoisers. docs/guidance.md says what a strength of 0 and 1
means to each of them.
"""

from .cap import capped
from .classifier import class_log_density, classifier_score, entropy_scaled_score
from .classifier_free import extrapolated
from .discriminator import log_odds
from .divergence import divergence_score
from .estimate import clean_log_density, guided_at_estimate, guided_through, joint_log_prob
from .feedback import feedback_score
from .function import Guide, at_estimate, noisy, through_network
from .interval import between, within
from .score import LogDensity, LogProb, ScoreTerm, score_of, summed, tilted

__all__ = [
    "Guide",
    "LogDensity",
    "LogProb",
    "ScoreTerm",
    "at_estimate",
    "between",
    "capped",
    "class_log_density",
    "classifier_score",
    "clean_log_density",
    "divergence_score",
    "entropy_scaled_score",
    "extrapolated",
    "feedback_score",
    "guided_at_estimate",
    "guided_through",
    "joint_log_prob",
    "log_odds",
    "noisy",
    "score_of",
    "summed",
    "through_network",
    "tilted",
    "within",
]
