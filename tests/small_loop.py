"""A training loop with a network of two convolutions and an objective that knows nothing of diffusion."""

import json
from pathlib import Path

import tiny
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from guided_diffusion.data.batches import Batch, EndlessBatches
from guided_diffusion.data.image_set import open_training_set
from guided_diffusion.diffusion.noise import SeededNoise
from guided_diffusion.run_directory import checkpoints
from guided_diffusion.training.config import LoopConfig
from guided_diffusion.training.loop import fit
from guided_diffusion.training.objective import Losses, Objective, Observe
from guided_diffusion.training.run import TrainingRun


class Convolutions(nn.Module):
    """Has dropout, so that everything random in a loop is at work."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.Tanh(), nn.Dropout(0.3), nn.Conv2d(8, 1, 3, padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def denoise(network: nn.Module, batch: Batch, noise: SeededNoise) -> Losses:
    """Predict the noise added to an image."""
    eps = noise(batch.x0)
    loss = ((network(batch.x0 + eps) - eps) ** 2).mean()
    return Losses(total=loss, logged={"brightness": batch.x0.mean()})


def train(
    run_dir: Path,
    folder: Path,
    config: LoopConfig,
    *,
    objective: Objective = denoise,
    observe: Observe | None = None,
    resume: bool = False,
    model: object = None,
    best_by: str | None = None,
    kind: str = "test",
) -> None:
    """Train `Convolutions` on the folder."""
    torch.manual_seed(config.seed)
    data = open_training_set(tiny.data(folder), image_size=8)
    fit(
        TrainingRun(
            directory=run_dir,
            kind=kind,
            model=model or {"width": 8},
            settings={},
            network=Convolutions(),
            objective=objective,
            batches=EndlessBatches(data, batch_size=config.batch.size, seed=config.seed, num_workers=0),
            config=config,
            observe=observe,
            best_by=best_by,
            resume=resume,
        )
    )


class CrashError(Exception):
    pass


def crash_at(iteration: int) -> Observe:
    def observe(network: nn.Module, now: int) -> dict[str, float]:
        if now == iteration:
            raise CrashError
        return {}

    return observe


def metrics(run_dir: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def all_tensors(checkpoint: Path) -> dict[str, Tensor]:
    files = [*checkpoint.glob("*.safetensors"), checkpoint / "resume" / "optimizer.safetensors"]
    return {f"{file.name}/{key}": tensor for file in files for key, tensor in load_file(file).items()}


def assert_same_training(ours: Path | None, theirs: Path | None) -> None:
    """Every weight, average and moment, to the bit."""
    assert ours is not None
    assert theirs is not None
    assert ours.name == theirs.name
    a, b = all_tensors(ours), all_tensors(theirs)
    assert a.keys() == b.keys()
    assert [key for key in a if not torch.equal(a[key], b[key])] == []


def names(run_dir: Path) -> list[str]:
    """Names of its checkpoints, oldest first."""
    return [path.name for path in checkpoints(run_dir)]


def broken_at(*iterations: int, part: str = "loss") -> Objective:
    """`denoise`, but at these iterations (from 1) the loss, or the gradient alone, is not finite."""
    calls = 0

    def objective(network: nn.Module, batch: Batch, noise: SeededNoise) -> Losses:
        nonlocal calls
        calls += 1
        total = denoise(network, batch, noise).total
        if calls in iterations:
            # The gradient of sqrt(0 * x) is not finite, the value is 0.
            total = total * float("nan") if part == "loss" else total + (total * 0).sqrt()
        return Losses(total=total, logged={})

    return objective
