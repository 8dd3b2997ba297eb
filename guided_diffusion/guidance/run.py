"""Guidance of a sampling run: load the networks, check that they fit the model, compose them, record them.

    tilted(between(guided_at_estimate(bounded(guided_through(extrapolated(D, reference, w), ..), clip), ..),
                   bounded(D, clip), lo, hi),
           within(summed(score, ..), lo, hi))

without the parts that a config does not ask for. A sampler with a mean shift takes the score there, in place of the
outer `tilted`. Gradients through the network, `guided_through`, come before the clip. Scores of x_t and gradients
with respect to x_0 come after it, as published, and their result is not clipped again.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from classifiers.off_the_shelf import CleanClassifier, fitted, load_clean_classifier
from classifiers.trained_model import Classifier, load_classifier

from ..diffusion.chain import Step
from ..diffusion.denoiser import Clip, Denoiser, bounded
from ..diffusion.model import DiffusionModel, class_difference, load_diffusion, weights_record
from ..models.precision import CLASSIFIER, Precision, in_precision
from ..samplers import SamplerConfig
from .cap import capped
from .classifier import class_log_density
from .classifier_free import extrapolated
from .compatibility import (
    asked_classes,
    check_classifier,
    check_images,
    check_null_class,
    check_sampler,
    check_weaker,
    refuse_difference,
)
from .config import CleanClassifierConfig, GuidanceConfig, check_settings
from .estimate import clean_log_density, guided_at_estimate, guided_through, joint_log_prob
from .function import Guide, Place, combined
from .guides import load_guide, tried
from .interval import between, is_inside, within
from .score import LogDensity, Scale, ScoreTerm, score_of, summed
from .twist import Twist

C = TypeVar("C", Classifier, CleanClassifier)


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
    function: Guide | None = None

    def __post_init__(self) -> None:
        model, run = self.model.config, self.model.checkpoint.path
        check_settings(self)
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
        has_density = self.classifier is not None or (self.function is not None and self.function.place == "x_t")
        check_sampler(self.config, self.sampler, model.chain, has_density=has_density)

    @property
    def knows_classes(self) -> bool:
        """True where the model is conditional, or guided by a classifier or by a function of its labels."""
        by_function = self.function is not None and self.function.needs("y") and bool(self.class_names)
        return self.model.config.is_conditional or bool(self.classifier or self.clean) or by_function

    @property
    def class_names(self) -> tuple[str, ...]:
        """As `asked_classes`; where there are none, those of the classifier of clean images."""
        return asked_classes(self.model.config, self.classifier)[0] or (self.clean.class_names if self.clean else ())

    def denoiser(self, y: Tensor, *, clip: Clip, ids: Sequence[int] | None = None) -> Denoiser:
        """The model's, for labels y (B,), with all guidance that is not a score of x_t; ids: of the samples."""
        guided = self._extrapolated(y)
        if through := self._densities(y, ids, "network"):
            guided = guided_through(guided, *combined(through))
        guided = bounded(guided, clip)
        if at_estimate := self._densities(y, ids, "x_0"):
            guided = guided_at_estimate(guided, *combined(at_estimate))
        if not self.config.is_limited:
            return guided
        return between(guided, self.model.denoiser(y, clip=clip), self.config.sigma_min, self.config.sigma_max)

    def term(self, y: Tensor, *, ids: Sequence[int] | None = None) -> ScoreTerm | None:
        """The score of what guides by x_t, for labels y (B,) and samples `ids`; None without any."""
        config, score, classifiers = self.config, self.config.score_function, self._classifiers(y)
        terms = [score(one.log_prob, y, scale) for one, scale in classifiers]
        terms += [score_of(*density) for density in self._densities(y, ids, "x_t")]
        term = summed(*terms) if terms else None
        if term is not None and config.is_limited:
            outside = [score(one.log_prob, y, config.scale_outside) for one, _ in classifiers]
            elsewhere = summed(*outside) if outside else None
            term = within(term, config.sigma_min, config.sigma_max, outside=elsewhere)
        return term if term is None or config.cap is None else capped(term, config.cap)

    def twist(self, y: Tensor, *, ids: Sequence[int] | None = None) -> Twist:
        """The log-densities by which particles of labels y (B,) are weighed."""
        config, parts = self.config, tuple(self.log_densities(y, ids=ids))
        return Twist(parts, config.particle_weight == "twisted", config.sigma_min, config.sigma_max)

    def log_densities(self, y: Tensor, *, ids: Sequence[int] | None = None) -> list[tuple[LogDensity, Scale]]:
        """The log-densities of x_t whose scores `term` adds up, each with its scale, but for `score` and interval."""
        classifiers = [(class_log_density(one.log_prob, y), scale) for one, scale in self._classifiers(y)]
        return [*classifiers, *self._densities(y, ids, "x_t")]

    def network_evaluations(self, step: Step) -> int:
        """Evaluations of denoising networks, for each sample, in one call of `denoiser` at `step`."""
        is_active = not self.config.is_limited or is_inside(step, self.config.sigma_min, self.config.sigma_max)
        return 1 + (is_active and (self.weaker is not None or self.config.classifier_free.weight is not None))

    @property
    def instead_of_tilting(self) -> str | None:
        """The alternative, in words, to tilting x_0 by a gradient with respect to x_t; None where none tilts it."""
        if self.clean is not None and self.config.clean_classifier.gradient == "x_t":
            return "take guidance.clean_classifier.gradient x_0"
        place = None if self.function is None else self.function.place
        if place == "network":
            return "have guidance.function evaluated at the estimate itself"
        is_tilted = (self.classifier is not None or place == "x_t") and self.sampler.entry.guidance == "tilted"
        return f"let the {'classifier' if self.classifier else 'function'} guide ddpm" if is_tilted else None

    @property
    def strengths(self) -> dict[str, float]:
        """All scales and weights that guide the samples, by option."""
        guides = {"scale": self.classifier, "clean_classifier.scale": self.clean, "function_scale": self.function}
        defaults = {f"guidance.{name}": 1.0 for name, guide in guides.items() if guide is not None}
        return defaults | self.config.strengths

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
            "scale_outside": config.scale_outside or None,
            "cap": config.cap,
            "class_scales": {str(label): scale for label, scale in scales.items()} or None,
            config.score: None if config.score == GuidanceConfig.score else config.all_score_options() or True,
            **self.sampler.guidance_record(),
            **config.weighing,
            "further": [classifier_record(one) | {"scale": scale} for one, scale in further] or None,
            "free_weight": config.classifier_free.weight,
            "weak": self.weaker and weights_record(self.weaker) | {"weight": config.autoguidance.weight},
            "off_the_shelf": self.clean and classifier_record(self.clean) | by_clean,
            "function": self.function and self.function.manifest() | {"scale": _or_one(config.function_scale)},
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

    def _classifiers(self, y: Tensor) -> list[tuple[Classifier, Scale]]:
        """The classifiers of noisy images and their scales."""
        if self.classifier is None:
            return []
        further = zip(self.further, self.config.further.values(), strict=True)
        return [(self.classifier, self._scale_of(y)), *further]

    def _densities(self, y: Tensor, ids: Sequence[int] | None, place: Place) -> list[tuple[LogDensity, Scale]]:
        """The log-densities of `place` that guide besides classifiers of noisy images, and their scales."""
        densities = list[tuple[LogDensity, Scale]]()
        clean, is_through = self.clean, self.config.clean_classifier.gradient == "x_t"
        if clean is not None and place == ("network" if is_through else "x_0"):
            labels = torch.tensor(clean.labels_of(self.class_names), device=y.device)[y]

            def log_prob(x_0: Tensor) -> Tensor:
                logits = clean.network(x_0)
                return logits.log_softmax(dim=1) if is_through else joint_log_prob(logits)

            densities.append((clean_log_density(log_prob, labels), _or_one(self.config.clean_classifier.scale)))
        if self.function is not None and place == self.function.place:
            densities.append((self.function.log_density(y, ids), _or_one(self.config.function_scale)))
        return densities

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
    function: Guide | None = None,
    sampler: SamplerConfig | None = None,
    precision: Precision = "float32",
    counter: Counter[str] | None = None,
) -> Guidance:
    """The guidance of `model`, its networks loaded on the model's device.

    clean, function: if `config` names none. precision, counter: as for `in_precision`, of further models alone.

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
    clean = _load_clean(config.clean_classifier, clean, model)
    sampler = sampler or SamplerConfig()
    return Guidance(
        model=model,
        config=config,
        sampler=sampler,
        classifier=classifier and classifying(classifier),
        further=tuple(classifying(load_classifier(Path(run), device=model.device)) for run in config.further),
        weaker=weaker,
        clean=clean and classifying(clean),
        function=_load_function(config, function, model, sampler),
    )


def _load_clean(
    config: CleanClassifierConfig, clean: CleanClassifier | None, model: DiffusionModel
) -> CleanClassifier | None:
    """The clean classifier that `config` names, else the one given, tried on images of the model's shape."""
    if config.name is not None:
        clean = load_clean_classifier(config.name, smooth=config.gradient == "x_0", device=model.device)
    if clean is None or clean.image_shape is not None:
        return clean
    shape, names = model.config.image_shape, model.config.class_names
    return fitted(clean, image_shape=shape, class_names=names, device=model.device)


def _load_function(
    config: GuidanceConfig, function: Guide | None, model: DiffusionModel, sampler: SamplerConfig
) -> Guide | None:
    """The function that `config` names, else the one given, tried at the sampler's levels."""
    if config.function is not None:
        function = load_guide(config.function, config.function_options, model=model)
    return function and tried(function, model, sampler.levels(model.config.chain))


def _load_weaker(name: str, *, device: torch.device) -> DiffusionModel:
    """The model "RUN" or "RUN:WEIGHTS"."""
    path, _, weights = name.rpartition(":")
    if not path or Path(name).exists():  # a directory's own name may hold a colon
        path, weights = name, None
    return load_diffusion(Path(path), weights=weights, device=device)


def classifier_record(classifier: Classifier | CleanClassifier) -> dict[str, Any]:
    """A classifier as manifests record it."""
    return {"name": classifier.name, "sha256": classifier.sha256}


def _or_one(scale: float | None) -> float:
    return 1.0 if scale is None else scale
