"""Settings of guidance, and the table of scores of classifiers of noisy images."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch

from ..config import check_at_least
from ..data.labels import parse_label
from .classifier import classifier_score, entropy_scaled_score
from .divergence import divergence_score, forward_kl
from .feedback import feedback_score
from .score import LogProb, ScoreTerm

if TYPE_CHECKING:
    from .run import Guidance

ScoreName = Literal["plain", "entropy_scaled", "feedback", "forward_kl"]

LARGEST_STRENGTH = 1e6
"""Of any scale or weight. Published ones are below 100; from about 1e30 on, float32 overflows in the first step."""

CLASSIFIER_OPTIONS = ("scale", "class_scales", "score", "score_options", "scale_outside", "further", "cap")
"""Fields of `GuidanceConfig` that say something of `--classifier`."""

ClassifierScore = Callable[..., ScoreTerm]
"""(log_prob, y, scale) -> the score term of a classifier for labels y (B,). Keywords with a default are its options."""

CLASSIFIER_SCORES: Mapping[ScoreName, ClassifierScore] = {
    "plain": classifier_score,
    "entropy_scaled": entropy_scaled_score,
    "feedback": feedback_score,
    "forward_kl": partial(divergence_score, forward_kl),
}


@dataclass(frozen=True, kw_only=True)
class ClassifierFreeConfig:
    """Classifier-free guidance (2207.12598), by a model trained with label_dropout."""

    weight: float | None = None
    """w in D_null + w (D_y - D_null): 0 is the model without the class, 1 the conditional model as it is; null: no such
    guidance. The paper's own w is one less."""


@dataclass(frozen=True, kw_only=True)
class AutoguidanceConfig:
    """Autoguidance (2406.02507): extrapolation away from a weaker diffusion model."""

    model: str | None = None
    """Run directory or checkpoint of the weaker model, on the same chain, and after a colon its weights, such as
    runs/small or runs/big:ema_0.999."""
    weight: float | None = None
    """w in D_weak + w (D - D_weak): 1 is no guidance; about 2 is usual."""


@dataclass(frozen=True, kw_only=True)
class CleanClassifierConfig:
    """Guidance by a classifier of clean images, evaluated at the estimate of x_0, with any sampler."""

    name: str | None = None
    """torchvision:resnet50 and the like, with ImageNet's classes; torchvision:resnet50:FILE, with weights of that file;
    classifier:RUN, trained here without --diffusion; or your own, MODULE:ATTRIBUTE, importable from the working
    directory: a network of images in [-1, 1], a `clean_classifier(..)`, or a function that returns one."""
    scale: float | None = None
    """s of its gradient; null: 1, which is mild: digits took 4 (docs/guidance.md); go up by factors of 2."""
    gradient: Literal["x_0", "x_t"] = "x_0"
    """Variable of the gradient: the estimate of x_0, with Softplus for ReLU and tempered logits (EluCD, 2310.11311), or
    x_t, through the network, which costs its backward pass as well."""


