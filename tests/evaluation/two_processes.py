"""Started once per process by test_processes: evaluates argument 1 against 2, into directory 3, at the batch sizes
given, and makes a reference of argument 2 at each."""

import sys
from pathlib import Path

from evaluation.pixel_extractor import PixelExtractor

from guided_diffusion.evaluation.config import EvaluationConfig
from guided_diffusion.evaluation.reference_builder import make_reference
from guided_diffusion.evaluation.run import evaluate

generated, real, out = map(Path, sys.argv[1:4])
for batch_size in map(int, sys.argv[4:]):
    evaluate(
        generated=generated,
        real=real,
        extractor=PixelExtractor(),
        config=EvaluationConfig(batch_size=batch_size, split_size=50),
        out=out / f"{batch_size}.json",
    )
    make_reference(
        real, extractor=PixelExtractor(), out=out / f"{batch_size}.npz", batch_size=batch_size, manifold_images=50
    )
