"""A sampling run of a diffusion model: its networks, sampler and chain, opened once."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from classifiers.off_the_shelf import CleanClassifier
from classifiers.trained_model import Classifier

from ..compilation import preparation
from ..config import to_plain
from ..diffusion.chain import DiffusionChain
from ..diffusion.denoiser import Denoiser
from ..diffusion.images import to_uint8
from ..diffusion.model import DiffusionModel, load_diffusion, weights_record
from ..diffusion.noise import SeededNoise, particle_choices
from ..distributed import on_main_process, this_process
from ..guidance import ScoreTerm
from ..guidance.compatibility import asked_classes, doubted_classes
from ..guidance.config import GuidanceConfig
from ..guidance.function import Guide
from ..guidance.nats import NatsMeter
from ..guidance.run import Guidance, classifier_record, load_guidance
from ..models.precision import EvaluatedNetwork, Precision, in_precision
from ..samplers import OnStep, Sampler, make_sampler
from ..samplers.config import make_particle_filter
from ..samplers.particles import Weighted
from ..samplers.sampler import in_turn
from .config import GuidedRunConfig, SampleSetConfig, SamplingConfig
from .finiteness import finite_samples, likeliest_cause
from .guidance_statistics import GuidanceStatistics
from .half_precision import IMAGES, least_lossy_half, sampling_precision
from .plan import LabelRule, MadeSamples, Plan, SampleBatch, label_rule

LARGEST_TILT = 1000.0
"""A linear schedule's last level has 157, a cosine schedule's 20,000 (T = 1000)."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SamplingRun:
    """A guided diffusion model and all else that its samples are made with, on one device."""

    settings: SamplingConfig
    guidance: Guidance
    evaluations: Counter[str]
    """Images that the networks have evaluated, by kind of network."""
    out_of_range: list[float] = field(default_factory=list[float])
    """Root mean squares of states of which a warning was given: the first alone."""

    def __post_init__(self) -> None:
        _ = self.chain  # refuses timesteps before anything is written

    @classmethod
    def open(cls, config: GuidedRunConfig, *directories: Path) -> "SamplingRun":
        """Load what a config names, on this process's device; directories: of further samples in its precision."""
        model = load_diffusion(config.diffusion, weights=config.weights, device=this_process().device)
        precision = on_main_process(lambda: _precision(model, config, config.out, config.out / "base", *directories))
        return cls.assemble(
            model, config.classifier, guidance=config.guidance, settings=replace(config, precision=precision)
        )

    @classmethod
    def assemble(
        cls,
        model: DiffusionModel,
        classifier: Path | Classifier | None,
        *,
        clean: CleanClassifier | None = None,
        function: Guide | None = None,
        guidance: GuidanceConfig,
        settings: SamplingConfig,
    ) -> "SamplingRun":
        """Put loaded models together; neither is changed. Networks that do not fit together are refused."""
        evaluations, precision = Counter[str](), _precision(model, settings)
        loaded = load_guidance(
            guidance,
            model=in_precision(model, precision, counter=evaluations),
            classifier=classifier,
            clean=clean,
            function=function,
            sampler=settings.sampler,
            precision=precision,
            counter=evaluations,
        )
        return cls(settings=replace(settings, precision=precision), guidance=loaded, evaluations=evaluations)

    def reconfigured(self, settings: SamplingConfig, guidance: GuidanceConfig) -> "SamplingRun":
        """The same networks, in the same precision, under another sampler or other strengths of guidance."""
        settings = replace(settings, precision=self.settings.precision)
        loaded = replace(self.guidance, config=guidance, sampler=settings.sampler)
        return replace(self, settings=settings, guidance=loaded, out_of_range=[])

    @property
    def model(self) -> DiffusionModel:
        """The model that is sampled from."""
        return self.guidance.model

    @property
    def device(self) -> torch.device:
        """Device of the networks."""
        return self.model.device

    @cached_property
    def chain(self) -> DiffusionChain:
        """The noise levels that the sampler visits."""
        return self.settings.sampler.levels(self.model.config.chain)

    @cached_property
    def sampler(self) -> Sampler:
        """The sampler with its options."""
        return make_sampler(self.settings.sampler)

    def label_rule(self, labels: int | str) -> LabelRule | None:
        """The rule that `SampleSetConfig.labels` names; None where neither model nor classifier knows classes.

        Raises:
            ValueError: labels for a run without classes.
        """
        if self.guidance.knows_classes:
            _, unseen = asked_classes(self.model.config, self.guidance.classifier)
            return label_rule(str(labels), self.guidance.class_names, seed=self.settings.seed, unseen=unseen)
        if labels != SampleSetConfig.labels:
            raise ValueError(
                f"labels {labels} were asked for, but {self.model.checkpoint.path} is not conditioned on the class and "
                f"there is no classifier; add --classifier RUN"
            )
        return None

    def plan(self, config: SampleSetConfig) -> Plan:
        """The samples that a run makes."""
        rule = self.label_rule(config.labels)
        return Plan(num_samples=config.num_samples, shard_size=config.shard_size, labels=rule, seed=config.seed)

    def prepare(self, plan: Plan, *, processes: int = 1) -> None:
        """Have the networks compiled, by `SamplingConfig.compile`, when first called; processes: sharing the plan."""
        images = plan.num_samples * self.guidance.config.particles * len(self.chain) / processes
        compiled_for(self.loaded, self.settings, self.device, images=images)

    def sample(self, batch: SampleBatch) -> MadeSamples:
        """The samples of a batch."""
        if self.guidance.config.particles > 1:
            return self._by_particles(batch)
        x_T = batch.noise(torch.empty(len(batch.ids), *self.model.image_shape, device=self.device))
        denoiser = self.guidance.denoiser(batch.y, clip=self.settings.sampler.clipping, ids=batch.ids)
        return self.made(batch, self.sampler, denoiser, x_T, self.guidance.term(batch.y, ids=batch.ids))

    def made(
        self, batch: SampleBatch, sampler: Sampler, denoiser: Denoiser, x_T: Tensor, term: ScoreTerm | None
    ) -> MadeSamples:
        """The samples of a batch by a sampler, and their nats where a score of x_t guides them."""
        meter = NatsMeter() if term is not None and self.settings.sampler.entry.measures_nats else None
        guidance = term if meter is None or term is None else meter.metered(term)

        def sampled(on_step: OnStep) -> Tensor:
            both = on_step if meter is None else in_turn(meter.on_step, on_step)
            return sampler(denoiser, self.chain, x_T, batch.noise, guidance=guidance, on_step=both)

        images = to_uint8(self.finite(sampled, batch))
        return MadeSamples(images, meter and GuidanceStatistics(self.chain.t.flip(0), torch.stack(meter.by_level)))

    def _by_particles(self, batch: SampleBatch) -> MadeSamples:
        config, seed, ids = self.guidance.config, self.settings.seed, batch.ids
        count = config.particles
        noise, y = SeededNoise.of_particles(seed, ids, count), batch.y.repeat_interleave(count)
        x_T = noise(torch.empty(len(y), *self.model.image_shape, device=self.device))
        owners = [i for i in ids for _ in range(count)]
        denoiser = self.guidance.denoiser(y, clip=self.settings.sampler.clipping, ids=owners)
        sampler = make_particle_filter(self.settings.sampler, count, config.particle_weight)
        how = {"twist": self.guidance.twist(y, ids=owners), "choices": particle_choices(seed, ids).uniform}
        found = list[Weighted]()

        def sampled(on_step: OnStep) -> Tensor:
            found.append(sampler(denoiser, self.chain, x_T, noise, **how, on_step=on_step))
            return found[0].x_0

        images = to_uint8(self.finite(sampled, batch))
        weighted = found[0]
        measured = GuidanceStatistics(self.chain.t.flip(0), weighted.nats, weighted.log_mean_weight, weighted.ess)
        return MadeSamples(images, measured)

    @property
    def samples_at_a_time(self) -> int:
        """Samples of a batch, so that a batch has `SamplingConfig.batch_size` images, particles included."""
        return max(1, self.settings.batch_size // self.guidance.config.particles)

    def finite(self, sampled: Callable[[OnStep], Tensor], batch: SampleBatch) -> Tensor:
        """The result of a sampler for a batch.

        Raises:
            ValueError: samples that are not finite, naming the likeliest cause.
        """
        warn = self._warn_out_of_range if self.guidance.strengths else None
        return finite_samples(sampled, batch.ids, cause=self._likeliest_cause, on_step=batch.on_step, out_of_range=warn)

    def _warn_out_of_range(self, size: float) -> None:
        if self.out_of_range:
            return
        self.out_of_range.append(size)
        _logger.warning(
            "guidance led noisy images out of range: their root mean square reached %.2g, in training it is 1 at most, "
            "so that the network's estimates mean little there; lower %s, or leave high noise unguided by "
            "--guidance.sigma_max",
            size,
            " or ".join(f"--{name}" for name in self.guidance.strengths),
        )

    @property
    def loaded(self) -> "list[DiffusionModel | Classifier | CleanClassifier]":
        """The model and all that guides it."""
        guidance = self.guidance
        networks = (guidance.model, guidance.classifier, *guidance.further, guidance.weaker, guidance.clean)
        return [network for network in networks if network is not None]

    def _likeliest_cause(self) -> str:
        name = None if self.guidance.function is None else self.guidance.function.name
        settings = self.settings
        return likeliest_cause(self.loaded, settings.sampler, self.guidance.strengths, settings.precision, name)

    def manifest(self, plan: Plan) -> dict[str, Any]:
        """All that the samples' pixels depend on, except for floating-point kernels."""
        guidance, classifier = self.guidance, self.guidance.classifier
        labels = None if plan.labels is None else plan.labels.record()
        return run_record(self.settings, plan, class_names=guidance.class_names, labels=labels) | {
            "diffusion": weights_record(self.model),
            "classifier": classifier and classifier_record(classifier) | classifier.checkpoint.origin,
            "guidance": guidance.record(),
        }

    def log_warnings(self) -> None:
        """Warn of steps that the sampler's options leave too few, of negative guidance, and of strong tilts.

        Tilting adds (1 - alpha_bar) / sqrt(alpha_bar) times a classifier's gradient, errors and all, to x_0.
        """
        if (warning := self.settings.sampler.warning(self.chain)) is not None:
            _logger.warning("%s", warning)
        if negative := [f"--{name} {value:g}" for name, value in self.guidance.strengths.items() if value < 0]:
            _logger.warning(
                "%s: guidance of negative strength leads away from the class, or from the better model; leave the sign "
                "out, unless you want samples of anything else",
                " and ".join(negative),
            )
        if (doubt := doubted_classes(self.model.config, self.guidance.class_names)) is not None:
            _logger.warning("%s", doubt)
        alpha_bar = float(self.chain.alpha_bar[-1])
        factor = float("inf") if alpha_bar == 0 else (1 - alpha_bar) * alpha_bar**-0.5
        if factor > LARGEST_TILT and self.guidance.instead_of_tilting is not None:
            _logger.warning(
                "the noisiest timestep kept has signal power %.2g, where guidance moves x_0 by %.2g times a "
                "guide's gradient with respect to x_t, errors and all; take fewer steps, which leaves that "
                "timestep out, set guidance.sigma_max, or %s",
                alpha_bar,
                factor,
                self.guidance.instead_of_tilting,
            )


def compiled_for(loaded: Iterable[Any], settings: SamplingConfig, device: torch.device, *, images: float) -> None:
    """Have the networks of loaded models compiled when first called, for `images` evaluations by this process."""
    if (prepare := preparation(settings.compile, device, images=images)) is None:
        return
    for one in loaded:
        if isinstance(one.network, EvaluatedNetwork):
            one.network.compile_by(prepare)


def _precision(model: DiffusionModel, settings: SamplingConfig, *directories: Path) -> Precision:
    """The precision asked for, that of the samples in `directories`, or the one that loses least."""
    y = torch.arange(IMAGES, device=model.device) % (model.config.network.num_classes or 1)
    bind, levels = partial(model.config.denoiser, y=y, clip=1.0), settings.sampler.levels(model.config.chain)
    measured = partial(least_lossy_half, model.network, bind, levels, model.image_shape, model.device)
    return sampling_precision(settings.precision, model.device, directories=directories, measured=measured)


def run_record(settings: SamplingConfig, plan: Plan, **classes: Any) -> dict[str, Any]:  # plain values
    """The part of a manifest that all runs share; classes: class names, and the labels if they were chosen."""
    return {
        "num_samples": plan.num_samples,
        "shard_size": plan.shard_size,
        **classes,
        "seed": settings.seed,
        "sampler": settings.sampler.record(),
        "clip": to_plain(settings.sampler.clipping),
        "precision": settings.precision,
    }
