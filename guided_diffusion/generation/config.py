"""What sampling runs are told: how to sample, what to make, and where it goes."""

from dataclasses import dataclass
from pathlib import Path

from ..diffusion.chain import DiffusionChain
from ..diffusion.denoiser import Clip
from ..diffusion.schedules import ChainConfig
from ..guidance.config import GuidanceConfig
from ..models.precision import Precision
from ..samplers import Sampler, SamplerConfig, SamplerName, make_sampler
from ..samplers.ddpm import GradientAt


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What every sampling run is told: how to sample, and where the samples go."""

    out: Path
    """Directory for shards, manifest and grid; a run that was interrupted continues there."""
    sampler: SamplerName = SamplerConfig.name
    """ddim, which with eta 0 is Euler's method; the ancestral ddpm, guided by the paper's mean shift; for few steps
    dpmpp_2m, dpmpp_2s (DPM-Solver++), unipc or heun (EDM; two evaluations a step); with noise dpmpp_2m_sde; on the
    score langevin, predictor_corrector."""
    steps: int | str = SamplerConfig.steps
    """How many timesteps, in the sampler's own spacing, or which: sections 10,20,30, or a whole stride ddim25."""
    eta: float | None = SamplerConfig.eta
    """Share of ancestral noise in ddim, 0..1; null: 0."""
    snr: float | None = SamplerConfig.snr
    """Length of the steps of langevin and predictor_corrector; null: as published, 0.22 and 0.16."""
    langevin_steps: int | None = SamplerConfig.langevin_steps
    """Steps of langevin and predictor_corrector at each noise level; null: as published, 100 and 1."""
    gradient_at: GradientAt | None = SamplerConfig.gradient_at
    """Where ddpm's mean shift takes the classifiers' gradients, x_t or mean; null: x_t, as in the published code."""
    clip: float | None = 1.0
    """Estimates of x_0 are clamped to [-clip, clip]; null leaves them."""
    threshold: float | None = None
    """In place of clip, dynamic thresholding: each estimate of x_0 is clamped to this quantile of its absolute values,
    at least 1, and divided by it; 0.995 is usual. null: no."""
    weights: str | None = None
    """Weights of the checkpoint sampled from, such as ema_0.9999 or network; null: its slowest average."""
    seed: int = 0
    """Of the noise of every sample, and of labels that are drawn, together with the sample's id."""
    precision: Precision = "float32"
    """Of arithmetic inside the networks; samplers always compute in float32. float16, which published samples were made
    in, needs a GPU. Pixels depend on it, so no machine chooses it by itself."""
    batch_size: int = 64
    """Images at a time in each process; halved where memory is out. Another size may change a pixel by one grey
    level."""
    cpu_threads: int = 1
    """Threads of each process where there is no GPU; another number may change a pixel by one grey level. To use all
    cores, run as many processes: torchrun --nproc_per_node 8 scripts/sample.py .."""
    shard_size: int = 1000
    """Images in each file; what an interruption can cost at most, for each process."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "cpu_threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        sampler_config(self)  # refuses what cannot be


@dataclass(frozen=True, kw_only=True)
class GuidedRunConfig(RunConfig):
    """What sampling runs of a diffusion model are told besides: the model, and who guides it."""

    diffusion: Path
    """Run directory or checkpoint of the diffusion model."""
    classifier: Path | None = None
    """Run directory or checkpoint of a classifier trained on that model's noise."""
    guidance: GuidanceConfig = GuidanceConfig()
    """Who else guides, how strongly, and in which interval of noise."""


@dataclass(frozen=True, kw_only=True)
class SampleConfig(GuidedRunConfig):
    """Sample from a diffusion model, guided by a classifier if one is named."""

    num_samples: int = 64
    """Images to make."""
    labels: int | str = "all"
    """Classes asked for. In turn: all, also called balanced; a label or name; several such as 0,1,2; or file:PATH, of
    which line i mod N is sample i's, a label or a name. Drawn for each sample by the seed and its id: uniform, or
    frequencies:PATH, as often as in training data, in samples, or in the arr_1 of an npz."""
    animate: int = 0
    """Sample so many of the first samples once more and show their denoising in OUT/animation.webp: x_t on the left,
    the estimate of x_0 on the right; with an upsampler, those in OUT/base. May be asked for when all samples are
    there."""
    upsampler: Path | None = None
    """Run directory or checkpoint of an upsampler that enlarges the samples, by the same sampler and steps: they go to
    OUT/base, and enlarged to OUT. With settings of its own: scripts/upsample.py."""
    conditioning_noise: float = 0.0
    """Noise rate given to images before they are enlarged, by an upsampler that was trained on it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.animate and not 0 < self.animate <= self.num_samples:
            raise ValueError(f"animate is a number of the {self.num_samples} samples, 0 for none; got {self.animate}")
        if self.conditioning_noise and self.upsampler is None:
            raise ValueError(
                f"conditioning_noise {self.conditioning_noise:g} is for images to be enlarged; add --upsampler RUN or "
                f"leave it out"
            )


def sampler_and_chain(config: RunConfig, chain: ChainConfig) -> tuple[Sampler, DiffusionChain]:
    """The sampler that a run asks for, and the links of a model's chain that it takes.

    Raises:
        ValueError: timesteps that the chain has not, or an option of another sampler.
    """
    sampler = sampler_config(config)
    return make_sampler(sampler), sampler.levels(chain)


def sampler_config(config: RunConfig) -> SamplerConfig:
    """The sampler and its timesteps, as a component of their own.

    Raises:
        ValueError: an option of another sampler.
    """
    names = ("steps", "eta", "snr", "langevin_steps", "gradient_at", "clip", "threshold")
    return SamplerConfig(name=config.sampler, **{name: getattr(config, name) for name in names})


def clipping(config: RunConfig) -> Clip:
    """How a run's estimates of x_0 are clipped."""
    return sampler_config(config).clipping
