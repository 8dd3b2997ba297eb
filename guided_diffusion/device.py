"""Which device to compute on."""

import torch


def has_accelerator() -> bool:
    """Whether to use torch's accelerator. Not Apple's: it has no float64, in which coefficients are formed."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return accelerator is not None and accelerator.type != "mps"


def default_device() -> torch.device:
    """The device of a command that runs as one process."""
    device = torch.accelerator.current_accelerator(check_available=True)
    return device if device is not None and has_accelerator() else torch.device("cpu")
