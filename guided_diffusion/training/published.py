"""The published trainings that a run can be held against (ADM tables 11 to 13, improved DDPM appendix A)."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class PublishedTraining:
    """What it took."""

    name: str
    kind: str
    image_size: int
    """Pixels."""
    parameters: float
    """Millions."""
    batch: int
    iterations: int

    @property
    def images(self) -> int:
        """Images seen."""
        return self.batch * self.iterations


PUBLISHED = (
    PublishedTraining("improved DDPM's CIFAR-10", "diffusion", 32, 52.5, 128, 500_000),
    PublishedTraining("ADM's ImageNet 64", "diffusion", 64, 296, 2048, 540_000),
    PublishedTraining("ADM's ImageNet 128", "diffusion", 128, 422, 256, 4_360_000),
    PublishedTraining("ADM's ImageNet 256", "diffusion", 256, 554, 256, 1_980_000),
    PublishedTraining("ADM's ImageNet 512", "diffusion", 512, 559, 256, 1_940_000),
    PublishedTraining("ADM's ImageNet 64 classifier", "classifier", 64, 65, 1024, 300_000),
    PublishedTraining("ADM's ImageNet 128 classifier", "classifier", 128, 43, 256, 300_000),
    PublishedTraining("ADM's ImageNet 256 classifier", "classifier", 256, 54, 256, 500_000),
    PublishedTraining("ADM's ImageNet 512 classifier", "classifier", 512, 54, 256, 500_000),
    PublishedTraining("ADM's upsampler 64 to 256", "upsampler", 256, 312, 256, 500_000),
    PublishedTraining("ADM's upsampler 128 to 512", "upsampler", 512, 309, 256, 1_050_000),
)


def nearest_published(kind: str, *, image_size: int) -> PublishedTraining | None:
    """The published training of that kind whose images are nearest in size, in octaves."""
    of_kind = [training for training in PUBLISHED if training.kind == kind]
    return min(of_kind, key=lambda training: abs(math.log(training.image_size / image_size)), default=None)
