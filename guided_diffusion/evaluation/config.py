"""Settings of the metrics."""

from dataclasses import asdict, dataclass
from typing import Any

from ..data.config import Window, check_window


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Settings of the metrics. The defaults are the published protocol, if the real side holds 10,000 images."""

    batch_size: int = 64
    """Images of one forward pass of the extractor, per process."""
    image_size: int | None = None
    """Side in pixels, to which pictures get the published centre crop; null: the size of the generated images."""
    window: Window | None = None
    """As data.window of a training, for pictures on either side with grey of more than 8 bits; null: all 16 bits."""
    neighbours: int = 3
    """k of precision and recall, the radius of a ball around a feature; 3 is Kynkäänniemi's, and ADM's."""
    density_neighbours: int = 5
    """k of density and coverage, Naeem et al.'s."""
    split_size: int = 5000
    """Images per split of the Inception Score, as published."""
    real_manifold: int = 10_000
    """Most real images for precision, recall, density, coverage and kernel distance; spread over the set, published."""
    generated_manifold: int = 50_000
    """The same of generated images; published."""
    kid_subsets: int = 100
    """Pairs of subsets that the kernel distance is averaged over."""
    kid_subset_size: int = 1000
    """Images in each of them."""
    extrapolate: bool = False
    """Also extrapolate the Fréchet distance to infinitely many samples, from growing subsets."""
    bootstrap: int = 0
    """Resamplings of the generated images for an interval around the Fréchet distance; 0: none. 200 are plenty."""

    def __post_init__(self) -> None:
        check_window(self.window, option="protocol.window")
        for name, value in asdict(self).items():
            if value is not None and name not in ("window", "extrapolate", "bootstrap") and value < 1:
                raise ValueError(f"--protocol.{name} must be positive, got {value}")
        if self.bootstrap < 0 or self.bootstrap == 1:
            raise ValueError(
                f"an interval needs at least 2 resamplings; got --protocol.bootstrap {self.bootstrap} (0 for none)"
            )
        most = max(self.neighbours, self.density_neighbours)
        for name in ("real_manifold", "generated_manifold"):
            if (kept := getattr(self, name)) <= most:
                raise ValueError(f"--protocol.{name} must exceed the {most} neighbours that are looked at, got {kept}")

    def record(self) -> dict[str, Any]:
        """The settings for protocols, without the window: where it applied, it is in the records of the sets."""
        return {name: value for name, value in asdict(self).items() if name != "window"}

    def check_num_images(self, count: int, subject: str) -> None:
        """Refuse, by a ValueError, a set that is too small; subject: beginning of the message, such as "PATH holds"."""
        if count <= self.neighbours:
            raise ValueError(
                f"{subject} {count} images, but precision and recall look at {self.neighbours} neighbours of each; "
                f"give more images"
            )
