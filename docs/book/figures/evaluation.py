"""Draw docs/book/figures/evaluation.png: FD, precision and recall of sets that differ in one thing."""

from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import torch
from torch import Tensor

from guided_diffusion.evaluation.metrics.frechet import frechet_distance
from guided_diffusion.evaluation.metrics.neighbours import precision_recall

COUNT = 2000
CENTRES = torch.tensor([[-3.0, -3.0], [-3.0, 3.0], [3.0, -3.0], [3.0, 3.0]])


def drawn(seed: int, *, modes: int = 4, spread: float = 1.0, shift: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    centres = CENTRES[torch.randint(modes, (COUNT,), generator=generator)]
    return centres + spread * torch.randn(COUNT, 2, generator=generator) + torch.tensor([shift, 0.0])


def numbers(generated: Tensor, real: Tensor) -> tuple[float, float, float]:
    distance = frechet_distance(generated.mean(0), generated.T.cov(), real.mean(0), real.T.cov())
    return distance, *precision_recall(real=real, generated=generated)


def main() -> None:
    mpl.use("agg")
    real = drawn(0)
    changes: list[tuple[str, list[float], Callable[[float], Tensor]]] = [
        ("moved by", [0, 1, 2, 3, 4, 5], lambda value: drawn(1, shift=value)),
        ("spread times", [0.25, 0.5, 0.75, 1, 1.5, 2], lambda value: drawn(1, spread=value)),
        ("centres kept, of 4", [1, 2, 3, 4], lambda value: drawn(1, modes=int(value))),
    ]
    figure, panels = plt.subplots(1, 3, figsize=(9, 2.8), layout="constrained")
    distances = panels[0]
    for panel, (label, values, make) in zip(panels, changes, strict=True):
        rows = torch.tensor([numbers(make(value), real) for value in values])
        panel.plot(values, rows[:, 1], "o-", color="tab:blue", label="precision")
        panel.plot(values, rows[:, 2], "s-", color="tab:orange", label="recall")
        panel.set(xlabel=label, ylim=(0, 1.05))
        distances = panel.twinx()
        distances.plot(values, rows[:, 0], "k--", label="FD")
        distances.set(ylim=(0, None))
    panels[0].set(ylabel="precision, recall")
    distances.set(ylabel="FD")
    lines = [*panels[0].get_lines(), *distances.get_lines()]
    figure.legend(handles=lines, loc="outside upper center", ncols=3, frameon=False)
    figure.savefig(Path(__file__).with_suffix(".png"), dpi=110)


if __name__ == "__main__":
    main()
