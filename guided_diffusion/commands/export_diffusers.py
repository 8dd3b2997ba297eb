"""Write a diffusion model as a pipeline of diffusers: python scripts/export_diffusers.py runs/adm64 --out adm64"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from ..config import run_command


@dataclass(frozen=True, kw_only=True)
class ExportDiffusersConfig:
    """Write a diffusion model as a folder that Hugging Face diffusers loads."""

    run: Path
    """Run directory or checkpoint of a diffusion model."""
    out: Path
    """Folder to write."""
    classifier: Path | None = None
    """Run directory or checkpoint of a classifier of noisy images, which the exported pipeline guides by."""
    weights: str | None = None
    """Weights of the diffusion model, such as network or ema_0.9999; null: the slowest average if there is one."""
    variance: Literal["small", "large"] | None = None
    """Leave out the learned variance, which few schedulers of diffusers can read, and sample with this one; null: as
    the model."""


def export_diffusers(config: ExportDiffusersConfig) -> None:
    """Write the folder, and print the lines of Python that load it.

    Raises:
        ValueError: a model that diffusers cannot say, or a classifier that does not fit it.
    """
    from classifiers.trained_model import load_classifier  # here, with all that needs torch, so that --help is quick

    from ..diffusers import with_variance, write_pipeline
    from ..diffusion.model import load_diffusion
    from ..guidance.compatibility import check_classifier

    model = load_diffusion(config.run, weights=config.weights)
    classifier = None if config.classifier is None else load_classifier(config.classifier)
    if classifier is not None:
        check_classifier(model.config, classifier, run=config.run)
    described, weights = model.config, model.network.state_dict()
    if config.variance is not None:
        described, weights = with_variance(described, weights, config.variance)
    name = write_pipeline(config.out, described, weights, classifier)
    print(f"{model.checkpoint.path}, weights {model.weights}: written to {config.out}")
    steps = min(250, model.config.chain.num_steps)
    trust, labels = ("", "") if name == "DDPMPipeline" else (", trust_remote_code=True", "class_labels=[0, 0], ")
    print(
        f"from diffusers import DiffusionPipeline\n"
        f'pipeline = DiffusionPipeline.from_pretrained("{config.out}"{trust})\n'
        f"images = pipeline({labels}num_inference_steps={steps}).images"
    )


main = partial(run_command, ExportDiffusersConfig, export_diffusers, positional="run")
