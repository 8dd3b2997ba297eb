"""Settings that sampling runs share."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..compilation import Compile
from ..config import check_at_least
from ..guidance.config import GuidanceConfig
from ..models.precision import Precision
from ..samplers import SamplerConfig

SamplingPrecision = Literal["auto"] | Precision


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """Settings of sampling, on disk or in memory."""

    sampler: SamplerConfig = SamplerConfig()
    """Sampler, its timesteps and its clipping."""
    seed: int = 0
    """Seed of every sample's noise and drawn label, together with the sample's id."""
    precision: SamplingPrecision = "auto"
    """Arithmetic of the networks; samplers compute in float32. auto: float32 on CPUs; on GPUs float16 or bfloat16,
    whichever is nearer to float32 on these weights. The manifest records the choice, since pixels depend on it."""
    compile: Compile = "auto"
    """torch.compile the networks, on GPUs; auto: where the run is long enough to repay the minute or so that it takes.
    Rounding differs, and with it a pixel by one grey level."""
    batch_size: int = 64
    """Images at a time in each process; halved when memory runs out. It may change a pixel by one grey level."""

    def __post_init__(self) -> None:
        check_at_least(self, batch_size=1)
        if self.compile not in ("auto", "on", "off", True, False):
            raise ValueError(f'compile is auto, on or off; got "{self.compile}"')
        if not -(2**63) <= self.seed < 2**63:  # larger ones would draw the noise of smaller ones
            raise ValueError(f"seed is a whole number of 64 bits, got {self.seed}")


@dataclass(frozen=True, kw_only=True)
class RunConfig(SamplingConfig):
    """Settings of a sampling run that writes shards."""

    out: Path
    """Directory for shards, manifest and grid; an interrupted run continues there."""
    weights: str | None = None
    """Weights of the checkpoint, such as ema_0.9999 or network; null: its slowest average."""
    cpu_threads: int = 1
    """Threads of each process without a GPU; it may change a pixel by one grey level. To use all cores, start as many
    processes: torchrun --nproc_per_node 8 scripts/sample.py .."""
    shard_size: int = 1000
    """Images in each file; an interruption loses at most this many for each process."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, cpu_threads=1)


@dataclass(frozen=True, kw_only=True)
class GuidedRunConfig(RunConfig):
    """Settings of a sampling run of a diffusion model."""

    diffusion: Path
    """Run directory or checkpoint of the diffusion model."""
    classifier: Path | None = None
    """Run directory or checkpoint of a classifier trained on that model's noise."""
    guidance: GuidanceConfig = GuidanceConfig()
    """Kinds of guidance, their strengths and their interval of noise."""


@dataclass(frozen=True, kw_only=True)
class SampleSetConfig(GuidedRunConfig):
    """Settings of a set of samples from noise."""

    num_samples: int = 64
    """Number of samples."""
    labels: str | int = "all"
    """Classes asked for. In turn: all, also called balanced; a label or name, label:3 where a number is also a name;
    several such as 0,1,2; or file:PATH, of which line i mod N is sample i's. Drawn for each sample by the seed and its
    id: uniform, or frequencies:PATH, as often as in training data, in samples, or in the arr_1 of an npz."""
