"""Classifiers of clean images, of torchvision, trained here or a user's own, for guidance at the estimate of x_0."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.hub import download_url_to_file, get_dir

from guided_diffusion.checkpoint import read_state_dict
from guided_diffusion.data.labels import imagenet_class_names, matched
from guided_diffusion.files import file_sha256
from guided_diffusion.own_code import frozen, imported, qualified_name, weights_sha256

from .activations import smoothed
from .trained_model import load_classifier

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
    sha256: str | None
    """Of its weights; None for a function of a user's own."""

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
        labels = tuple(matched(class_names, self.class_names))
        unknown = [name for name, label in zip(class_names, labels, strict=True) if label < 0]
        if unknown:
            shown = ", ".join(self.class_names[:5]) + (", .." if len(self.class_names) > 5 else "")
            raise ValueError(
                f"{self.name} does not know {len(unknown)} of the model's {len(class_names)} classes, the first "
                f'"{unknown[0]}"; it knows {len(self.class_names)}: {shown}'
            )
        return labels


def load_clean_classifier(name: str, *, smooth: bool, device: torch.device | str) -> CleanClassifier:
    """The classifier that `CleanClassifierConfig.name` names, on `device`.

    smooth: `smoothed`, as EluCD's recipe has it. Classifiers trained here have no kinks to smooth.

    Raises:
        FileNotFoundError: no such run or file.
        ValueError: another kind of name, an unknown network, weights that do not fit it, or a noisy-image classifier.
        OSError: weights that could not be downloaded, saying how to give a file.
    """
    kind, _, what = name.partition(":")
    if kind == "torchvision" and what:
        network_name, _, file = what.partition(":")
        return _torchvision(network_name, Path(file) if file else None, smooth=smooth, device=device)
    if kind != "classifier" and kind and what:
        return _imported(kind, what, smooth=smooth, device=device)
    if kind != "classifier" or not what:
        raise ValueError(
            f'there is no clean classifier "{name}"; give torchvision:NAME, torchvision:NAME:FILE, classifier:RUN or, '
            f"of your own, MODULE:ATTRIBUTE"
        )
    classifier = load_classifier(Path(what), device=device)
    if classifier.config.chain is not None:
        raise ValueError(
            f"{classifier.checkpoint.path} was trained on noisy images and is evaluated at x_t: give it as "
            f"--classifier, or train one of clean images with --diffusion null"
        )

    def logits(x_0: Tensor) -> Tensor:
        return classifier.network(x_0, torch.zeros(len(x_0), device=x_0.device))

    name, shape = f"classifier:{classifier.name}", classifier.image_shape
    return CleanClassifier(logits, classifier.class_names, shape, name=name, sha256=classifier.sha256)


def clean_classifier(
    network: Callable[[Tensor], Tensor],
    *,
    class_names: Sequence[str] = (),
    size: int | None = None,
    mean: float | Sequence[float] = 0.5,
    std: float | Sequence[float] = 0.5,
    interpolation: str = "bilinear",
    smooth: bool = False,
    device: torch.device | str | None = None,
) -> CleanClassifier:
    """A clean classifier of any network or function of images; a module is copied, frozen and put into evaluation mode.

    network: (B, C, size, size), of which (x - mean) / std was taken for x in [0, 1], to logits (B, num_classes). 0.5
    and 0.5 give it [-1, 1], 0 and 1 give it [0, 1], 0 and 1/255 give it [0, 255]; three means make colour of grey
    images. class_names: in the order of its logits; none for those of the guided model. size: None for images of any
    size. smooth: `smoothed`. device: None leaves the network where it is.
    """
    name, sha256, reference = qualified_name(network), None, None
    if isinstance(network, nn.Module):
        network = frozen(network, device)
        sha256 = weights_sha256(network)
        reference = next((one for one in network.parameters() if one.is_floating_point()), None)
    evaluated = smoothed(network) if smooth else network
    mean_c, std_c = (torch.as_tensor(values).float().reshape(1, -1, 1, 1) for values in (mean, std))

    def logits(x_0: Tensor) -> Tensor:
        x = x_0 if reference is None else x_0.to(reference.dtype)
        x = x.expand(-1, max(x.shape[1], mean_c.shape[1]), -1, -1)  # grey images have three equal channels
        if size is not None and x.shape[2:] != (size, size):
            x = F.interpolate(x, (size, size), mode=interpolation, align_corners=False, antialias=True)
        return evaluated(((x + 1) / 2 - mean_c.to(x)) / std_c.to(x)).to(x_0.dtype)

    return CleanClassifier(logits, tuple(class_names), image_shape=None, name=name, sha256=sha256)


