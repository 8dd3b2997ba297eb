"""Guidance of a sampling run: load the networks, check that they fit the model, compose them, record them.

    tilted(between(guided_at_estimate(bounded(extrapolated(D, reference, w), clip), ..), bounded(D, clip), lo, hi),
           within(summed(score, ..), lo, hi))

without the parts that a config does not ask for. A sampler with a mean shift takes the score there, in place of the
outer `tilted`. Gradients through the network, `guided_through`, come before the clip. Scores of x_t and gradients
with respect to x_0 come after it, as published, and their result is not clipped again.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from classifiers.off_the_shelf import CleanClassifier, fitted, load_clean_classifier
from classifiers.trained_model import Classifier, load_classifier

from ..diffusion.chain import Step, sigma
from ..diffusion.denoiser import Clip, Denoiser, bounded
from ..diffusion.model import DiffusionModel, class_difference, load_diffusion, weights_record
from ..models.precision import CLASSIFIER, Precision, in_precision
from ..samplers import SamplerConfig
from .classifier_free import extrapolated
from .compatibility import check_classifier, check_images, check_null_class, check_weaker, refuse_difference
from .config import CleanClassifierConfig, GuidanceConfig
from .estimate import guided_at_estimate, guided_through, joint_log_prob
from .interval import between, is_inside, within
from .score import Scale, ScoreTerm, summed

C = TypeVar("C", Classifier, CleanClassifier)

CLASSIFIER_OPTIONS = ("scale", "class_scales", "score", "score_options", "further")
"""Fields of `GuidanceConfig` that say something of `--classifier`."""


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """All that guides a model's samples, loaded and checked against the model.

    Raises:
        ValueError: networks that do not fit the model, naming the difference; a strength without its network.
    """

    model: DiffusionModel
    config: GuidanceConfig = GuidanceConfig()
    sampler: SamplerConfig = SamplerConfig()
    classifier: Classifier | None = None
    further: tuple[Classifier, ...] = ()
    """In the order of `GuidanceConfig.further`."""
    weaker: DiffusionModel | None = None
    clean: CleanClassifier | None = None

    def __post_init__(self) -> None:
        model, run = self.model.config, self.model.checkpoint.path
        _check_requested(self)
        if self.config.classifier_free.weight is not None:
            check_null_class(model, run)
        if self.weaker is not None:
            check_weaker(self.model, self.weaker)
        if self.classifier is not None:
            known, called = self.classifier.class_names, self.classifier.name
            for one in (self.classifier, *self.further):
                check_classifier(model, one, run=run)
                refuse_difference(class_difference(known, one.class_names, model_called=called), one.name, called)
        if self.clean is not None:
            check_images(self.clean.name, self.clean.image_shape, model, run)
            self.clean.labels_of(self.class_names)  # refuses classes that it does not know
        self.config.scales_by_label(self.class_names)  # refuses unknown classes, and one named twice
        if self.config.is_limited:
            _check_interval(self)

    @property
    def knows_classes(self) -> bool:
        """True where the model is conditional or a classifier guides it."""
        return self.model.config.is_conditional or self.classifier is not None or self.clean is not None

    @property
    def class_names(self) -> tuple[str, ...]:
        """The diffusion model's, or where that has none those of its classifier."""
        classifiers = (one for one in (self.classifier, self.clean) if one is not None)
        return self.model.config.class_names or next((one.class_names for one in classifiers), ())

    def denoiser(self, y: Tensor, *, clip: Clip) -> Denoiser:
        """The model's, for labels y (B,), with all guidance that is not a score of x_t."""
        unclipped = self._extrapolated(y)
        guided = bounded(unclipped, clip) if self.clean is None else self._by_clean(self.clean, unclipped, y, clip=clip)
        if not self.config.is_limited:
            return guided
        return between(guided, self.model.denoiser(y, clip=clip), self.config.sigma_min, self.config.sigma_max)

    def term(self, y: Tensor) -> ScoreTerm | None:
        """The score of the classifiers of noisy images for labels y (B,); None without any."""
        if self.classifier is None:
            return None
        score = self.config.score_function
        classifiers, scales = (self.classifier, *self.further), (self._scale_of(y), *self.config.further.values())
        terms = [score(one.log_prob, y, scale) for one, scale in zip(classifiers, scales, strict=True)]
        term = summed(*terms) if len(terms) > 1 else terms[0]
        return within(term, self.config.sigma_min, self.config.sigma_max) if self.config.is_limited else term

    def network_evaluations(self, step: Step) -> int:
        """Evaluations of denoising networks, for each sample, in one call of `denoiser` at `step`."""
        is_active = not self.config.is_limited or is_inside(step, self.config.sigma_min, self.config.sigma_max)
        return 1 + (is_active and (self.weaker is not None or self.config.classifier_free.weight is not None))

    @property
    def instead_of_tilting(self) -> str | None:
        """The alternative, in words, to tilting x_0 by a gradient with respect to x_t; None where none tilts it."""
        if self.clean is not None and self.config.clean_classifier.gradient == "x_t":
            return "take guidance.clean_classifier.gradient x_0"
        is_tilted = self.classifier is not None and self.sampler.entry.guidance == "tilted"
        return "let the classifier guide ddpm" if is_tilted else None

    @property
    def strengths(self) -> dict[str, float]:
        """All scales and weights that guide the samples, by option."""
        networks = {"guidance.scale": self.classifier, "guidance.clean_classifier.scale": self.clean}
        return {name: 1.0 for name, network in networks.items() if network is not None} | self.config.strengths

    def record(self) -> dict[str, Any] | None:
        """The guidance as manifests record it; None without any."""
        config, clean = self.config, self.config.clean_classifier
        by_clean = {"scale": _or_one(clean.scale), "gradient": clean.gradient}
        by_clean |= {"jacobian": "sqrt(alpha_bar)"} if clean.gradient == "x_0" else {}
        further = zip(self.further, config.further.values(), strict=True)
        scales = config.scales_by_label(self.class_names)
        record: dict[str, Any] = {
            "scale": None if self.classifier is None else _or_one(config.scale),
            "sigma_min": config.sigma_min or None,
            "sigma_max": config.sigma_max if config.sigma_max < float("inf") else None,  # JSON has no infinity
            "class_scales": {str(label): scale for label, scale in scales.items()} or None,
            config.score: None if config.score == GuidanceConfig.score else config.all_score_options() or True,
            **self.sampler.guidance_record(),
            "further": [classifier_record(one) | {"scale": scale} for one, scale in further] or None,
            "free_weight": config.classifier_free.weight,
            "weak": self.weaker and weights_record(self.weaker) | {"weight": config.autoguidance.weight},
            "off_the_shelf": self.clean and classifier_record(self.clean) | by_clean,
        }
        return {name: value for name, value in record.items() if value is not None} or None

    def _extrapolated(self, y: Tensor) -> Denoiser:
        """The model's denoiser away from its reference, if any; not clipped."""
        main, free, auto = self.model.denoiser(y, clip=None), self.config.classifier_free, self.config.autoguidance
        if free.weight is not None:
            null = torch.full_like(y, self.model.config.null_label or 0)
            return extrapolated(main, self.model.denoiser(null, clip=None), free.weight)
        if self.weaker is not None and auto.weight is not None:
            return extrapolated(main, self.weaker.denoiser(y, clip=None), auto.weight)
        return main

    def _by_clean(self, clean: CleanClassifier, denoiser: Denoiser, y: Tensor, *, clip: Clip) -> Denoiser:
        """An unclipped `denoiser`, guided by a classifier of clean images and clipped."""
        labels = torch.tensor(clean.labels_of(self.class_names), device=y.device)[y]
        scale = _or_one(self.config.clean_classifier.scale)

        def log_prob(x_0: Tensor) -> Tensor:
            return clean.network(x_0).log_softmax(dim=1)

        def joint(x_0: Tensor) -> Tensor:
            return joint_log_prob(clean.network(x_0))

        if self.config.clean_classifier.gradient == "x_t":
            return bounded(guided_through(denoiser, log_prob, labels, scale), clip)
        return guided_at_estimate(bounded(denoiser, clip), joint, labels, scale)

    def _scale_of(self, y: Tensor) -> Scale:
        own, default = self.config.scales_by_label(self.class_names), _or_one(self.config.scale)
        if not own:
            return default
        scales = [own.get(label, default) for label in range(len(self.class_names))]
        return torch.tensor(scales, dtype=torch.float64, device=y.device)[y]


