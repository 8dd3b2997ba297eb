"""Differences of an exported model in diffusers from the same model here: outputs of networks, and samples.

python benchmarks/diffusers_agreement.py runs/demo/diffusion runs/demo/classifier
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import Tensor

from classifiers.trained_model import Classifier, load_classifier
from guided_diffusion.diffusers import with_variance, write_pipeline
from guided_diffusion.diffusion.model import DiffusionConfig, DiffusionModel, load_diffusion
from guided_diffusion.diffusion.noise import SeededNoise
from guided_diffusion.diffusion.schedules import ChainConfig, make_chain, sampling_chain
from guided_diffusion.guidance.classifier import classifier_score
from guided_diffusion.guidance.score import tilted
from guided_diffusion.models.unet import UNet, UNetConfig
from guided_diffusion.samplers import ddim, ddpm

LINEAR, COSINE = ChainConfig(), ChainConfig(schedule="cosine")
NETWORKS = {
    "ADM, 64 pixels, 1,000 classes": (COSINE, UNetConfig(
        image_size=64, base_channels=192, channel_mult=(1, 2, 3, 4), attention_sizes=(32, 16, 8), blocks_per_level=3,
        num_classes=1000,
    )),
    "improved DDPM's CIFAR-10, T = 4,000 told as t/4": (ChainConfig(schedule="cosine", num_steps=4000, rescale_t=True),
        UNetConfig(
            image_size=32, base_channels=128, channel_mult=(1, 2, 2, 2), attention_sizes=(16, 8), blocks_per_level=3,
            head_channels=None, heads=1, resample="conv",
    )),
    "shifts, no parameters of resampling": (LINEAR, UNetConfig(
        image_size=32, base_channels=64, channel_mult=(1, 2, 2), attention_sizes=(16,), modulation="add",
        resample="plain",
    )),
}  # fmt: skip


def network_difference(chain: ChainConfig, config: UNetConfig, folder: Path) -> str:
    """Largest difference of outputs for random weights, none 0, and the largest output."""
    torch.manual_seed(0)
    ours = UNet(config).eval()
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.normal_(std=0.3 if parameter.ndim == 1 else parameter[0].numel() ** -0.5)
    write_pipeline(folder, DiffusionConfig(network=config, chain=chain), ours.state_dict())
    theirs = diffusers.UNet2DModel.from_pretrained(folder, subfolder="unet")
    found: list[str] = []
    for dtype in (torch.float32, torch.float64):
        k = torch.tensor([0, chain.num_steps - 1])
        x_t = torch.randn(2, config.in_channels, config.image_size, config.image_size, dtype=dtype)
        y = torch.tensor([3, 7]) if config.num_classes else None
        with torch.no_grad():
            output = ours.to(dtype)(x_t, make_chain(chain).t[k].float(), y)
            difference = output - theirs.to(dtype)(x_t, k, class_labels=y).sample
        found.append(f"{float(difference.abs().max()):.1e} of {float(output.abs().max()):.2g} in {dtype}")
    return ", ".join(found)


def ours(
    model: DiffusionModel, classifier: Classifier, y: Tensor, *, steps: int, scale: float, eta: float | None
) -> Tensor:
    """Samples from the noise of seed 0, in 0..1."""
    noise = SeededNoise(0, range(len(y)))
    x_T, term = noise(torch.zeros(len(y), *model.image_shape)), classifier_score(classifier.log_prob, y, scale)
    denoiser = model.denoiser(None)
    if eta is None:
        drawn = ddpm(denoiser, sampling_chain(model.config.chain, str(steps)), x_T, noise, mean_shift=term)
    else:
        drawn = ddim(tilted(denoiser, term), sampling_chain(model.config.chain, f"ddim{steps}"), x_T, noise, eta=eta)
    return (drawn / 2 + 0.5).clamp(0, 1)


def main() -> None:
    """Print the differences."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("diffusion", type=Path)
    parser.add_argument("classifier", type=Path)
    given = parser.parse_args()
    model, classifier = load_diffusion(given.diffusion), load_classifier(given.classifier)
    y, weights, steps = torch.arange(4), model.network.state_dict(), model.config.chain.num_steps
    with tempfile.TemporaryDirectory() as scratch:
        for number, (name, (chain, config)) in enumerate(NETWORKS.items()):
            print(f"{name}: {network_difference(chain, config, Path(scratch) / str(number))}", flush=True)
        write_pipeline(Path(scratch) / "plain", model.config, weights)
        write_pipeline(Path(scratch) / "fixed", *with_variance(model.config, weights, "small"))
        write_pipeline(Path(scratch) / "guided", model.config, weights, classifier)
        plain = diffusers.DDPMPipeline.from_pretrained(Path(scratch) / "plain")
        fixed = diffusers.DDPMPipeline.from_pretrained(Path(scratch) / "fixed")
        implicit = diffusers.DDIMPipeline(fixed.unet, diffusers.DDIMScheduler.from_config(fixed.scheduler.config))
        guided = diffusers.DiffusionPipeline.from_pretrained(Path(scratch) / "guided", trust_remote_code=True)
        settings: list[tuple[Any, int, float, float | None, dict[str, Any]]] = [
            (plain, steps, 0.0, None, {"batch_size": 4}),
            (implicit, 50, 0.0, 0.0, {"batch_size": 4, "eta": 0.0, "use_clipped_model_output": True}),
            *((guided, count, 4.0, eta, {"class_labels": y.tolist(), "classifier_scale": 4.0, "eta": eta})
              for count, eta in ((25, None), (250, None), (25, 0.0), (50, 0.5))),
        ]  # fmt: skip
        for pipeline, count, scale, eta, options in settings:
            pipeline.set_progress_bar_config(disable=True)
            generators = SeededNoise(0, range(4)).generators
            images = pipeline(generator=generators, num_inference_steps=count, output_type="np", **options).images
            expected = ours(model, classifier, y, steps=count, scale=scale, eta=eta).permute(0, 2, 3, 1)
            difference = float((torch.from_numpy(images) - expected).abs().max())
            name = type(pipeline).__name__
            print(f"{name}, {count} steps, scale {scale:g}, eta {eta}: {difference:.1e} of pixels in 0..1", flush=True)


if __name__ == "__main__":
    main()
