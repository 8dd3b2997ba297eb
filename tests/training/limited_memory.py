"""A command in 64 MiB beside what its libraries take: python limited_memory.py train_diffusion [options]"""

import importlib
import resource
import sys

import psutil
import torch

import guided_diffusion.training.loop  # noqa: F401  # and all that it needs, before the limit

if __name__ == "__main__":
    command = importlib.import_module(f"guided_diffusion.commands.{sys.argv[1]}")
    torch.set_num_threads(1)
    limit = psutil.Process().memory_info().vms + 64 * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    command.main(sys.argv[2:])
