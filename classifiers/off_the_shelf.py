"""Classifiers of clean images, of torchvision or trained here, for guidance at the estimate of x_0."""

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.hub import download_url_to_file, get_dir

from guided_diffusion.checkpoint import read_state_dict
from guided_diffusion.data.labels import imagenet_class_names
from guided_diffusion.files import file_sha256

from .trained_model import load_classifier

SOFTPLUS_BETA = 3.0
"""Of EluCD's smooth activation (2310.11311)."""

BUILT_WITH: Mapping[str, Mapping[str, bool]] = {
    name: {"transform_input": True, "init_weights": False} for name in ("googlenet", "inception_v3")
}
"""Options with which torchvision builds these networks for its own weights: they normalise once more."""


@dataclass(frozen=True)
class CleanClassifier:
    """A classifier of clean images, ready for use."""

    network: Callable[[Tensor], Tensor]
    """x_0 (B, C, H, W), nominally in [-1, 1], to logits (B, num_classes), differentiable with respect to x_0."""
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int] | None
    """(C, H, W) of the images it takes; None: it resizes images of any size."""
    name: str
    """For messages and manifests, such as "torchvision:resnet50"."""
    sha256: str
    """Of its weights."""

    def labels_of(self, class_names: Sequence[str]) -> tuple[int, ...]:
        """Its own label of each of a model's classes; all of its labels for a model without class names.

        Classes are matched by name. A thousand sorted WordNet ids (n01440764, ..) are ImageNet's classes in order.

        Raises:
            ValueError: classes that it does not know, naming one.
        """
        are_ids = len(class_names) == 1000 and all(re.fullmatch(r"n\d{8}", name) for name in class_names)
        are_imagenet = are_ids and list(class_names) == sorted(class_names) and len(self.class_names) == 1000
        if not class_names or are_imagenet:
            return tuple(range(len(self.class_names)))
        known = {name: label for label, name in enumerate(self.class_names)}
        unknown = [name for name in class_names if name not in known]
        if unknown:
            shown = ", ".join(self.class_names[:5]) + (", .." if len(self.class_names) > 5 else "")
            raise ValueError(
                f"{self.name} does not know {len(unknown)} of the model's {len(class_names)} classes, the first "
                f'"{unknown[0]}"; it knows {len(self.class_names)}: {shown}'
            )
        return tuple(known[name] for name in class_names)


def load_clean_classifier(name: str, *, smooth: bool, device: torch.device | str) -> CleanClassifier:
    """The classifier that `CleanClassifierConfig.name` names, on `device`.

    smooth: with Softplus for each ReLU, as EluCD's recipe has it. Classifiers trained here have no ReLU.

    Raises:
        FileNotFoundError: no such run or file.
        ValueError: another kind of name, an unknown network, weights that do not fit it, or a noisy-image classifier.
        OSError: weights that could not be downloaded, saying how to give a file.
    """
    kind, _, what = name.partition(":")
    if kind == "torchvision" and what:
        network_name, _, file = what.partition(":")
        return _torchvision(network_name, Path(file) if file else None, smooth=smooth, device=device)
    if kind != "classifier" or not what:
        raise ValueError(
            f'there is no clean classifier "{name}"; give torchvision:NAME, torchvision:NAME:FILE or classifier:RUN'
        )
    classifier = load_classifier(Path(what), device=device)
    if classifier.config.chain is not None:
        raise ValueError(
            f"{classifier.checkpoint.path} was trained on noisy images and is evaluated at x_t: give it as --classifier"
        )

    def logits(x_0: Tensor) -> Tensor:
        return classifier.network(x_0, torch.zeros(len(x_0), device=x_0.device))

    name, shape = f"classifier:{classifier.name}", classifier.image_shape
    return CleanClassifier(logits, classifier.class_names, shape, name=name, sha256=classifier.sha256)


