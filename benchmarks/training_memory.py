"""Memory of a training, counted without a GPU: python benchmarks/training_memory.py [CONFIG] [BATCH]

The forward and backward pass run on fake tensors in bfloat16 autocast: operations and results have their shapes and
types, and nothing is computed. Counted are the bytes of all tensors that live at once. Workspaces of cuDNN and the
allocator's gaps come on top; how the compiler fuses operations is not counted.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from weakref import ref

import torch
import yaml
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from guided_diffusion.models.unet import UNet, UNetConfig, level_sizes, recompute

GIB = 2**30


class Allocated(TorchDispatchMode):
    """Bytes of the storages that operations made and that still live, and their peak."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.peak = 0
        self.seen: dict[int, object] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and id(storage := tensor.untyped_storage()) not in self.seen:
                self.bytes += storage.nbytes()
                self.peak = max(self.peak, self.bytes)
                self.seen[id(storage)] = ref(storage, self._freed(id(storage), storage.nbytes()))
        return out

    def _freed(self, key: int, size: int) -> Callable[[object], None]:
        def freed(_storage: object) -> None:
            del self.seen[key]
            self.bytes -= size

        return freed


def count(network: UNet, batch: int) -> tuple[int, int]:
    """Bytes kept by the forward pass, and the peak of forward and backward pass without parameters and gradients."""
    config = network.config
    x = torch.empty(batch, config.in_channels, config.image_size, config.image_size)
    t, y = torch.empty(batch), torch.zeros(batch, dtype=torch.long)
    for parameter in network.parameters():  # so that backward adds in place
        parameter.grad = torch.empty_like(parameter)
    with Allocated() as allocated:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = network(x, t, *([y] if config.num_classes else [])).float()
        kept = allocated.bytes
        out.square().mean().backward()
    return kept, allocated.peak


def main(path: Path, batch: int) -> None:
    """Print the table."""
    settings = yaml.safe_load(path.read_text())
    classes = 1000 if settings.get("class_conditional") else None
    config = UNetConfig(**settings["network"], in_channels=3, out_channels=6, num_classes=classes)
    with FakeTensorMode(allow_non_fake_inputs=True):
        network = UNet(config).train()
        weights = sum(parameter.numel() * 4 for parameter in network.parameters())
        fixed = 5 * weights  # weights, gradients, two moments, one average
        print(f"{path}, batch {batch}: {weights / 4e6:.0f} M parameters; counted, not measured; GiB")
        print(f"weights, gradients, moments, average: {fixed / GIB:.1f}")
        print(f"{'recomputed':34} {'kept':>6} {'peak':>6} {'with the above':>15}")
        sizes = level_sizes(network)
        ways = [(), "pointwise", *(tuple(sizes[: n + 1]) for n in range(len(sizes)))]
        for way in ways:
            recompute(network, way)
            kept, peak = count(network, batch)
            name = "nothing" if way == () else "pointwise" if way == "pointwise" else f"levels {list(way)}"
            print(f"{name:34} {kept / GIB:6.1f} {peak / GIB:6.1f} {(peak + fixed) / GIB:15.1f}")


if __name__ == "__main__":
    default = "configs/imagenet256/diffusion.yaml"
    main(Path(sys.argv[1] if len(sys.argv) > 1 else default), int(sys.argv[2]) if len(sys.argv) > 2 else 16)
