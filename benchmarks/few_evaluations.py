"""Guided sampling by few evaluations: quality and speed beside 25 steps of ddim and 250 of ddpm.

OMP_NUM_THREADS=1 python benchmarks/few_evaluations.py --demo runs/demo

The model, the classifier and the judge of scripts/demo.py. Every sampler makes the same samples from the same seeds,
and batches of all of them alternate, so that a busy machine slows them all. For each scale and sampler the table has

  evaluations  of the network and of the classifier, an image
  images/s     the median over batches
  / ddim 25    its ratio to ddim's, and / ddpm 250 to ddpm's: medians over batches that were made one after the other
  FD           the Frechet distance of the judge's features to the training digits
  prec.        improved precision, by 3 neighbours, and recall likewise
  accuracy     the judge's

with means and standard deviations over seeds.
"""

import math
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median, stdev

import torch
from torch import Tensor

from classifiers.trained_model import Classifier, load_classifier
from guided_diffusion.config import run_command
from guided_diffusion.data.image_set import open_image_set
from guided_diffusion.diffusion.model import DiffusionModel, load_diffusion
from guided_diffusion.evaluation.extractors.classifier_features import load_classifier_features
from guided_diffusion.evaluation.extractors.features import FeatureExtractor
from guided_diffusion.evaluation.metrics.frechet import frechet_distance
from guided_diffusion.evaluation.metrics.neighbours import precision_recall
from guided_diffusion.evaluation.statistics import gaussian, moments
from guided_diffusion.generation.config import SamplingConfig
from guided_diffusion.generation.plan import Plan, batches_of
from guided_diffusion.generation.run import SamplingRun
from guided_diffusion.guidance.config import GuidanceConfig
from guided_diffusion.samplers import SamplerConfig


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A sampler, and the interval of sigma in which it is guided."""

    sampler: SamplerConfig
    sigma_min: float = 0.0
    sigma_max: float = math.inf

    def __str__(self) -> str:
        above = f", sigma > {self.sigma_min:g}" if self.sigma_min > 0 else ""
        below = f", sigma <= {self.sigma_max:g}" if self.sigma_max < math.inf else ""
        return f"{self.sampler.name} {self.sampler.steps}{above}{below}"


BASELINES = (Recipe(sampler=SamplerConfig(steps=25)), Recipe(sampler=SamplerConfig(name="ddpm", steps=250)))


@dataclass(frozen=True, kw_only=True)
class FewEvaluationsBenchmark:
    """Prints a row for each scale and sampler, the two baselines first."""

    demo: Path
    """Directory of scripts/demo.py."""
    scales: tuple[float, ...] = (4.0,)
    """Guidance scales s."""
    recipes: tuple[Recipe, ...] = tuple(
        Recipe(sampler=SamplerConfig(name="dpmpp_2m_sde", steps=steps), sigma_max=sigma_max)
        for steps, sigma_max in ((5, 5.0), (6, 5.0), (7, 3.0), (8, 3.0), (8, 5.0))
    )
    """Samplers besides the baselines."""
    samples: int = 2000
    """For each seed, classes in turn."""
    seeds: int = 3
    """Number of seeds."""
    ddpm_batches: int | None = None
    """Batches of each seed by 250 steps of ddpm, which take ten times as long as 25 of ddim: fewer than all are timed
    and not judged; 0 leaves ddpm out; null: all."""
    batch_size: int = 200
    """Images at a time."""


@dataclass(frozen=True)
class Samples:
    """Judged samples of a recipe."""

    run: SamplingRun
    seconds: dict[tuple[int, int], float]
    """Of each batch, by seed and first id."""
    features: list[Tensor]
    """(N, D), of each seed."""
    accuracies: list[float]
    """Of each seed."""

    @classmethod
    def of(cls, recipe: Recipe, scale: float, model: DiffusionModel, classifier: Classifier) -> "Samples":
        """None yet."""
        guidance = GuidanceConfig(scale=scale, sigma_min=recipe.sigma_min, sigma_max=recipe.sigma_max)
        settings = SamplingConfig(sampler=recipe.sampler)
        return cls(SamplingRun.assemble(model, classifier, guidance=guidance, settings=settings), {}, [], [])

    def evaluations(self, batch_size: int) -> str:
        """Of each network, an image."""
        images = len(self.seconds) * batch_size
        return " + ".join(f"{count / images:.4g}" for count in self.run.evaluations.values())

    def faster_than(self, slow: "Samples") -> str:
        """The median ratio of images/s."""
        ratios = [seconds / self.seconds[batch] for batch, seconds in slow.seconds.items() if batch in self.seconds]
        return f"{median(ratios):.3g}"


def main(config: FewEvaluationsBenchmark) -> None:
    """Prints the table."""
    model, classifier = load_diffusion(config.demo / "diffusion"), load_classifier(config.demo / "classifier")
    judge = load_classifier_features(config.demo / "judge", device=model.device)
    digits = open_image_set(config.demo / "digits" / "train")
    real = judge(digits.read(list(range(len(digits))))).pooled
    print("| s | sampler | evaluations | images/s | / ddim 25 | / ddpm 250 | FD | prec. | recall | accuracy |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    baselines = BASELINES[:1] if config.ddpm_batches == 0 else BASELINES
    for scale in config.scales:
        made = {recipe: Samples.of(recipe, scale, model, classifier) for recipe in (*baselines, *config.recipes)}
        for seed in range(config.seeds):
            sample(made, judge, config, seed)
        for recipe, samples in made.items():
            speed = f"{config.batch_size / median(samples.seconds.values()):.3g}"
            ratios = [samples.faster_than(made[baseline]) if baseline in made else "" for baseline in BASELINES]
            columns = [f"{scale:g}", str(recipe), samples.evaluations(config.batch_size), speed, *ratios]
            print(f"| {' | '.join(columns + quality(samples, real))} |", flush=True)


def sample(made: dict[Recipe, Samples], judge: FeatureExtractor, config: FewEvaluationsBenchmark, seed: int) -> None:
    """Make and judge the samples of a seed, a batch of each recipe after the other."""
    images: dict[Recipe, list[Tensor]] = {recipe: [] for recipe in made}
    rule = made[BASELINES[0]].run.label_rule("all")
    plan = Plan(num_samples=config.samples, shard_size=config.samples, labels=rule, seed=seed)
    most = config.samples if config.ddpm_batches is None else config.ddpm_batches * config.batch_size
    for ids in batches_of(range(config.samples), config.batch_size):
        for recipe, samples in made.items():
            if recipe == BASELINES[1] and ids.start >= most:
                continue
            started = time.perf_counter()
            images[recipe].append(samples.run.sample(plan.batch(ids, device=samples.run.device)))
            samples.seconds[seed, ids.start] = time.perf_counter() - started
    y = torch.tensor([plan.label(i) for i in range(config.samples)])
    for recipe, samples in made.items():
        if sum(map(len, images[recipe])) == config.samples:
            judged = judge(torch.cat(images[recipe]))
            assert judged.probabilities is not None  # a classifier has them
            samples.features.append(judged.pooled)
            samples.accuracies.append(float((judged.probabilities.argmax(dim=1) == y).double().mean()))


def quality(samples: Samples, real: Tensor) -> list[str]:
    """Columns of means and standard deviations over seeds."""
    reference = gaussian(moments(real))
    found = [gaussian(moments(features)) for features in samples.features]
    distances = [frechet_distance(one.mean, one.cov, reference.mean, reference.cov) for one in found]
    neighbours = [precision_recall(real=real, generated=features) for features in samples.features]
    columns = [distances, *zip(*neighbours, strict=True), samples.accuracies]
    return [f"{fmean(column):.3f} ± {stdev(column):.3f}" for column in columns if column]


if __name__ == "__main__":
    run_command(FewEvaluationsBenchmark, main)
