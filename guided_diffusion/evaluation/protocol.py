"""The protocol that numbers hold under: what was compared with what, by which network, with what settings."""

import platform
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from guided_diffusion.checkpoint import file_sha256
from guided_diffusion.data.sources import ImageSource
from guided_diffusion.evaluation.config import EvaluationConfig
from guided_diffusion.evaluation.features import FeatureExtractor
from guided_diffusion.evaluation.measure import Measured
from guided_diffusion.evaluation.scoring import Target
from guided_diffusion.evaluation.sides import Sides


def protocol_record(
    samples: Measured, target: Target, *, sides: Sides, extractor: FeatureExtractor, config: EvaluationConfig
) -> dict[str, Any]:
    generated = _source_record(sides.generated) | {"num_manifold_images": len(samples.manifold)}
    images = sides.real.images
    real = {"path": str(sides.real.path), "kind": "statistics"} if images is None else _source_record(images)
    real |= {
        "files_sha256": sides.real.files_sha256,
        "num_images": target.pooled.count,
        "num_manifold_images": 0 if target.manifold is None else len(target.manifold),
    }
    if sides.real.reference is not None:
        real |= {"statistics": "stored", "sha256": file_sha256(sides.real.path)}
    return {
        "generated": generated,
        "real": real,
        "extractor": {"name": extractor.name, "sha256": extractor.sha256, "published": extractor.published},
        "settings": asdict(config),
        "versions": _versions(),
    }


def _source_record(source: ImageSource) -> dict[str, Any]:
    height, width, channels = source.shape
    return {
        "path": str(source.path),
        "kind": source.kind,
        "num_images": source.num_images,
        "image_size": [height, width],
        "channels": channels,
        "resize": source.resize,
        "manifest": source.manifest,
    }


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in ("torch", "numpy", "scipy", "pillow", "torchmetrics", "torch-fidelity"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
