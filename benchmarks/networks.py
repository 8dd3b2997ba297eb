"""Our networks as a user opens them, with random weights: sampling runs and trainings under the library's defaults."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, fields, replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from torch import Tensor, nn

from classifiers.model import ClassifierConfig, NoisyClassifier
from guided_diffusion.models.config import EncoderConfig
from guided_diffusion.models.unet import UNet, UNetConfig

CONFIGS = Path(__file__).parents[1] / "configs"


@dataclass(frozen=True, kw_only=True)
class Size:
    """A diffusion model and the classifier that guides it."""

    network: EncoderConfig
    classifier: EncoderConfig
    classes: int = 10
    """Classes of the classifier."""
    is_conditional: bool = False
    """The diffusion model knows the classes too."""

    @property
    def unet(self) -> UNetConfig:
        """The U-Net with learned variance."""
        return UNetConfig(**vars(self.network), num_classes=self.classes if self.is_conditional else None)

    @property
    def noisy_classifier(self) -> ClassifierConfig:
        """The classifier of noisy images."""
        return ClassifierConfig(**vars(self.classifier), num_classes=self.classes)

    def inputs(self, batch: int, device: torch.device | str) -> tuple[Tensor, Tensor, Tensor]:
        """x_t (B, 3, H, W), t (B,) and labels (B,)."""
        side = self.network.image_size
        x_t = torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(0), device="cpu").to(device)
        t = torch.linspace(10, 990, batch, device=device)
        return x_t, t, torch.arange(batch, device=device) % self.classes


def small(image_size: int = 64) -> Size:
    """25.45 million parameters, ADM's layers at a third of its width."""
    network = EncoderConfig(
        image_size=image_size, base_channels=64, channel_mult=(1, 2, 3, 4),
        attention_sizes=(image_size // 2, image_size // 4, image_size // 8),
    )  # fmt: skip
    return Size(network=network, classifier=network)


def tiny(image_size: int = 8) -> Size:
    """The network of `make demo` in colour, to try a benchmark in seconds."""
    network = EncoderConfig(
        image_size=image_size, base_channels=32, channel_mult=(1, 2), attention_sizes=(image_size // 2,),
        blocks_per_level=1, head_channels=32,
    )  # fmt: skip
    return Size(network=network, classifier=network)


def published(name: str) -> Size:
    """The networks of configs/NAME."""
    network = _described(CONFIGS / name / "diffusion.yaml")
    is_conditional = bool(_yaml(CONFIGS / name / "diffusion.yaml").get("class_conditional"))
    classifier, classes = _described(CONFIGS / name / "classifier.yaml"), 1000 if name.startswith("imagenet") else 10
    return Size(network=network, classifier=classifier, classes=classes, is_conditional=is_conditional)


@cache
def _yaml(file: Path) -> Mapping[str, Any]:
    return yaml.safe_load(file.read_text())


def _described(file: Path) -> EncoderConfig:
    known = {field.name for field in fields(EncoderConfig)}
    given = {name: value for name, value in _yaml(file)["network"].items() if name in known}
    return EncoderConfig(**{name: tuple(value) if isinstance(value, list) else value for name, value in given.items()})


def randomised(network: nn.Module) -> nn.Module:
    """The network with random numbers in the layers that begin at 0, so that no arithmetic is with zeros."""
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        if not parameter.is_meta and not parameter.detach().any():
            nn.init.normal_(parameter, std=0.02, generator=generator)
    return network


def unet(size: Size) -> UNet:
    """The U-Net itself, as it is built: float32, NCHW, its parameters with gradients."""
    torch.manual_seed(0)
    network = UNet(size.unet)
    randomised(network)
    return network


def classifier(size: Size) -> NoisyClassifier:
    """The classifier, likewise."""
    torch.manual_seed(1)
    network = NoisyClassifier(size.noisy_classifier)
    randomised(network)
    return network


def write_models(size: Size, directory: Path) -> None:
    """Run directories "diffusion" and "classifier" of random weights."""
    from classifiers.trained_model import ClassifierModelConfig
    from guided_diffusion.checkpoint import save_checkpoint
    from guided_diffusion.config import to_plain
    from guided_diffusion.diffusion.model import DiffusionConfig
    from guided_diffusion.diffusion.schedules import ChainConfig

    names = tuple(f"class {label:04d}" for label in range(size.classes))
    diffusion = DiffusionConfig(network=size.unet, chain=ChainConfig(), class_names=names)
    noisy = ClassifierModelConfig(network=size.noisy_classifier, chain=ChainConfig(), class_names=names)
    for kind, model, network in (("diffusion", diffusion, unet(size)), ("classifier", noisy, classifier(size))):
        save_checkpoint(
            directory / kind, kind=kind, iteration=1, model=to_plain(model), run={},
            weights={"network": network.state_dict()},
        )  # fmt: skip


def sampling_run(directory: Path, *, steps: int, batch: int, guided: bool = True, **settings: Any) -> Any:
    """A `SamplingRun` of DDIM as scripts/sample.py opens it for 50,000 samples, of the models of `write_models`."""
    from guided_diffusion.generation.config import SampleSetConfig
    from guided_diffusion.generation.run import SamplingRun
    from guided_diffusion.guidance.config import GuidanceConfig
    from guided_diffusion.samplers import SamplerConfig

    config = SampleSetConfig(
        out=directory / "samples", diffusion=directory / "diffusion", batch_size=batch, num_samples=batch,
        classifier=directory / "classifier" if guided else None, guidance=GuidanceConfig(scale=1.0 if guided else None),
        sampler=SamplerConfig(name="ddim", steps=steps), cpu_threads=torch.get_num_threads(), **settings,
    )  # fmt: skip
    run = SamplingRun.open(config)
    run.prepare(run.plan(replace(config, num_samples=50_000)))
    return run


def first_batch(run: Any, size: int) -> Any:
    """The first samples of a `SamplingRun`, with fresh noise."""
    from guided_diffusion.generation.plan import InTurn, Plan

    labels = InTurn(tuple(range(len(run.guidance.class_names)))) if run.guidance.knows_classes else None
    plan = Plan(num_samples=size, shard_size=size, labels=labels, seed=0)
    return plan.batch(range(size), device=run.device)


def write_images(folder: Path, *, image_size: int, count: int) -> Path:
    """Two class folders of random colour images."""
    rng = np.random.default_rng(0)
    for label in ("a", "b"):
        (folder / label).mkdir(parents=True)
        for number in range(count // 2):
            pixels = rng.integers(0, 256, (image_size, image_size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{number:05d}.png")
    return folder


def training_state(size: Size, directory: Path, *, batch: int, num_workers: int = 0, **training: Any) -> Any:
    """The `TrainState` of a training as scripts/train_diffusion.py begins it.

    training: changes of its loop's config.
    """
    from guided_diffusion.commands.prepare_data import PrepareConfig, prepare_data
    from guided_diffusion.data.batches import EndlessBatches
    from guided_diffusion.data.config import DataConfig
    from guided_diffusion.data.image_set import open_training_set
    from guided_diffusion.diffusion.model import DiffusionConfig
    from guided_diffusion.diffusion.schedules import ChainConfig, training_chain
    from guided_diffusion.diffusion.timesteps import UniformTimesteps
    from guided_diffusion.training.config import BatchConfig, LoopConfig
    from guided_diffusion.training.diffusion_objective import DiffusionObjective
    from guided_diffusion.training.run import TrainingRun
    from guided_diffusion.training.setup import set_up

    side, packed = size.network.image_size, directory / "packed"
    if not packed.exists():
        folder = write_images(directory / "images", image_size=side, count=256)
        with redirect_stdout(sys.stderr):
            prepare_data(PrepareConfig(data=DataConfig(path=folder, num_workers=num_workers), size=side, out=packed))
    data = open_training_set(DataConfig(path=packed, num_workers=num_workers), image_size=side)
    model = DiffusionConfig(network=size.unet, chain=ChainConfig())
    settings = LoopConfig(**{"iterations": 100_000, "batch": BatchConfig(size=batch)} | training)
    run = TrainingRun(
        directory=directory / "run", kind="diffusion", model=model, settings=settings, network=unet(size),
        objective=DiffusionObjective(UniformTimesteps(training_chain(ChainConfig())), model, "hybrid"),
        batches=EndlessBatches(data, batch_size=batch, seed=0, num_workers=num_workers), config=settings,
    )  # fmt: skip
    state = set_up(run)
    run.network.train()
    return state


def iterate(state: Any, stream: Iterator[Any], count: int) -> None:
    """Make iterations in the order of `training.loop`: gradients, the update before judged, the update."""
    from guided_diffusion.stop_request import StopRequest
    from guided_diffusion.training.step import accumulate, launch, settle

    stop = StopRequest()
    for micro_batches in islice(stream, count):
        gradients = accumulate(state, micro_batches, stop)
        settle(state)
        launch(state, gradients, stop)
        if not state.settles_late:
            settle(state)
    settle(state)
