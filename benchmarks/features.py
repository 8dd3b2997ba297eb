"""Speed and accuracy of our Inception extractor and torch-fidelity's.

python benchmarks/features.py [--sizes "[64, 256]"] [--weights FILE]
"""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from comparison import Work, compared, counted, grown, offered
from rounds import Missing
from torch import Tensor, nn

from guided_diffusion.config import run_command
from guided_diffusion.distributed import default_device
from guided_diffusion.evaluation.extractors.features import PublishedExtractor
from guided_diffusion.evaluation.extractors.inception import (
    InceptionNetwork,
    load_inception,
    resized_like_tensorflow,
)


@dataclass(frozen=True, kw_only=True)
class FeatureBenchmark:
    """Extracts features of the same random images with both."""

    weights: Path | None = None
    """Inception's, torch-fidelity's file; null: random ones, which are as fast."""
    sizes: tuple[int, ...] = (64, 256)
    """Sides of the images, in pixels."""
    batch: int = 32
    """Images at a time, of both."""
    batches: tuple[int, ...] = (4, 8, 16, 32)
    """Batches, for the growth with them."""
    rounds: int = 5
    """Rounds of the comparison; growth takes three."""


@torch.inference_mode()
def main(config: FeatureBenchmark) -> None:
    """Prints a table for each size, and the growth with the batch at the last of them."""
    with TemporaryDirectory() as directory:
        path = config.weights or _random_weights(Path(directory) / "weights.pth")
        ours, size = load_inception(path, device=default_device()), config.sizes[-1]
        for size in config.sizes:
            print(of_size(size, path, ours, config))
        ways = {batch: partial(ours, _images(batch, size)) for batch in config.batches}
        print(grown(f"Growth of Inception features, {size} pixels", {"batch": ways}))


def of_size(size: int, path: Path, ours: PublishedExtractor, config: FeatureBenchmark) -> str:
    """The table of a size, with the deviations of features from torch-fidelity's and of both from float64."""
    device, images = default_device(), _images(config.batch, size)
    exact = InceptionNetwork().eval()
    exact.load_state_dict(torch.load(path, weights_only=True))
    layers = lambda: _layers(InceptionNetwork().eval())  # noqa: E731
    flops, parameters = counted(layers, lambda network: network(torch.zeros(1, 3, 299, 299)))
    work = Work(lambda: ours(images), config.batch, config.batch * flops, parameters)
    theirs = offered(lambda: replace(work, way=partial(_torch_fidelity(path, device), images.to(device))))
    found = {"ours": ours(images[:4]).pooled.cpu()}
    if not isinstance(theirs, Missing):
        found["torch-fidelity"] = theirs.way()[0][:4].cpu()
    note = f"Batch {config.batch}. {deviations(found, _float64(exact, images[:4]))}"
    works = {"ours by default": work, "torch-fidelity": theirs}
    return compared(f"Inception features of {size} pixels", works, rounds=config.rounds, device=device, note=note)


def deviations(found: dict[str, Tensor], exact: Tensor) -> str:
    """Sentences about the largest deviations."""
    from_exact = [f"{name} {_deviation(one, exact):.1e}" for name, one in found.items()]
    between = f"; from each other {_deviation(*found.values()):.1e}" if len(found) > 1 else ""
    return f"Deviation from float64: {', '.join(from_exact)}{between}, of the largest feature."


def _torch_fidelity(path: Path, device: torch.device) -> nn.Module:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    return FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(path)
    ).to(device)


def _images(batch: int, size: int) -> Tensor:
    rng = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8, generator=rng)


def _random_weights(path: Path) -> Path:
    """Weights under which activations neither die nor grow, and normalisations have something to fold."""
    network = InceptionNetwork()
    rng = torch.Generator().manual_seed(0)
    for name, tensor in network.state_dict().items():
        if tensor.ndim > 1:
            tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5, generator=rng)
        elif name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5, generator=rng)
        elif name.endswith(("bias", "running_mean")):
            tensor.normal_(0, 0.1, generator=rng)
    torch.save(network.state_dict(), path)
    return path


def _float64(network: nn.Module, images: Tensor) -> Tensor:
    resized = resized_like_tensorflow(images.float(), size=299).double()
    return _layers(network.double())((resized - 128) / 128).flatten(1)


def _layers(network: nn.Module) -> nn.Module:
    """All but the classifier."""
    return nn.Sequential(*list(network.children())[:-1])


def _deviation(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected.double()).abs().max() / expected.abs().max())


if __name__ == "__main__":
    run_command(FeatureBenchmark, main)
