"""Write a checkpoint in the published layout: python scripts/export_openai.py runs/adm64 --out adm64.pt"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..config import run_command


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Write a checkpoint in the published layout."""

    run: Path
    """Run directory or checkpoint."""
    out: Path
    """The .pt file to write."""
    weights: str | None = None
    """Weights to export, such as network or ema_0.9999; null: the slowest average if there is one."""


def export_openai(config: ExportConfig) -> None:
    """Write the checkpoint's weights in the published layout, and print the flags that go with them."""
    import torch  # here, so that --help is quick

    from ..checkpoint import open_checkpoint, read_weights
    from ..files import atomic_write
    from ..openai import Converted, revert
    from ..openai.flags import CHECKPOINT_KIND, Kind, parse_command_line

    checkpoint = open_checkpoint(config.run, *CHECKPOINT_KIND.values())
    kind: Kind = next(kind for kind, name in CHECKPOINT_KIND.items() if name == checkpoint.kind)
    weights = read_weights(checkpoint, config.weights)
    flags = checkpoint.run.get("flags") if "imported" in checkpoint.run else None
    origin = parse_command_line(flags) if isinstance(flags, str) else None
    origin = checkpoint.run.get("published_flags", origin)
    published = revert(Converted(kind, checkpoint.model, weights), origin=origin)
    with atomic_write(config.out) as file:
        torch.save(dict(published.weights), file)
    print(f"wrote {config.out}, which goes with")
    print(" ".join(f"--{name} {value}" for name, value in published.flags.items()))
    if (channels := checkpoint.model["network"]["in_channels"]) != 3:
        print(
            f"the published code has no flag for its {channels} image channels: change its in_channels and out_channels"
        )


main = partial(run_command, ExportConfig, export_openai, positional="run")
