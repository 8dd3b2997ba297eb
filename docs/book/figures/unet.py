"""Draw docs/book/figures/unet.png: shares of parameters and operations by feature-map side in ADM's 64x64 network."""

from collections import Counter
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import torch
from torch.utils.flop_counter import FlopCounterMode

from guided_diffusion import UNet, UNetConfig

CONFIG = UNetConfig(
    image_size=64, base_channels=192, channel_mult=(1, 2, 3, 4), attention_sizes=(32, 16, 8), blocks_per_level=3,
    num_classes=1000,
)  # fmt: skip


def side_of(name: str) -> int:
    """Side of the feature map that the module of this name works at."""
    parts = name.split(".")
    if "levels" in parts:
        depth = int(parts[parts.index("levels") + 1])
        coarsest = len(CONFIG.channel_mult) - 1
        return CONFIG.image_size >> (depth if parts[0] == "encoder" else coarsest - depth)
    return CONFIG.image_size >> len(CONFIG.channel_mult) - 1 if "middle" in parts else CONFIG.image_size


def main() -> None:
    mpl.use("agg")
    with torch.device("meta"):
        network = UNet(CONFIG)
        x_t, t, y = torch.empty(1, 3, 64, 64), torch.empty(1), torch.empty(1, dtype=torch.int64)
    parameters, operations = Counter[int](), Counter[int]()
    for name, parameter in network.named_parameters():
        parameters[side_of(name)] += parameter.numel()
    with FlopCounterMode(display=False) as counter:
        network(x_t, t, y)
    counts = counter.get_flop_counts()
    total = sum(counts["Global"].values())
    for name, module in network.named_modules():
        if not any(module.children()) or type(module).__name__ == "SelfAttention":
            within = sum(counts.get(f"UNet.{name}", {}).values())
            inner = sum(sum(counts.get(f"UNet.{name}.{child}", {}).values()) for child, _ in module.named_children())
            operations[side_of(name)] += within - inner
    print(f"{sum(parameters.values()) / 1e6:.0f} M parameters, {total / 1e9:.0f} GFLOP, of them by side:", operations)
    assert sum(operations.values()) == total
    sides = sorted(parameters, reverse=True)
    figure, axis = plt.subplots(figsize=(6, 2.8), layout="constrained")
    for offset, (label, shares) in zip(
        (-0.2, 0.2), (("parameters", parameters), ("operations", operations)), strict=True
    ):
        whole = sum(shares.values())
        axis.bar([i + offset for i in range(len(sides))], [shares[s] / whole for s in sides], width=0.38, label=label)
    axis.set(xticks=range(len(sides)), xticklabels=[f"{s} x {s}" for s in sides], ylabel="share")
    axis.set(xlabel="feature map, pixels")
    axis.legend(frameon=False)
    figure.savefig(Path(__file__).with_suffix(".png"), dpi=110)


if __name__ == "__main__":
    main()
