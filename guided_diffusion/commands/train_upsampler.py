"""Train an upsampler: python scripts/train_upsampler.py --config configs/imagenet256/upsampler.yaml"""

from dataclasses import dataclass
from functools import partial
from typing import Any

from ..config import run_command
from ..diffusion.model import UpsamplerModelConfig
from ..models.upsampler import Upsampler, UpsamplerConfig, check_low_res
from ..training.config import DiffusionTrainingConfig, PreviewConfig
from ..training.source import inherited_options, origin_model


@dataclass(frozen=True, kw_only=True)
class TrainUpsamplerConfig(DiffusionTrainingConfig):
    """Train an upsampler on a folder of images of the size that it is to make."""

    low_res_size: int
    """Side of the images that it will enlarge, pixels; training reduces the data to it."""
    conditioning_noise: float | None = None
    """Conditioning augmentation (2106.15282 section 4.3): noise the reduced images, each at a rate between 0 and this
    one, at most 1, on which the network is conditioned; it then corrects more errors of a base model. null: they stay
    clean, as published."""
    preview: PreviewConfig = PreviewConfig(images=16)
    """Enlargements made as training goes, every training.observe_every_iterations; a classifier does not guide them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_low_res(self.low_res_size, self.conditioning_noise, image_size=self.network.image_size)
        if self.preview.classifier is not None:
            raise ValueError("the previews of an upsampler are not guided: leave preview.classifier out")


def train_upsampler(config: TrainUpsamplerConfig) -> None:
    """Train as configured; see `fit` for how it ends."""
    # Here, so that --help does not import what reads images.
    from ..training.diffusion_objective import diffusion_config, diffusion_objective
    from ..training.loop import open_training_data, train
    from ..training.previews import upsampler_previews

    data = open_training_data(config, class_names=origin_model(config, "upsampler").get("class_names", ()))
    diffusion = diffusion_config(config, data)
    network = UpsamplerConfig(
        **vars(diffusion.network), low_res_size=config.low_res_size, conditioning_noise=config.conditioning_noise
    )
    fields: dict[str, Any] = vars(diffusion) | {"network": network}
    model = UpsamplerModelConfig(**fields)
    train(
        config, data, kind="upsampler", model=model, make_network=partial(Upsampler, network),
        objective=diffusion_objective(config, model), observe=upsampler_previews(config.preview, model, data, config),
    )  # fmt: skip


main = partial(
    run_command, TrainUpsamplerConfig, train_upsampler, inherited=partial(inherited_options, kind="upsampler")
)
