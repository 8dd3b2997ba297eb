"""Settings of trainings. Light to import: the loop and the data are not."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..compilation import Compile
from ..data.config import DataConfig
from ..diffusion.denoiser import Prediction, Variance, has_learned_variance
from ..diffusion.model import check_continuous_time
from ..diffusion.schedules import ChainConfig
from ..models.recomputation import Recomputed
from ..models.unet import EncoderConfig
from ..weight_averages import POWER, check_widths

Loss = Literal["simple", "hybrid", "vlb"]

MOST_PREVIEWS = 10_000
"""Samples in one picture, whose noise, images and pixels are all in memory."""


@dataclass(frozen=True, kw_only=True)
class BatchConfig:
    """The images of one optimiser update. Only `size` changes the result; the rest depends on the hardware."""

    size: int = 128
    """Images per update over all processes and micro-batches (ADM: 256 to 2048)."""
    per_process: int | Literal["auto"] = "auto"
    """Most images that a process computes at a time; its share of the batch is cut into such micro-batches. auto: the
    whole share, halved at the start until it fits into memory."""

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"training.batch.size must be at least 1, got {self.size}")
        if self.per_process != "auto" and self.per_process < 1:
            raise ValueError(f'training.batch.per_process must be at least 1, or "auto"; got {self.per_process}')


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """Budget, optimiser, averages, checkpoints. Exactly one of `iterations` and `images` is given."""

    iterations: int | None = None
    """Budget in optimiser updates."""
    images: int | None = None
    """Budget in images seen, over all processes; rounded up to whole iterations."""
    batch: BatchConfig = BatchConfig()
    """Images per update, and how many at a time."""
    learning_rate: float = 1e-4
    """Learning rate of AdamW (ADM table 11); with --from half of the source's, all of it if that was fine-tuned itself,
    or 5e-5 where it is not known."""
    warmup_iterations: int = 0
    """Updates over which the learning rate rises linearly from 0, while the optimiser's moments are young."""
    anneal: Literal["none", "linear"] = "none"
    """Learning rate constant, or linear to 0 at the end of the budget (ADM's classifiers)."""
    weight_decay: float = 0.0
    """Decoupled, on all parameters (ADM: 0 for diffusion, 0.05 to 0.2 for classifiers)."""
    max_grad_norm: float | None = None
    """Gradients are clipped to this L2 norm; null: not clipped, as published."""
    ema_decays: tuple[float, ...] = (0.9999,)
    """Decays of the averages to keep; previews and later commands take the slowest. Empty: none (classifiers)."""
    ema_widths: tuple[float, ...] = ()
    """Power-function averages to keep (2312.02696), by standard deviation as a share of the training so far, such as
    0.05 and 0.1. The initial weights have no part in them. Where there are any, the widest is the one that is taken."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of the network's arithmetic; auto: bfloat16 on GPUs that have it, else float32."""
    recompute_sizes: Recomputed | Literal["auto"] = "auto"
    """Activation checkpointing, less memory for more time: of the levels with feature maps of these sides, pixels; or
    pointwise, of all that is neither convolution, matrix product nor attention. auto: only where memory is short."""
    compile: Compile = "auto"
    """torch.compile the network: minutes at the start for faster iterations on GPUs. auto: where the budget repays
    them; true and false are on and off. Where compiling fails, the network runs uncompiled."""
    train_only: tuple[str, ...] = ()
    """Parts of the network to train, all others being frozen: beginnings of parameters' names or patterns of them, such
    as label, encoder or *.attention. Empty: all."""
    shard: bool = False
    """FSDP: spread weights, gradients, moments and averages over the processes, for a network that outgrows one GPU."""
    seed: int = 0
    """Seed of initial weights, data order, timesteps and noise."""
    max_skipped: int = 10
    """Updates whose loss or gradient is not finite are skipped, and nothing is saved meanwhile; this many in a row, or
    as many whose loss is absurdly large, end the run."""
    stop_after_worse: int | None = None
    """Early stopping: held-out measurements in a row without a new best after which training stops. Later commands then
    take the best checkpoint. null: train to the end of the budget."""
    log_every_iterations: int = 50
    """Interval of the lines of metrics.jsonl, which are means over it."""
    save_every_iterations: int = 5000
    """Interval of checkpoints; the end of the budget, SIGTERM, Ctrl-C and a closed terminal save as well."""
    keep_checkpoints: int = 3
    """Newest checkpoints kept; also the one before the newest until an update has shown the newest to be sound."""
    keep_every_iterations: int | None = None
    """Checkpoints at multiples of this are kept for good; null: only the newest are kept."""
    snapshot_every_iterations: int | None = None
    """Interval at which the power-function averages are kept for good, in float16 in OUT/snapshots, from which
    scripts/average_weights.py reconstructs averages of other widths. Two of 300 million weights take 1.2 GB each time;
    20 to 100 times in all do. null: never."""
    observe_every_iterations: int = 5000
    """Interval of previews (diffusion) or held-out measurements (classifiers)."""
    tensorboard: bool = False
    """Log to TensorBoard as well, into the run directory."""
    wandb: Literal["off", "online", "offline"] = "off"
    """Log to Weights & Biases as well; offline: without a network."""
    wandb_project: str = "guided-diffusion"
    """Its project."""

    def __post_init__(self) -> None:
        if (self.iterations is None) == (self.images is None):
            raise ValueError(
                "a training run needs a budget: give exactly one of --training.iterations and --training.images"
            )
        if (budget := self.images if self.iterations is None else self.iterations) is not None and budget < 0:
            raise ValueError(f"the budget must be at least 1, got {budget}")
        if not -(2**63) <= self.seed < 2**63:
            raise ValueError(f"training.seed is a whole number of 64 bits, got {self.seed}")
        if self.max_grad_norm is not None and not self.max_grad_norm > 0:  # NaN is neither
            raise ValueError(f"training.max_grad_norm is a length above 0, or null; got {self.max_grad_norm}")
        if not (0 < self.learning_rate < math.inf and 0 <= self.weight_decay < math.inf):
            raise ValueError(
                f"training.learning_rate must be above 0 and training.weight_decay not below 0; got "
                f"{self.learning_rate} and {self.weight_decay}"
            )
        for name in ("log_every_iterations", "save_every_iterations", "keep_checkpoints", "keep_every_iterations",
                     "observe_every_iterations", "snapshot_every_iterations", "max_skipped",
                     "stop_after_worse"):  # fmt: skip
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"training.{name} must be at least 1, got {getattr(self, name)}")
        if self.warmup_iterations < 0:
            raise ValueError(f"training.warmup_iterations must be at least 0, got {self.warmup_iterations}")
        wrong = [decay for decay in self.ema_decays if not 0 < decay < 1]
        if wrong:
            raise ValueError(f"training.ema_decays lie between 0 and 1, such as 0.9999; got {wrong[0]}")
        if len(set(self.ema_decays)) < len(self.ema_decays):
            raise ValueError(f"training.ema_decays names an average twice: {self.ema_decays}")
        check_widths(self.ema_widths, option="training.ema_widths")
        if self.snapshot_every_iterations is not None and not self.ema_widths:
            raise ValueError(
                "training.snapshot_every_iterations keeps power-function averages, and there are none; add "
                "--training.ema_widths '[0.05,0.1]'"
            )
        if self.shard and self.precision == "float16":
            raise ValueError("training.shard takes float32 or bfloat16: the loss scale of float16 is not sharded")

    @property
    def total_iterations(self) -> int:
        """The budget in iterations."""
        return self.iterations if self.iterations is not None else math.ceil((self.images or 0) / self.batch.size)

    @property
    def averages(self) -> tuple[str, ...]:
        """Names of the averages to keep, as checkpoints have them."""
        return (*(f"ema_{decay}" for decay in self.ema_decays), *(f"{POWER}{width}" for width in self.ema_widths))


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Settings of every training."""

    out: Path
    """Run directory: checkpoints, metrics.jsonl, previews."""
    data: DataConfig
    """The images; they decide channels and classes."""
    network: EncoderConfig
    """The network."""
    training: LoopConfig
    """Budget, optimiser, averages, checkpoints."""
    from_: Path | None = None
    """Begin from the weights of a run, a checkpoint, a published .pt file or a diffusers folder. Its network, and all
    else that weights depend on, are the defaults of the options here; classes, channels and size may be others. null:
    random weights."""
    resume: Literal["auto"] | None = None
    """auto: continue from the newest checkpoint in `out` if there is one."""
    dry_run: bool = False
    """Measure speed and memory, print what the training would cost, and write nothing."""

    def __post_init__(self) -> None:
        if self.training.total_iterations == 0 and self.from_ is None:
            raise ValueError("the budget must be at least 1, got 0; only with --from do 0 iterations make a checkpoint")


@dataclass(frozen=True, kw_only=True)
class DiffusionTrainingConfig(TrainingConfig):
    """Settings of the training of diffusion models and upsamplers."""

    chain: ChainConfig = ChainConfig()
    """The noise levels."""
    prediction: Prediction = "eps"
    """The quantity that the network estimates. mean, that of x_s, needs loss vlb and learns far more slowly: DDPM's
    table 2 reports it as the worse choice."""
    variance: Variance = "learned_range"
    """The variance of a reverse step: fixed, or estimated by the network."""
    loss: Loss = "hybrid"
    """L_simple (DDPM), L_hybrid (improved DDPM and ADM; needs a learned variance) or L_vlb."""
    timesteps: Literal["uniform", "loss_second_moment"] = "uniform"
    """Distribution of the timesteps: uniform, or importance sampling in proportion to the root mean square of their
    last losses, which makes L_vlb less noisy (improved DDPM section 3.3)."""
    min_snr_gamma: float | None = None
    """Weigh L_simple so that squared errors of x_0 count min(SNR, gamma) times (2303.09556; gamma 5 there); null: the
    weight that follows from the prediction."""
    class_conditional: bool = False
    """Condition the network on the class. A classifier guides an unconditional network as well."""
    label_dropout: float = 0.0
    """Share of samples, 0..1, whose label is dropped, for classifier-free guidance (2207.12598; 0.1 or 0.2 there);
    needs class_conditional."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_continuous_time(
            self.chain, variance=self.variance, prediction=self.prediction, loss=self.loss, timesteps=self.timesteps
        )
        learned = has_learned_variance(self.variance)
        if self.loss != "vlb" and learned == (self.loss == "simple"):
            wanted = 'loss "hybrid" or "vlb"' if learned else 'loss "simple" or "vlb"'
            raise ValueError(f'variance "{self.variance}" cannot be trained with loss "{self.loss}"; take {wanted}')
        if self.min_snr_gamma is not None and self.min_snr_gamma <= 0:
            raise ValueError(f"min_snr_gamma is a signal-to-noise ratio above 0, or null; got {self.min_snr_gamma}")
        if self.min_snr_gamma is not None and (self.loss == "vlb" or self.prediction == "mean"):
            raise ValueError(
                f'min_snr_gamma weighs L_simple of eps, x0 or v; with prediction "{self.prediction}" and loss '
                f'"{self.loss}" there is nothing for it to weigh: leave it out'
            )
        if self.prediction == "mean" and self.loss != "vlb":
            raise ValueError(
                f'prediction "mean" cannot be trained with loss "{self.loss}": the mean of x_s is x_t to a few '
                f"percent, so that its squared error hardly depends on the image (DDPM section 4.2 and table 2); take "
                f"--loss vlb, whose weight restores it, or --prediction eps"
            )
        if not 0 <= self.label_dropout < 1:
            raise ValueError(f"label_dropout is a share of the samples below 1, got {self.label_dropout}")
        if self.label_dropout and not self.class_conditional:
            raise ValueError(
                f"label_dropout {self.label_dropout} drops labels that the network is never told; add "
                f"--class_conditional true or leave it out"
            )


@dataclass(frozen=True, kw_only=True)
class PreviewConfig:
    """Samples made by DDIM as training goes, always from the same noise, with the average that later commands take."""

    images: int = 64
    """Number of samples, cycling through the classes that the network or the classifier knows; 0: no previews."""
    steps: int = 25
    """Timesteps; if no whole stride gives so many, the next greater number that one gives."""
    classifier: Path | None = None
    """Run directory or checkpoint of a classifier to guide them, trained on the same chain and classes."""
    scale: float = 1.0
    """s of that guidance, s * grad log p(y | x_t)."""

    def __post_init__(self) -> None:
        if not 0 <= self.images <= MOST_PREVIEWS:
            raise ValueError(f"preview.images is 0, for no previews, to {MOST_PREVIEWS:,} samples; got {self.images}")
        if self.steps < 2:
            raise ValueError(f"preview.steps must be at least 2, got {self.steps}")
        if self.classifier is None and self.scale != 1.0:
            raise ValueError(f"preview.scale {self.scale:g} needs a classifier; add --preview.classifier RUN")
