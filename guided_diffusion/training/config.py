"""How long, how fast and how carefully to train."""

import math
from dataclasses import dataclass
from typing import Literal

from .tracking import WandbMode


@dataclass(frozen=True, kw_only=True)
class BatchConfig:
    """The images of one optimiser update. Only `size` changes what is learnt; the rest follows from the machine."""

    size: int = 128
    """Images per update over all processes and micro-batches (ADM: 256 to 2048)."""
    per_process: int | Literal["auto"] = "auto"
    """Most images that a process computes at a time; what is left of its share follows as further micro-batches. auto:
    all of its share, halved at the start until it fits into memory."""

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"training.batch.size must be at least 1, got {self.size}")
        if self.per_process != "auto" and self.per_process < 1:
            raise ValueError(f'training.batch.per_process must be at least 1, or "auto"; got {self.per_process}')


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How long, how fast and how carefully to train. One of `iterations` and `images` is the budget."""

    iterations: int | None = None
    """Budget in optimiser updates."""
    images: int | None = None
    """Budget in images seen, over all processes; rounded up to whole iterations."""
    batch: BatchConfig = BatchConfig()
    """Images per update, and how many at a time."""
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
    recompute_sizes: tuple[int, ...] = ()
    """Sides, pixels, of the feature maps whose levels are computed again in the backward pass instead of being kept:
    less memory for more time."""
    compile: bool = False
    """torch.compile the network: minutes at the start for faster iterations on GPUs."""
    channels_last: bool = False
    """Keep images as (B, H, W, C) in memory, which convolutions in half precision on GPUs like better."""
    shard: bool = False
    """FSDP: spread weights, gradients, moments and averages over the processes, for a network that outgrows one GPU."""
    seed: int = 0
    """Of initial weights, data order, timesteps and noise."""
    max_skipped: int = 10
    """Updates in a row whose loss or gradient is not finite: they are skipped, and this many end the run."""
    stop_after_worse: int | None = None
    """Held-out measurements in a row without a new best after which training stops; later commands then take the best
    checkpoint. null trains to the end of the budget."""
    log_every_iterations: int = 50
    """Between lines of metrics.jsonl, which average over this many."""
    save_every_iterations: int = 5000
    """Between checkpoints; the end of the budget and SIGTERM or Ctrl-C save as well."""
    keep_checkpoints: int = 3
    """Newest checkpoints kept."""
    keep_every_iterations: int | None = None
    """Checkpoints of multiples of this are kept for good; null keeps only the newest."""
    observe_every_iterations: int = 5000
    """Between previews (diffusion) or held-out measurements (classifiers)."""
    tensorboard: bool = False
    """Write the numbers for TensorBoard as well, into the run directory."""
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
        if not -(2**63) <= self.seed < 2**63:
            raise ValueError(f"training.seed is a whole number of 64 bits, got {self.seed}")
        if self.max_grad_norm is not None and self.max_grad_norm <= 0:
            raise ValueError(f"training.max_grad_norm is a length above 0, or null; got {self.max_grad_norm}")
        if self.learning_rate <= 0 or self.weight_decay < 0:
            raise ValueError(
                f"training.learning_rate must be above 0 and training.weight_decay not below 0; got "
                f"{self.learning_rate} and {self.weight_decay}"
            )
        for name in ("log_every_iterations", "save_every_iterations", "keep_checkpoints", "keep_every_iterations",
                     "observe_every_iterations", "max_skipped", "stop_after_worse"):  # fmt: skip
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"training.{name} must be at least 1, got {getattr(self, name)}")
        wrong = [decay for decay in self.ema_decays if not 0 < decay < 1]
        if wrong:
            raise ValueError(f"training.ema_decays lie between 0 and 1, such as 0.9999; got {wrong[0]}")
        if len(set(self.ema_decays)) < len(self.ema_decays):
            raise ValueError(f"training.ema_decays names an average twice: {self.ema_decays}")
        if self.shard and self.precision == "float16":
            raise ValueError("training.shard takes float32 or bfloat16: the loss scale of float16 is not sharded")

    @property
    def total_iterations(self) -> int:
        """The budget in iterations."""
        return self.iterations if self.iterations is not None else math.ceil((self.images or 0) / self.batch.size)
