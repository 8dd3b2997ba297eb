"""The smallest data, networks and runs that still take the real road, and ways to start the real scripts."""

import fcntl
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import programs
import torch
from PIL import Image
from programs import Program

from classifiers.trained_model import Classifier
from guided_diffusion.commands.sample import SampleConfig, write_samples
from guided_diffusion.commands.train_classifier import TrainClassifierConfig
from guided_diffusion.commands.train_diffusion import TrainDiffusionConfig
from guided_diffusion.commands.train_upsampler import TrainUpsamplerConfig
from guided_diffusion.data.config import DataConfig
from guided_diffusion.diffusion.model import DiffusionModel
from guided_diffusion.diffusion.schedules import ChainConfig
from guided_diffusion.generation.run import SamplingRun
from guided_diffusion.models.unet import EncoderConfig
from guided_diffusion.samplers import SamplerConfig
from guided_diffusion.training.config import BatchConfig, LoopConfig, PreviewConfig

REPOSITORY = Path(__file__).parents[1]
CHAIN = ChainConfig(schedule="cosine", num_steps=50)


def made_once(path: Path, make: Callable[[Path], object]) -> Path:
    """The path, which the first worker to ask for it makes while the others wait."""
    made = path.with_name(f"{path.name}-made")
    with path.with_name(f"{path.name}-lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            make(path)
            made.touch()
    return path


def write_class_folder(
    path: Path, *, classes: Sequence[str] = ("dark", "light"), per_class: int = 10, size: int = 8, mode: str = "L"
) -> Path:
    """A class folder of noisy pictures, each class brighter than the one before it."""
    rng = np.random.default_rng(0)
    levels = np.linspace(50, 205, len(classes))
    shape = (size, size) if mode == "L" else (size, size, 3)
    for name, level in zip(classes, levels, strict=True):
        (path / name).mkdir(parents=True)
        for i in range(per_class):
            pixels = (level + rng.normal(0, 15, shape)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(path / name / f"{i:03d}.png")
    return path


def encoder(**changes: Any) -> EncoderConfig:
    """One level of one block, attention in the middle alone."""
    smallest = {
        "image_size": 8, "base_channels": 32, "channel_mult": (1.0,), "attention_sizes": (), "blocks_per_level": 1,
        "head_channels": 32,
    }  # fmt: skip
    return EncoderConfig(**(smallest | changes))


def loop(**changes: Any) -> LoopConfig:
    """A training loop that leaves only what a test asks for."""
    batch = BatchConfig(size=changes.pop("batch_size", 8), per_process=changes.pop("per_process", "auto"))
    quiet = {
        "batch": batch, "learning_rate": 1e-3, "ema_decays": (0.9,), "precision": "float32",
        "log_every_iterations": 10, "save_every_iterations": 1000, "observe_every_iterations": 1000,
    }  # fmt: skip
    return LoopConfig(**(quiet | changes))


def data(path: Path, **changes: Any) -> DataConfig:
    """Decoding in this process."""
    return DataConfig(path=path, num_workers=0, **changes)


def diffusion_config(
    out: Path,
    folder: Path,
    *,
    network: EncoderConfig | None = None,
    class_conditional: bool = False,
    resume: Any = None,
    preview: PreviewConfig | None = None,
    **training: Any,
) -> TrainDiffusionConfig:
    """Training a tiny diffusion model, without previews unless told; the keywords left over are the loop's."""
    return TrainDiffusionConfig(
        out=out,
        data=data(folder),
        network=network or encoder(),
        chain=CHAIN,
        training=loop(**training),
        class_conditional=class_conditional,
        resume=resume,
        preview=preview or PreviewConfig(images=0),
    )


def upsampler_config(out: Path, folder: Path, *, low_res_size: int = 4, **options: Any) -> TrainUpsamplerConfig:
    """Training a tiny upsampler from 4 to 8 pixels; the options are those of `diffusion_config`."""
    return TrainUpsamplerConfig(**vars(diffusion_config(out, folder, **options)), low_res_size=low_res_size)


def classifier_config(
    out: Path,
    folder: Path,
    *,
    network: EncoderConfig | None = None,
    diffusion: Path | None = None,
    heldout: Path | None = None,
    pooling: Any = "attention",
    **training: Any,
) -> TrainClassifierConfig:
    """Training a tiny classifier; the keywords left over are the loop's."""
    return TrainClassifierConfig(
        out=out,
        data=data(folder),
        network=network or encoder(),
        training=loop(**({"ema_decays": ()} | training)),
        diffusion=diffusion,
        heldout=heldout,
        pooling=pooling,
    )


def sampling(*, sampler: str | SamplerConfig = "ddim", **options: Any) -> dict[str, Any]:
    """Settings of a sampling run, those of the sampler gathered in one; sampler: its name."""
    if isinstance(sampler, SamplerConfig):
        return {"sampler": sampler} | options
    own = {field.name: options.pop(field.name) for field in fields(SamplerConfig) if field.name in options}
    return {"sampler": SamplerConfig(name=sampler, **own)} | options


def sample_config(out: Path, **options: Any) -> SampleConfig:
    """Sampling into `out`; options are those of `sampling`."""
    return SampleConfig(**({"out": out, "diffusion": Path("unused")} | sampling(**options)))


def sampling_run(config: SampleConfig, model: DiffusionModel, classifier: Classifier | None = None) -> SamplingRun:
    """A run of a loaded model."""
    return SamplingRun.assemble(model, classifier, guidance=config.guidance, settings=config)


def generate(config: SampleConfig, model: DiffusionModel, classifier: Classifier | None = None) -> None:
    """Sample from a loaded model."""
    write_samples(sampling_run(config, model, classifier), config)


class Watched(torch.nn.Module):
    """A network that hands its inputs to `watch` before it computes."""

    def __init__(self, network: torch.nn.Module, watch: Callable[..., object]) -> None:
        super().__init__()
        self.network, self.watch = network, watch

    def forward(self, *inputs: Any, **named: Any) -> torch.Tensor:
        self.watch(*inputs, **named)
        return self.network(*inputs, **named)


def watched(loaded: Any, watch: Callable[..., object]) -> Any:
    """A loaded model or classifier whose network is `Watched`."""
    return replace(loaded, network=Watched(loaded.network, watch))


CHAIN_OPTIONS = ("--chain.schedule=cosine", "--chain.num_steps=50")
DIFFUSION_OPTIONS = (
    "--data.num_workers=0", "--network.image_size=8", "--network.base_channels=32", "--network.channel_mult=[1]",
    "--network.attention_sizes=[]", "--network.blocks_per_level=1", "--network.head_channels=32",
    *CHAIN_OPTIONS, "--training.batch.size=8", "--training.learning_rate=0.001",
    "--training.ema_decays=[0.9]", "--training.precision=float32", "--preview.images=0",
)  # fmt: skip
"""The settings of `diffusion_config` as options of scripts/train_diffusion.py."""


def start(script: str, *options: str, processes: int = 1, threads: int | None = None, **how: Any) -> Program:
    """A script of the project as a program of its own, on as many processes.

    threads: of each process's arithmetic; None: as many as this process has, so that sums round alike. how: as
    `programs.start`.
    """
    path = REPOSITORY / "scripts" / script
    return programs.start(path, *options, processes=processes, threads=threads or torch.get_num_threads(), **how)


def finish(program: Program, *, timeout: float = 120) -> tuple[int, str]:
    """Exit status, and all that was printed."""
    return program.finish(timeout=timeout)


def awakened(network: torch.nn.Module) -> torch.nn.Module:
    """The network with random weights also where they begin as zero, so that every part of it acts."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network
