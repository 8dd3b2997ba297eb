"""How long, how fast and how carefully to train."""

import math
from dataclasses import dataclass
from typing import Literal

from .tracking import WandbMode


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How long, how fast and how carefully to train. One of `iterations` and `images` is the budget."""

    iterations: int | None = None
    """Budget in optimiser updates."""
    images: int | None = None
    """Budget in images seen, over all processes; rounded up to whole iterations."""
    batch_size: int = 128
    """Images per update over all processes and micro-batches (ADM: 256 to 2048)."""
    accumulation: int = 1
    """Micro-batches per update in each process."""
    learning_rate: float = 1e-4
    """Of AdamW (ADM table 11)."""
    anneal: Literal["none", "linear"] = "none"
    """Learning rate kept, or brought linearly to 0 at the end of the budget (ADM's classifiers)."""
    weight_decay: float = 0.0
    """Decoupled, on all parameters (ADM: 0 for diffusion, 0.05 to 0.2 for classifiers)."""
    max_grad_norm: float | None = None
    """Gradients longer than this are scaled down to it; null leaves them alone, as published."""
    ema_decays: tuple[float, ...] = (0.9999,)
    """Averages kept, each under its name; previews and later commands take the slowest. Empty: none (classifiers)."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of the network's arithmetic; auto takes bfloat16 on GPUs that have it, else float32."""
    seed: int = 0
    """Of initial weights, data order, timesteps and noise."""
    log_every_iterations: int = 50
    """Between lines of metrics.jsonl, which average over this many."""
    save_every_iterations: int = 5000
    """Between checkpoints; the end of the budget and SIGTERM or Ctrl-C save as well."""
    keep_checkpoints: int = 3
    """Newest checkpoints kept."""
    observe_every_iterations: int = 5000
    """Between previews (diffusion) or held-out measurements (classifiers)."""
    wandb: WandbMode = "off"
    """Weights & Biases: off, online, or offline for a network-less machine."""
    wandb_project: str = "guided-diffusion"
    """Project its runs are filed under."""

    def __post_init__(self) -> None:
        if (self.iterations is None) == (self.images is None):
            raise ValueError(
                "a training run needs a budget: give exactly one of --training.iterations and --training.images"
            )
        if self.total_iterations < 1:
            budget = self.images if self.iterations is None else self.iterations
            raise ValueError(f"the budget must be at least 1, got {budget}")
        if self.max_grad_norm is not None and self.max_grad_norm <= 0:
            raise ValueError(f"training.max_grad_norm is a length above 0, or null; got {self.max_grad_norm}")
        for name in ("batch_size", "accumulation", "log_every_iterations", "save_every_iterations",
                     "keep_checkpoints", "observe_every_iterations"):  # fmt: skip
            if getattr(self, name) < 1:
                raise ValueError(f"training.{name} must be at least 1, got {getattr(self, name)}")
        wrong = [decay for decay in self.ema_decays if not 0 < decay < 1]
        if wrong:
            raise ValueError(f"training.ema_decays lie between 0 and 1, such as 0.9999; got {wrong[0]}")

    @property
    def total_iterations(self) -> int:
        """The budget in iterations."""
        return self.iterations if self.iterations is not None else math.ceil((self.images or 0) / self.batch_size)
