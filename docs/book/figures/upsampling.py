"""Draw docs/book/figures/upsampling.png: an image, its reduction, and what an upsampler's network sees of that."""

from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from sklearn.datasets import load_sample_image

from guided_diffusion.training.diffusion_objective import area_reduced

SIZE, SMALL = 256, 32


def main() -> None:
    mpl.use("agg")
    photograph = torch.from_numpy(load_sample_image("flower.jpg")[60:316, 180:436].copy())
    x0 = photograph.permute(2, 0, 1)[None].double() / 127.5 - 1
    reduced = area_reduced(x0, SMALL)
    stretched = F.interpolate(reduced, size=(SIZE, SIZE), mode="bilinear", align_corners=False)
    figure, panels = plt.subplots(1, 3, figsize=(9, 3.2), layout="constrained")
    titles = (f"image, {SIZE} pixels", f"reduced to {SMALL}", "stretched, as the network sees it")
    for panel, picture, title in zip(panels, (x0, reduced, stretched), titles, strict=True):
        panel.imshow((picture[0].permute(1, 2, 0) + 1) / 2, interpolation="nearest")
        panel.set(xticks=[], yticks=[], title=title)
    figure.savefig(Path(__file__).with_suffix(".png"), dpi=80)


if __name__ == "__main__":
    main()