def fitted(
    clean: CleanClassifier, *, image_shape: tuple[int, int, int], class_names: tuple[str, ...], device: torch.device
) -> CleanClassifier:
    """`clean`, tried on two images of a model; without class names of its own it gets the model's `class_names`.

    Raises:
        ValueError: a classifier that fails, or gives anything but finite, differentiable logits of all its classes.
    """
    images = torch.zeros(2, *image_shape, device=device, requires_grad=True)
    try:
        with torch.enable_grad():
            logits = clean.network(images)
    except Exception as error:  # whatever a user's own code raises
        raise ValueError(
            f"{clean.name} fails on images (batch, channels, height, width) {tuple(images.shape)}: "
            f"{type(error).__name__}: {error}"
        ) from error
    if logits.ndim != 2 or len(logits) != len(images):
        raise ValueError(f"{clean.name} must give logits (2, num_classes) of 2 images, got {tuple(logits.shape)}")
    if not logits.isfinite().all():
        raise ValueError(f"{clean.name} gives logits that are not finite; look at its weights and its normalisation")
    if not logits.requires_grad:
        raise ValueError(f"{clean.name} is not differentiable: its logits have no gradient with respect to the images")
    names = clean.class_names or class_names or tuple(str(label) for label in range(logits.shape[1]))
    if len(names) != logits.shape[1]:
        whose = "its own class_names" if clean.class_names else "the model"
        raise ValueError(
            f"{clean.name} gives {logits.shape[1]} logits, but there are {len(names)} classes in {whose}; name the "
            f"class of each logit: clean_classifier(network, class_names=[..])"
        )
    return replace(clean, class_names=names)


def _imported(module: str, attribute: str, *, smooth: bool, device: torch.device | str) -> CleanClassifier:
    """A user's own classifier."""
    name = f"{module}:{attribute}"
    try:
        found = imported(module, attribute)
        if not isinstance(found, CleanClassifier | nn.Module):
            found = found()
        if not isinstance(found, CleanClassifier):
            names = getattr(found, "class_names", ())
            found = clean_classifier(found, class_names=names, smooth=smooth, device=device)
    except Exception as error:  # whatever a user's own code raises
        raise ValueError(
            f"--guidance.clean_classifier.name {name} gives no classifier ({type(error).__name__}: {error}); MODULE "
            f"must be installed or lie in this directory, and ATTRIBUTE be a network, a clean_classifier(..), or a "
            f"function without arguments that returns one; other names are torchvision:NAME and classifier:RUN"
        ) from error
    return replace(found, name=name)


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
    clean = clean_classifier(
        network, class_names=imagenet_class_names(), size=preset.crop_size[0], mean=preset.mean, std=preset.std,
        interpolation=interpolation, smooth=smooth, device=device,
    )  # fmt: skip
    return replace(clean, name=f"torchvision:{name}", sha256=file_sha256(stored))


def _downloaded(name: str, url: str) -> Path:
    """The file of the published weights in torch's hub cache, which is filled if it does not hold them."""
    file = Path(get_dir()) / "checkpoints" / url.rpartition("/")[2]
    stem = file.stem.rpartition("-")[2]  # published files end in the start of their SHA-256
    if file.is_file() and not file_sha256(file).startswith(stem):
        raise ValueError(f"{file} is damaged: its SHA-256 does not begin with {stem}; remove it, it is fetched again")
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
