"""The machine of a benchmark: its description, and its peaks, measured beside the work that is compared with them."""

import ctypes
import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import psutil
import torch
import torch.nn.functional as F
from rounds import Way

LIBRARIES = ("torch", "numpy", "scipy", "diffusers", "denoising-diffusion-pytorch", "torch-fidelity", "torchvision")


class Peak(NamedTuple):
    """Work that a machine does as fast as it can."""

    way: Way
    work: float
    """Operations, or bytes read and written, of one call."""


def peaks(device: torch.device) -> Mapping[str, Peak]:
    """Matrix products, 3x3 convolutions in both memory formats, and a copy in memory, by name."""
    on_gpu = device.type == "cuda"
    dtype, side, batch = (torch.bfloat16, 8192, 64) if on_gpu else (torch.float32, 4096, 8)
    matrix = torch.randn(side, side, device=device, dtype=dtype)
    x = torch.randn(batch, 256, 32, 32, device=device, dtype=dtype)
    weight = torch.randn(256, 256, 3, 3, device=device, dtype=dtype)
    x_last, weight_last = (tensor.to(memory_format=torch.channels_last) for tensor in (x, weight))
    source = torch.randn(1 << (28 if on_gpu else 26), device=device)
    target = torch.empty_like(source)
    convolution = 2 * 9 * 256**2 * x[:, 0].numel()
    name = "bf16" if on_gpu else "fp32"
    return {
        f"{name} matrix product": Peak(lambda: matrix @ matrix, 2 * side**3),
        f"{name} convolution": Peak(lambda: F.conv2d(x, weight, padding=1), convolution),
        f"{name} convolution, channels_last": Peak(lambda: F.conv2d(x_last, weight_last, padding=1), convolution),
        "memory": Peak(lambda: target.copy_(source), 2 * source.numel() * source.element_size()),
    }


def description() -> list[str]:
    """Lines about hardware, threads, allocator and versions."""
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    found = [f"{name} {_version(name)}" for name in LIBRARIES]
    found += [f"CUDA {torch.version.cuda}", f"cuDNN {torch.backends.cudnn.version()}"] if gpus else []
    return [
        f"Processor: {_processor()}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}; "
        f"{psutil.virtual_memory().total / 2**30:.0f} GiB of memory",
        f"GPU: {', '.join(gpus) or 'none'}",
        f"Threads: {torch.get_num_threads()}",
        f"Allocator: {allocator()}",
        f"Versions: Python {platform.python_version()}, {', '.join(found)}",
    ]


def allocator() -> str:
    """The memory allocator and its settings, which move results by up to 1.4 times."""
    settings = [f"{name}={value}" for name, value in sorted(os.environ.items())
                if name.startswith(("MALLOC_", "GLIBC_TUNABLES", "PYTORCH_")) or name == "LD_PRELOAD"]  # fmt: skip
    try:
        glibc = ctypes.CDLL("libc.so.6").gnu_get_libc_version
        glibc.restype = ctypes.c_char_p
        name = f"glibc {glibc().decode()}"
    except (OSError, AttributeError):
        name = platform.libc_ver()[0] or "unknown"
    return f"{name}, {' '.join(settings) or 'default settings'}"


def load() -> str:
    """Load average of the last minute."""
    return f"{os.getloadavg()[0]:.2f}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"