@dataclass(frozen=True, kw_only=True)
class GuidanceConfig:
    """Kinds of guidance and their strengths."""

    scale: float | None = None
    """s in s * grad log p(y | x_t) of --classifier; null: 1, which is Bayes' rule. Tuned values lie between 0.5 and 10
    (ADM table 14)."""
    class_scales: dict[int | str, float] = field(default_factory=dict[int | str, float])
    """Other scales for some classes, by label or name: '{3: 2.5, cat: 4}'; the others keep `scale`."""
    score: ScoreName = "plain"
    """Score of the classifiers. entropy_scaled divides the scale by the entropy of each prediction over the largest
    possible (ED-DPM, 2206.11474): 1 is then Bayes' rule where a classifier is wholly uncertain and more elsewhere.
    forward_kl subtracts the divergence of the prediction from the label, smoothed (2511.05844); feedback is stronger
    where the prediction is wrong, by the share pi of sound labels (2506.06085)."""
    score_options: dict[str, float] = field(default_factory=dict[str, float])
    """Numbers of `score` that are not its defaults: of forward_kl '{weight: 1, smoothing: 0.3}', of feedback
    '{pi: 0.9}'."""
    further: dict[str, float] = field(default_factory=dict[str, float])
    """More classifiers trained on the same noise, with scales of their own, whose scores are added to --classifier's:
    '{runs/other: 2.0}', run directories or checkpoints."""
    classifier_free: ClassifierFreeConfig = ClassifierFreeConfig()
    """Extrapolation from the same model without the class."""
    autoguidance: AutoguidanceConfig = AutoguidanceConfig()
    """Extrapolation from a weaker model."""
    clean_classifier: CleanClassifierConfig = CleanClassifierConfig()
    """A classifier that was not trained on noise."""
    function: str | None = None
    """Any differentiable function of images as a log-density: your own, MODULE:NAME, importable from the working
    directory, of the estimate of x_0 unless it is marked noisy or through_network; measurement, of a linear operator
    y = A x_0 + noise: inpainting, super-resolution, deblurring; or a run of train_classifier: regression and attributes
    (--target), discriminator (of real against generated images). See docs/guidance.md."""
    function_options: dict[str, Any] = field(default_factory=dict[str, Any])
    """Options of the function by name: '{target: 0.3}'."""
    function_scale: float | None = None
    """s of the function's gradient; null: 1, which is Bayes' rule where its values are log-likelihoods in nats."""
    particles: int = 1
    """Particles of each sample, by which ddpm, dpmpp_2m_sde and ddim with noise sample p(x) p(y | x)^s itself: guided,
    weighted, resampled, and one drawn at the end; 1 is guidance alone. Costs as many times as much."""
    particle_weight: Literal["twisted", "feynman_kac"] = "twisted"
    """Weight of particles. twisted is exact for the sampler's own chain as particles grow in number; feynman_kac as
    links shrink, and varies less where the classifier is rough."""
    sigma_min: float = 0.0
    """Guide only above this noise level, sqrt(1 / alpha_bar - 1); below it no guidance network is evaluated."""
    sigma_max: float = float("inf")
    """Guide only up to this noise level."""
    scale_outside: float = 0.0
    """s of the classifiers outside that interval. With an exact classifier, 1 there and more below sigma_max 1 keeps
    modes and moments best (docs/guidance.md)."""
    cap: float | None = None
    """Largest move of x_0 by scores of x_t, a root mean square over pixels in [-1, 1], such as 0.5 (2410.02416): less
    harm by a wrong classifier. null: none."""

    def __post_init__(self) -> None:
        if not 0 <= self.sigma_min < self.sigma_max:
            raise ValueError(
                f"guidance acts where guidance.sigma_min < sigma <= guidance.sigma_max; got {self.sigma_min:g} and "
                f"{self.sigma_max:g}"
            )
        check_at_least(self, particles=1)
        if self.particles == 1 and self.particle_weight != type(self).particle_weight:
            raise ValueError(
                f"guidance.particle_weight {self.particle_weight} weighs particles, and there is one; give "
                f"guidance.particles"
            )
        if self.scale_outside and not self.is_limited:
            raise ValueError(
                f"guidance.scale_outside {self.scale_outside:g} acts outside an interval of noise levels, and there is "
                f"none; give guidance.sigma_max, such as 1, or guidance.sigma_min"
            )
        weaker = self.autoguidance
        if (weaker.model is None) != (weaker.weight is None):
            raise ValueError(
                f"a weaker model and the weight to extrapolate by go together; got guidance.autoguidance.model "
                f"{weaker.model} and guidance.autoguidance.weight {weaker.weight}"
            )
        if weaker.model is not None and self.classifier_free.weight is not None:
            raise ValueError(
                "guidance.classifier_free and guidance.autoguidance both extrapolate, each from another model; give one"
            )
        if self.cap is not None and not self.cap > 0:
            raise ValueError(f"guidance.cap is a distance above 0, or null; got {self.cap:g}")
        never_called: LogProb = torch.add  # a score checks its options before it has anything to evaluate
        self.score_function(never_called, torch.empty(0), 0.0)
        for name, value in self.strengths.items():
            if not abs(value) <= LARGEST_STRENGTH:
                most = f"{LARGEST_STRENGTH:g}"
                raise ValueError(f"{name} must be a number between -{most} and {most}, got {value:g}")

    @property
    def score_function(self) -> ClassifierScore:
        """The score of the classifiers, with its options."""
        return partial(CLASSIFIER_SCORES[self.score], **self.all_score_options())

    def all_score_options(self) -> dict[str, float]:
        """The options of `score`, those that are not given at their defaults.

        Raises:
            ValueError: an option that it does not have.
        """
        parameters = inspect.signature(CLASSIFIER_SCORES[self.score]).parameters.items()
        defaults = {name: its.default for name, its in parameters if its.default is not its.empty}
        for name in self.score_options:
            if name not in defaults:
                own = f"its options are {', '.join(defaults)}" if defaults else "it has none"
                raise ValueError(f"guidance.score {self.score} has no option {name} (guidance.score_options); {own}")
        return defaults | self.score_options

    @property
    def strengths(self) -> dict[str, float]:
        """The scales and weights that are given, by option."""
        strengths = {
            "scale": self.scale,
            "classifier_free.weight": self.classifier_free.weight,
            "autoguidance.weight": self.autoguidance.weight,
            "clean_classifier.scale": self.clean_classifier.scale,
            "scale_outside": self.scale_outside or None,
            "function_scale": self.function_scale,
        }
        strengths |= {f"class_scales of {name}": scale for name, scale in self.class_scales.items()}
        strengths |= {f"further of {name}": scale for name, scale in self.further.items()}
        return {f"guidance.{name}": value for name, value in strengths.items() if value is not None}

    @property
    def weighing(self) -> dict[str, int | str]:
        """The options of particles, where there are several."""
        return {} if self.particles == 1 else {"particles": self.particles, "particle_weight": self.particle_weight}

    @property
    def is_limited(self) -> bool:
        """True where guidance acts in an interval of noise levels only."""
        return self.sigma_min > 0 or self.sigma_max < float("inf")

    def scales_by_label(self, class_names: Sequence[str]) -> dict[int, float]:
        """`class_scales` by label, in the order of labels.

        Raises:
            ValueError: an unknown class, or one named twice.
        """
        named: dict[int, int | str] = {}
        for key in self.class_scales:
            label = parse_label(str(key), class_names)
            if label in named:
                raise ValueError(
                    f'guidance.class_scales has two scales for class {label}, "{class_names[label]}": under '
                    f'"{named[label]}" and "{key}"; give one'
                )
            named[label] = key
        return {label: self.class_scales[key] for label, key in sorted(named.items())}


