"""Started by test_feature_cache: evaluates argument 1 against 2 into 3, argument 4 seconds a batch.

Prints how many images it looked at.
"""

import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from evaluation.pixel_extractor import PixelExtractor
from torch import Tensor

from guided_diffusion.evaluation import run
from guided_diffusion.evaluation.config import EvaluationConfig
from guided_diffusion.evaluation.extractors.features import Features
from guided_diffusion.evaluation.feature_cache import FeatureCache

generated, real, out = map(Path, sys.argv[1:4])
seen: list[int] = []


@dataclass(frozen=True)
class SlowExtractor(PixelExtractor):
    def __call__(self, images_uint8: Tensor) -> Features:
        time.sleep(float(sys.argv[4]))
        seen.append(len(images_uint8))
        return super().__call__(images_uint8)


run.FeatureCache = partial(FeatureCache, every_seconds=0)
run.evaluate(generated=generated, real=real, extractor=SlowExtractor(), config=EvaluationConfig(batch_size=10), out=out)
print(sum(seen))
