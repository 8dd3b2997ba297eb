"""Reports to print, compare and draw, of numbers that are easy to tell apart."""

from typing import Any

from guided_diffusion.evaluation.extractors.inception import WEIGHTS as INCEPTION
from guided_diffusion.evaluation.report import Report
from guided_diffusion.evaluation.report_text import display_names

MANIFEST: dict[str, Any] = {
    "num_samples": 10_000,
    "shard_size": 1000,
    "class_names": ["dark", "grey", "light"],
    "labels": [0, 1, 2],
    "seed": 7,
    "sampler": {"name": "ddim", "steps": 25, "eta": 0.0},
    "clip": 1.0,
    "precision": "float32",
    "diffusion": {"name": "adm/checkpoint-1", "weights": "ema_0.9999", "sha256": "d" * 64},
    "classifier": {"name": "guide/checkpoint-2", "sha256": "c" * 64},
    "guidance": {"scale": 2.0},
    "environments": [{"device": "NVIDIA A100", "torch": "2.15.0"}],
}
"""As samples of ours have it."""

METRICS = {
    "frechet_distance": 3.9425574,
    "spatial_frechet_distance": 6.1404337,
    "inception_score": 215.83703,
    "inception_score_std": 3.25,
    "kernel_distance": 0.0021342,
    "kernel_distance_std": 0.00041,
    "precision": 0.8265,
    "recall": 0.5309,
}

DETAILS: dict[str, Any] = {
    "extrapolation": {
        "sizes": [1000, 2000, 4000, 10_000],
        "distances": [3.5 + 4000 / n for n in (1000, 2000, 4000, 10_000)],
        "distance": 3.5,
        "standard_error": 0.0214,
    },
    "bootstrap": {
        "distances": [3.90, 3.95, 4.00, 4.05, 4.10],
        "low": 3.8412,
        "high": 4.0512,
        "standard_error": 0.05,
        "confidence": 0.95,
        "resamples": 200,
    },
}


def report(*, num_generated: int = 10_000, metrics: dict[str, float] | None = None, **parts: Any) -> Report:
    """An evaluation on Inception; parts: other fields of the Report."""
    whole: dict[str, Any] = {
        "metrics": METRICS if metrics is None else metrics,
        "protocol": protocol(num_generated=num_generated),
        "display_names": display_names(published=INCEPTION, num_generated=num_generated),
    }
    return Report(**(whole | parts))


def protocol(*, num_generated: int = 10_000, **sampling: Any) -> dict[str, Any]:
    """sampling: what the record of sampling says otherwise."""
    told = {"seed": 7, "labels": "all 3 classes in turn", "sampler": "ddim", "steps": 25, "scale": 2.0}
    image = {"image_size": [64, 64], "channels": 3, "resize": "none"}
    return {
        "generated": {
            "path": "runs/samples",
            "kind": "shards",
            "num_images": num_generated,
            **image,
            "manifest": MANIFEST,
            "num_manifold_images": num_generated,
            "order": "as stored",
            "sampling": told | sampling,
            "made_on": "NVIDIA A100 with torch 2.15.0",
        },
        "real": {
            "path": "photos/train",
            "kind": "folder",
            "num_images": 1_281_167,
            **image,
            "manifest": None,
            "files_sha256": "a" * 64,
            "num_manifold_images": 10_000,
            "statistics": "computed",
        },
        "extractor": {
            "name": "inception-2015",
            "sha256": "e" * 64,
            "published": "inception-2015",
            "resize": "bilinear to 299x299",
        },
        "settings": {
            "batch_size": 64,
            "image_size": None,
            "neighbours": 3,
            "split_size": 5000,
            "kid_subsets": 100,
            "kid_subset_size": 1000,
        },
        "arithmetic": {"device": "cpu, x86_64", "features": "float32, TensorFloat-32 off", "statistics": "float64"},
        "versions": {"python": "3.11.7", "torch": "2.15.0"},
    }
