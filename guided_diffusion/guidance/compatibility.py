"""Compatibility of guides with the model that they guide, and of an interval with a sampler's levels."""

from collections.abc import Sequence
from pathlib import Path

from classifiers.trained_model import DISCRIMINATOR_CLASSES, Classifier

from ..data.labels import matched
from ..diffusion.chain import DiffusionChain, sigma
from ..diffusion.model import DiffusionConfig, DiffusionModel, chain_difference, class_difference
from ..diffusion.schedules import ChainConfig
from ..samplers import SamplerConfig
from ..samplers.config import make_particle_filter
from .config import GuidanceConfig


def check_classifier(model: DiffusionConfig, classifier: Classifier, *, run: Path) -> None:
    """Refuse, by a ValueError, a classifier of other noise or images than the model's at `run`, and of other classes
    where the model is conditioned on them; one that is not can be guided to any."""
    check_noise(model, classifier, run=run)
    if model.is_conditional or classifier.class_names == DISCRIMINATOR_CLASSES:
        refuse_difference(class_difference(model.class_names, classifier.class_names), classifier.name, run)


def asked_classes(model: DiffusionConfig, classifier: Classifier | None) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Names of the classes that samples may be asked for, and labels among them that the model saw no image of.

    They are those of a conditional model, or of the classifier that guides another one, else of the model's data.
    """
    if classifier is None or model.is_conditional or classifier.class_names == model.class_names:
        return model.class_names, model.unseen_classes
    return classifier.class_names, ()


def doubted_classes(model: DiffusionConfig, wanted: Sequence[str]) -> str | None:
    """A warning of classes that an unconditional model is to be guided to, and whose names its data did not have."""
    unknown = [name for name, place in zip(wanted, matched(wanted, model.class_names), strict=True) if place < 0]
    if not unknown or not model.class_names:
        return None
    return (
        f'{len(unknown)} of the {len(wanted)} classes asked for, such as "{unknown[0]}", are none of the diffusion '
        f"model's data: guidance finds what the model knows of them, if anything"
    )


def check_noise(model: DiffusionConfig, classifier: Classifier, *, run: Path) -> None:
    """Refuse, by a ValueError, a classifier of one class, or of other noise or images than the model's at `run`."""
    name, chain = classifier.name, classifier.config.chain
    if chain is None:
        raise ValueError(
            f"{name} was trained on clean images only and cannot guide; train one with --diffusion {run}, or "
            f"evaluate it at the estimate of x_0: --guidance.clean_classifier.name classifier:RUN"
        )
    if len(classifier.class_names) == 1:
        raise ValueError(
            f'{name} knows one class only, "{classifier.class_names[0]}": its gradient is 0 and guides nothing; train '
            f"it on images of several classes"
        )
    other_noise = chain_difference(model.chain, chain)
    refuse_difference(other_noise and f"{other_noise}; train a classifier with --diffusion {run}", name, run)
    check_images(name, classifier.image_shape, model, run)


def check_null_class(model: DiffusionConfig, run: Path) -> None:
    """Refuse, by a ValueError, classifier-free guidance of a model without a null class."""
    if model.null_label is None:
        reason = "was trained without label_dropout and has no null class"
        if not model.is_conditional:
            reason = "is not conditioned on the class at all"
        raise ValueError(
            f"guidance.classifier_free.weight extrapolates from a model without the class to the same with it, but "
            f"{run} {reason}; train one with --class_conditional true --label_dropout 0.1, or guide by a classifier"
        )


def check_weaker(model: DiffusionModel, weaker: DiffusionModel) -> None:
    """Refuse, by a ValueError, a weaker model that is the model itself, or of another chain, images or classes."""
    ours, theirs, run, name = model.config, weaker.config, model.checkpoint.path, weaker.checkpoint.path
    if (name, weaker.weights) == (run, model.weights):
        raise ValueError(
            f"guidance.autoguidance.model is {run} with its weights {weaker.weights}, the very model that is guided"
        )
    refuse_difference(chain_difference(ours.chain, theirs.chain, other_called="the weaker model"), name, run)
    check_images(name, theirs.image_shape, ours, run)
    if theirs.is_conditional and not ours.is_conditional:
        raise ValueError(
            f"{name} is conditioned on the class, but {run} is not: extrapolating would lead away from the class"
        )
    if theirs.is_conditional:
        names = {"model_called": "the diffusion model", "other_called": "the weaker model"}
        refuse_difference(class_difference(ours.class_names, theirs.class_names, **names), name, run)


def check_images(name: str | Path, shape: tuple[int, int, int] | None, model: DiffusionConfig, run: Path) -> None:
    """Refuse, by a ValueError, a network of images (C, H, W) other than the model's; None takes any."""
    if shape is not None and shape != model.image_shape:
        raise ValueError(f"{name} takes images (channels, height, width) {shape}, but {run} makes {model.image_shape}")


def refuse_difference(difference: str | None, name: str | Path, guided: str | Path) -> None:
    """Refuse, by a ValueError, a network that differs from the model that it should guide."""
    if difference is not None:
        raise ValueError(f"{name} cannot guide {guided}: {difference}")


def check_sampler(config: GuidanceConfig, sampler: SamplerConfig, chain: ChainConfig, *, has_density: bool) -> None:
    """Refuse, by a ValueError, an interval without a level of the sampler, and particles that nothing can weigh.

    has_density: True where a log-density of x_t guides.
    """
    if config.is_limited:
        _check_interval(config.sigma_min, config.sigma_max, sampler.levels(chain))
    if config.particles > 1:
        _check_particles(config, sampler, has_density=has_density)


def _check_interval(lower: float, upper: float, chain: DiffusionChain) -> None:
    levels = [sigma(float(alpha_bar)) for alpha_bar in chain.alpha_bar]
    if not any(lower < level <= upper for level in levels):
        raise ValueError(
            f"none of the sampler's noise levels, {levels[0]:.3g} to {levels[-1]:.3g}, lies above guidance.sigma_min "
            f"{lower:g} and up to guidance.sigma_max {upper:g}, so that nothing would be guided; widen the interval"
        )


def _check_particles(config: GuidanceConfig, sampler: SamplerConfig, *, has_density: bool) -> None:
    make_particle_filter(sampler, config.particles, config.particle_weight)  # refuses links without noise
    if not has_density:
        raise ValueError(
            f"guidance.particles {config.particles} weighs samples by a classifier of noisy images, or by a noisy "
            f"guidance.function, and there is none; add --classifier RUN"
        )
    for name in ("score", "scale_outside", "cap"):
        if (value := getattr(config, name)) != getattr(GuidanceConfig, name):
            raise ValueError(
                f"guidance.particles {config.particles} samples p(x) p(y given x)^s, and guidance.{name} {value} leads "
                f"elsewhere; leave one of them out"
            )
