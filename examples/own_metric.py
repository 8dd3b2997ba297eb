"""A metric of one's own, the share of copies: python examples/own_metric.py SAMPLES TRAINING_IMAGES classifier:RUN"""

import sys
from pathlib import Path

import torch

from guided_diffusion.data.image_set import open_image_set
from guided_diffusion.evaluation.config import EvaluationConfig
from guided_diffusion.evaluation.extractors.config import ExtractorConfig, open_extractor
from guided_diffusion.evaluation.measure import MeasuredSet
from guided_diffusion.evaluation.metrics.metric import Metric, Number, Result
from guided_diffusion.evaluation.run import measure_source


def copies(generated: MeasuredSet, real: MeasuredSet, config: EvaluationConfig) -> Result:
    """Share of samples that lie closer to a training image than that image does to any other."""
    between_real = torch.cdist(real.manifold, real.manifold).fill_diagonal_(float("inf"))
    distance, nearest = torch.cdist(generated.manifold, real.manifold).min(dim=1)
    is_copy = distance < between_real.min(dim=1).values[nearest]
    return Result(values={"copies": float(is_copy.double().mean())})


COPIES = Metric(
    numbers=(Number(key="copies", name="copies", lower_is_better=True),), looks_at="features", compute=copies
)


def main(samples: Path, training_images: Path, extractor: str) -> None:
    """Print the metric; with COPIES in the table `METRICS`, evaluate.py reports it."""
    network = open_extractor(ExtractorConfig(name=extractor), device=torch.device("cpu"))
    generated, real = (
        measure_source(open_image_set(path), network, name=path.name, batch_size=64, manifold_size=10_000, cache=None)
        for path in (samples, training_images)
    )
    print(COPIES.result(generated, real, EvaluationConfig()).values)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