def load_guidance(
    config: GuidanceConfig,
    *,
    model: DiffusionModel,
    classifier: Path | Classifier | None = None,
    clean: CleanClassifier | None = None,
    sampler: SamplerConfig | None = None,
    precision: Precision = "float32",
    counter: Counter[str] | None = None,
) -> Guidance:
    """The guidance of `model`, its networks loaded on the model's device.

    clean: of clean images, if `config` names none. precision, counter: as for `in_precision`, of all but the model.

    Raises:
        FileNotFoundError, ValueError, OSError: as `Guidance`, and networks that cannot be loaded.
    """

    def classifying(loaded: C) -> C:
        return in_precision(loaded, precision, counter=counter, counted_as=CLASSIFIER)

    if isinstance(classifier, Path):
        classifier = load_classifier(classifier, device=model.device)
    weaker = None
    if config.autoguidance.model is not None:
        weaker = _load_weaker(config.autoguidance.model, device=model.device)
        weaker = in_precision(weaker, precision, counter=counter)
    clean = _load_clean(config.clean_classifier, model) if config.clean_classifier.name is not None else clean
    if clean is not None and clean.image_shape is None:
        shape, names = model.config.image_shape, model.config.class_names
        clean = fitted(clean, image_shape=shape, class_names=names, device=model.device)
    return Guidance(
        model=model,
        config=config,
        sampler=sampler or SamplerConfig(),
        classifier=classifier and classifying(classifier),
        further=tuple(classifying(load_classifier(Path(run), device=model.device)) for run in config.further),
        weaker=weaker,
        clean=clean and classifying(clean),
    )