def check_settings(guidance: "Guidance") -> None:
    """Refuse, by a ValueError, settings of guides that are not there."""
    if guidance.clean is None and guidance.config.clean_classifier != CleanClassifierConfig():
        raise ValueError(
            "guidance.clean_classifier has settings but no classifier; add --guidance.clean_classifier.name NAME"
        )
    config, plain, function = guidance.config, GuidanceConfig(), guidance.function
    if function is None and (config.function_options or config.function_scale is not None):
        raise ValueError(
            "guidance.function has options or a scale, but no function; add --guidance.function MODULE:NAME"
        )
    if guidance.classifier is not None:
        return
    given = {f"guidance.{name}": getattr(config, name) for name in CLASSIFIER_OPTIONS
             if getattr(config, name) != getattr(plain, name)}  # fmt: skip
    if function is None or function.place != "x_t":
        given |= {f"sampler.{name}": value for name, value in guidance.sampler.guidance_record().items()}
    is_guided = bool(guidance.weaker or guidance.clean or function) or config.classifier_free.weight is not None
    if config.is_limited and not is_guided:
        given |= {"guidance.sigma_min": config.sigma_min, "guidance.sigma_max": config.sigma_max}
    if given:
        shown = ", ".join(f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
                          for name, value in given.items())  # fmt: skip
        raise ValueError(f"guidance was asked for without a classifier ({shown}); add --classifier RUN")
