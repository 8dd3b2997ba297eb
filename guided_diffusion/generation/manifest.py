"""What a directory of samples says of itself: all that pixels depend on, and what they were computed by."""

import platform
from importlib.metadata import version
from typing import Any

import torch

from ..config import to_plain
from ..diffusion.model import weights_record
from ..guidance.run import Guidance, classifier_record
from .config import RunConfig, clipping, sampler_config
from .plan import Plan


def sample_manifest(config: RunConfig, guidance: Guidance, plan: Plan) -> dict[str, Any]:
    """All that the samples' pixels depend on, but for floating-point kernels."""
    return {
        "num_samples": plan.num_samples,
        "shard_size": plan.shard_size,
        "class_names": guidance.class_names,
        "labels": None if plan.labels is None else plan.labels.record(),
        "seed": config.seed,
        "sampler": sampler_config(config).record(),
        "clip": to_plain(clipping(config)),
        "precision": config.precision,
        "diffusion": weights_record(guidance.model),
        "classifier": None if guidance.classifier is None else classifier_record(guidance.classifier),
        "guidance": guidance.record(),
    }


def environment(config: RunConfig, device: torch.device) -> dict[str, Any]:
    """What floating-point kernels depend on: it moves pixels by a grey level at most, and may change on the way."""
    on_gpu = device.type == "cuda"
    return {
        "python": platform.python_version(),
        **{package: version(package) for package in ("torch", "numpy", "accelerate")},
        "device": torch.cuda.get_device_name(device) if on_gpu else f"{device.type}, {platform.machine()}",
        "kernels": None if on_gpu else torch.backends.cpu.get_cpu_capability(),
        "cpu_threads": None if on_gpu else config.cpu_threads,
        "batch_size": config.batch_size,
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "tf32_convolutions": torch.backends.cudnn.allow_tf32 if on_gpu else None,
        "tf32_matrix_products": torch.backends.cuda.matmul.allow_tf32 if on_gpu else None,
    }