def clean_classifier(
    network: nn.Module,
    *,
    class_names: Sequence[str],
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
    name: str,
    sha256: str,
    interpolation: str = "bilinear",
) -> CleanClassifier:
    """A clean classifier of a network of normalised RGB images, which is frozen and put into evaluation mode.

    network: (B, 3, size, size), of which (x - mean) / std was taken for x in [0, 1], to logits (B, num_classes).
    """
    network.eval().requires_grad_(False)
    reference = next(network.parameters())
    mean_rgb, std_rgb = (torch.tensor(values).to(reference).reshape(1, 3, 1, 1) for values in (mean, std))

    def logits(x_0: Tensor) -> Tensor:
        rgb = x_0.to(reference.dtype).expand(-1, 3, -1, -1)  # grey images have three equal channels
        if rgb.shape[2:] != (size, size):
            rgb = F.interpolate(rgb, (size, size), mode=interpolation, align_corners=False, antialias=True)
        return network(((rgb + 1) / 2 - mean_rgb) / std_rgb).to(x_0.dtype)

    return CleanClassifier(logits, tuple(class_names), image_shape=None, name=name, sha256=sha256)


def smoothed(network: nn.Module, *, beta: float = SOFTPLUS_BETA) -> nn.Module:
    """A copy of the network with Softplus(beta) for each ReLU: gradients without kinks (EluCD's section 3)."""
    network = copy.deepcopy(network)
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.ReLU):
                setattr(module, name, nn.Softplus(beta=beta))
    return network


def _torchvision(name: str, file: Path | None, *, smooth: bool, device: torch.device | str) -> CleanClassifier:
    # Here, because importing torchvision takes a second and 170 MB, and most runs have no use for it.
    import torchvision.models
    from torchvision.models import get_model, get_model_weights, list_models
    from torchvision.transforms import InterpolationMode

    known = list_models(module=torchvision.models)
    if name not in known:
        raise ValueError(f'torchvision has no classifier "{name}"; it has {", ".join(known)}')
    weights = get_model_weights(name)["DEFAULT"]
    stored = _downloaded(name, weights.url) if file is None else file
    network = get_model(name, weights=None, **BUILT_WITH.get(name, {}))
    _fill(network, stored)
    preset = weights.transforms()
    interpolation = "bicubic" if preset.interpolation == InterpolationMode.BICUBIC else "bilinear"
    return clean_classifier(
        (smoothed(network) if smooth else network).to(device), class_names=imagenet_class_names(),
        size=preset.crop_size[0], mean=preset.mean, std=preset.std, interpolation=interpolation,
        name=f"torchvision:{name}", sha256=file_sha256(stored),
    )  # fmt: skip


def _downloaded(name: str, url: str) -> Path:
    """The file of the published weights in torch's hub cache, which is filled if it does not hold them."""
    file = Path(get_dir()) / "checkpoints" / url.rpartition("/")[2]
    stem = file.stem.rpartition("-")[2]  # published files end in the start of their SHA-256
    if file.is_file() and not file_sha256(file).startswith(stem):
        raise ValueError(
            f"{file} is damaged: its SHA-256 does not begin with {stem}; remove it, then it is fetched again"
        )
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            download_url_to_file(url, str(file), hash_prefix=stem, progress=False)
        except (OSError, RuntimeError) as error:
            raise OSError(
                f"the weights of {name} could not be downloaded ({error}); get {url} on a machine that can, and either "
                f"copy it to {file.parent} or give its path: --guidance.clean_classifier.name torchvision:{name}:FILE"
            ) from None
    return file


def _fill(network: nn.Module, file: Path) -> None:
    """Load a state dict into a network."""
    if not file.is_file():
        raise FileNotFoundError(f"there are no weights {file}; expected a state dict, .pth or .safetensors")
    try:
        network.load_state_dict(read_state_dict(file))
    except (RuntimeError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"the weights {file} do not fit {type(network).__name__}: {reason}") from None