def _load_clean(config: CleanClassifierConfig, model: DiffusionModel) -> CleanClassifier:
    return load_clean_classifier(config.name or "", smooth=config.gradient == "x_0", device=model.device)


def _load_weaker(name: str, *, device: torch.device) -> DiffusionModel:
    """The model "RUN" or "RUN:WEIGHTS"."""
    path, _, weights = name.rpartition(":")
    if not path or Path(name).exists():  # a directory's own name may hold a colon
        path, weights = name, None
    return load_diffusion(Path(path), weights=weights, device=device)


def classifier_record(classifier: Classifier | CleanClassifier) -> dict[str, Any]:
    """A classifier as manifests record it."""
    return {"name": classifier.name, "sha256": classifier.sha256}


def _check_requested(guidance: Guidance) -> None:
    if guidance.clean is None and guidance.config.clean_classifier != CleanClassifierConfig():
        raise ValueError(
            "guidance.clean_classifier has settings but no classifier; add --guidance.clean_classifier.name NAME"
        )
    if guidance.classifier is not None:
        return
    config, plain = guidance.config, GuidanceConfig()
    given = {f"guidance.{name}": getattr(config, name) for name in CLASSIFIER_OPTIONS
             if getattr(config, name) != getattr(plain, name)}  # fmt: skip
    given |= {f"sampler.{name}": value for name, value in guidance.sampler.guidance_record().items()}
    is_guided = guidance.weaker is not None or guidance.clean is not None or config.classifier_free.weight is not None
    if config.is_limited and not is_guided:
        given |= {"guidance.sigma_min": config.sigma_min, "guidance.sigma_max": config.sigma_max}
    if given:
        shown = ", ".join(f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
                          for name, value in given.items())  # fmt: skip
        raise ValueError(f"guidance was asked for without a classifier ({shown}); add --classifier RUN")


def _check_interval(guidance: Guidance) -> None:
    lower, upper = guidance.config.sigma_min, guidance.config.sigma_max
    levels = [sigma(float(alpha_bar)) for alpha_bar in guidance.sampler.levels(guidance.model.config.chain).alpha_bar]
    if not any(lower < level <= upper for level in levels):
        raise ValueError(
            f"none of the sampler's noise levels, {levels[0]:.3g} to {levels[-1]:.3g}, lies above guidance.sigma_min "
            f"{lower:g} and up to guidance.sigma_max {upper:g}, so that nothing would be guided; widen the interval"
        )


def _or_one(scale: float | None) -> float:
    return 1.0 if scale is None else scale
