"""How two sets of images are compared."""

from dataclasses import asdict, dataclass


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """How two sets of images are compared. The defaults are the published protocol, if the real side holds 10,000."""

    batch_size: int = 64
    """Images that go through the extractor at once, per process."""
    image_size: int | None = None
    """Side in pixels; pictures in folders get the published centre crop to it.

    None: the size of the generated images.
    """
    neighbours: int = 3
    """k of precision and recall: how far a ball around a feature reaches, in neighbours.

    3 is Kynkäänniemi's, and ADM's.
    """
    density_neighbours: int = 5
    """k of density and coverage, Naeem et al.'s."""
    split_size: int = 5000
    """Images per split of the Inception Score, as published."""
    real_manifold: int = 10_000
    """Real images, spread over the set, that precision, recall, density, coverage and the kernel distance look at.

    At most; published.
    """
    generated_manifold: int = 50_000
    """The same of generated images. Published."""
    kid_subsets: int = 100
    """Pairs of subsets that the kernel distance is averaged over."""
    kid_subset_size: int = 1000
    """Images in each of them."""
    extrapolate: bool = False
    """Fréchet distance extrapolated to infinitely many samples as well, from those of growing subsets."""
    bootstrap: int = 0
    """Resamplings of the generated images for an interval around the Fréchet distance; 0: none. 200 are plenty."""

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value is not None and name not in ("extrapolate", "bootstrap") and value < 1:
                raise ValueError(f"evaluation's {name} must be positive, got {value}")
        if self.bootstrap < 0 or self.bootstrap == 1:
            raise ValueError(f"an interval needs at least 2 resamplings (bootstrap; 0 for none), got {self.bootstrap}")
        most = max(self.neighbours, self.density_neighbours)
        for name, kept in (("real_manifold", self.real_manifold), ("generated_manifold", self.generated_manifold)):
            if kept <= most:
                raise ValueError(f"{name} must exceed the {most} neighbours that are looked at, got {kept}")
