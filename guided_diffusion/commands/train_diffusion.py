"""Train a diffusion model: python scripts/train_diffusion.py --config configs/digits/diffusion.yaml"""

from dataclasses import dataclass
from functools import partial

from ..config import run_command
from ..models.unet import UNet
from ..training.config import DiffusionTrainingConfig, PreviewConfig
from ..training.source import inherited_options, origin_model


@dataclass(frozen=True, kw_only=True)
class TrainDiffusionConfig(DiffusionTrainingConfig):
    """Train a diffusion model on a folder of images."""

    preview: PreviewConfig = PreviewConfig()
    """Samples made as training goes, every training.observe_every_iterations."""


def train_diffusion(config: TrainDiffusionConfig) -> None:
    """Train as configured; see `fit` for how it ends."""
    # Here, so that --help does not import what reads images.
    from ..training.diffusion_objective import diffusion_config, diffusion_objective
    from ..training.loop import open_training_data, train
    from ..training.previews import diffusion_previews

    data = open_training_data(config, class_names=origin_model(config, "diffusion").get("class_names", ()))
    model = diffusion_config(config, data)
    train(
        config, data, kind="diffusion", model=model, make_network=partial(UNet, model.network),
        objective=diffusion_objective(config, model), observe=diffusion_previews(config.preview, model, data, config),
    )  # fmt: skip


main = partial(
    run_command, TrainDiffusionConfig, train_diffusion, inherited=partial(inherited_options, kind="diffusion")
)
