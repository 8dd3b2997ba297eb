"""The protocol of an evaluation: both sets, the extractor, the settings, the arithmetic and the versions.

Plain JSON values in six parts: generated, real, extractor, settings, arithmetic, versions. A value that a source does
not record is "unknown"; guidance or a model that the samples did not use is "none".
"""

import json
import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from typing import Any, cast

import torch

from ..data.formats.samples import ENVIRONMENTS, MEASURED
from ..data.image_set import ImageSet
from ..files import file_sha256
from .extractors.features import FeatureExtractor
from .inputs import MeasuredReal
from .measure import MeasuredSet

UNKNOWN = "unknown"
NONE = "none"

_SAMPLING_FIELDS = {
    "seed": "seed",
    "labels": "labels",
    "model": "diffusion.name",
    "weights": "diffusion.weights",
    "weights_sha256": "diffusion.sha256",
    "sampler": "sampler.name",
    "steps": "sampler.steps",
    "eta": "sampler.eta",
    "clip": "clip",
    "precision": "precision",
    "scale": "guidance.scale",
    "classifier": "classifier.name",
    "classifier_sha256": "classifier.sha256",
}
"""Fields of every record of sampling, and their places in a manifest."""
_OF_THE_SET = ("num_samples", "shard_size", "class_names", ENVIRONMENTS, MEASURED)
"""Parts of a manifest that concern the set, not the making of one sample."""
_MOST_VALUES = 16
"""Longest list that is written out; a longer one is replaced by its length and hash."""
_PACKAGES = (
    "guided-diffusion", "torch", "numpy", "scipy", "pillow", "accelerate", "timm", "torchmetrics", "torch-fidelity",
)  # fmt: skip


def protocol_record(
    source: ImageSet, generated: MeasuredSet, real: MeasuredReal, extractor: FeatureExtractor
) -> dict[str, Any]:
    """The protocol of one evaluation, as a Report keeps it; source: the generated images."""
    assert generated.features is not None
    device, dtype = generated.device, str(generated.features.dtype).removeprefix("torch.")
    is_gpu = device.type == "cuda"
    return {
        "generated": _generated_record(source, generated),
        "real": _real_record(real),
        "extractor": {
            "name": extractor.name,
            "sha256": extractor.sha256,
            "published": extractor.published.name if extractor.published else None,
            "resize": extractor.resize,
        },
        "settings": real.config.record(),
        "arithmetic": {
            "device": torch.cuda.get_device_name(device) if is_gpu else f"{device.type}, {platform.machine()}",
            "features": f"{dtype}, TensorFloat-32 off",  # all extractors compute within `exact_float32`
            "statistics": "float64",
        },
        "versions": versions(),
    }


def sampling_record(manifest: Mapping[str, Any] | None) -> dict[str, Any]:
    """The making of samples, from their manifest, one value a name; that of upsampled ones' base under "base.".

    manifest: None for pictures that have none. Every field of a manifest that pixels depend on is here, under its own
    dotted name if it is none of the common ones.
    """
    if manifest is None:
        return dict.fromkeys(_SAMPLING_FIELDS, UNKNOWN)
    stored = {key: value for key, value in manifest.items() if key not in _OF_THE_SET}
    base: dict[str, Any] = {}
    if "upsampler" in stored:
        # Guidance and labels are the base's: an upsampler follows its pictures.
        stored = {"guidance": None, "classifier": None, "labels": "the base's"} | stored
        stored["diffusion"] = stored.pop("upsampler")
        within = stored.pop("base", None) or {}
        base = sampling_record(within["manifest"]) if "manifest" in within else within
    record = {name: _field(stored, *place.split(".")) for name, place in _SAMPLING_FIELDS.items()}
    record["labels"] = _label_policy(stored.get("labels", UNKNOWN), manifest.get("class_names"))
    if record["classifier"] == NONE and record["scale"] == UNKNOWN:
        record["scale"] = NONE  # it is the classifier's
    common = tuple(f"{place}." for place in _SAMPLING_FIELDS.values())
    others = {name: value for name, value in flat(stored).items() if not f"{name}.".startswith(common)}
    record |= {name: value for name, value in others.items() if value is not None}
    return record | {f"base.{name}": value for name, value in base.items()}


def flat(value: Any, prefix: str = "") -> dict[str, Any]:  # plain JSON values of any kind
    """Nested values under dotted names; long lists by their length and hash."""
    if isinstance(value, Mapping):
        pairs = list(cast(Mapping[str, Any], value).items())
    elif isinstance(value, list) and any(isinstance(item, Mapping) for item in cast(list[Any], value)):
        pairs = [(str(place), item) for place, item in enumerate(cast(list[Any], value))]
    else:
        return {prefix: _shortened(value)}
    return {
        name: leaf for key, item in pairs for name, leaf in flat(item, f"{prefix}.{key}" if prefix else key).items()
    }


def flat_protocol(protocol: Mapping[str, Any]) -> dict[str, Any]:
    """A protocol under dotted names, without manifests: the record of sampling has their content."""
    return {name: value for name, value in flat(protocol).items() if "manifest" not in name.split(".")}


def source_record(source: ImageSet) -> dict[str, Any]:
    """A set of images: its place, kind, shape and resize."""
    height, width, channels = source.shape
    return {
        "path": str(source.path),
        "kind": source.format,
        **({"sha256": file_sha256(source.path)} if source.path.is_file() else {}),
        "num_images": len(source),
        "image_size": [height, width],
        "channels": channels,
        "resize": source.resize,
        "manifest": source.manifest,
    }


def _generated_record(source: ImageSet, samples: MeasuredSet) -> dict[str, Any]:
    record = source_record(source)
    if source.manifest is None and not source.path.is_file():
        record["files_sha256"] = source.files_sha256()  # a manifest is better than dates, and a file is hashed whole
    environments: list[Mapping[str, Any]] = (source.manifest or {}).get(ENVIRONMENTS, [])
    devices = [f"{made.get('device', UNKNOWN)} with torch {made.get('torch', UNKNOWN)}" for made in environments]
    return record | {
        "features": _identity(samples),
        "num_manifold_images": samples.manifold_size,
        "order": samples.order,
        "sampling": sampling_record(source.manifest),
        "made_on": "; ".join(dict.fromkeys(devices)) or UNKNOWN,
    }


def _real_record(real: MeasuredReal) -> dict[str, Any]:
    images, reference = real.input.images, real.input.reference
    stored = dict(reference.record or {}) if reference else {}
    if images is None:
        of_images = {name: stored.get(name, UNKNOWN) for name in ("image_size", "channels")}
        record = {"path": str(real.input.path), "sha256": file_sha256(real.input.path), **of_images}
    else:
        record = source_record(images)
    record |= {
        "files_sha256": real.input.files_sha256,
        "features": _identity(real.measured),
        "num_images": real.measured.pooled.count or UNKNOWN,
        "num_manifold_images": real.measured.manifold_size,
        "statistics": "stored" if reference else "computed",
    }
    if images is not None and images.manifest is not None:
        record["sampling"] = sampling_record(images.manifest)
    if reference:
        record |= {"kind": "reference", "resize": stored.get("resize", UNKNOWN), "record": stored or UNKNOWN}
    return record


def _identity(measured: MeasuredSet) -> dict[str, float]:
    """Two numbers that identify a set of images, whatever the place and dates of its files."""
    return {"mean_norm": float(measured.pooled.mean.norm()), "total_variance": float(measured.pooled.cov.trace())}


def _field(manifest: Mapping[str, Any], *place: str) -> Any:  # a plain value
    """A manifest's value at a place: "none" if it is null, there or as a whole; "unknown" if it is missing."""
    value: Any = manifest
    for key in place:
        if value is None:
            return NONE
        if not isinstance(value, Mapping) or key not in value:
            return UNKNOWN
        value = cast(Mapping[str, Any], value)[key]
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {item}" for key, item in cast(Mapping[str, Any], value).items())
    return NONE if value is None else value


def _label_policy(labels: Any, class_names: Sequence[str] | None) -> str:  # labels: as a LabelRule records itself
    if isinstance(labels, list):
        if class_names and labels == list(range(len(class_names))):
            return f"all {len(class_names)} classes in turn"
        return f"in turn {_shortened(cast(list[Any], labels))}"
    if isinstance(labels, Mapping):
        rule = flat(cast(Mapping[str, Any], labels))
        return ", ".join([str(rule.pop("policy", UNKNOWN)), *(f"{name} {value}" for name, value in rule.items())])
    return NONE if labels is None else str(labels)


def _shortened(value: Any) -> Any:  # a plain value
    if not isinstance(value, list | tuple):
        return value
    values = list(cast(Sequence[Any], value))
    if len(values) <= _MOST_VALUES:
        return values
    return f"{len(values)} values, SHA-256 {sha256(json.dumps(values).encode()).hexdigest()}"


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers may depend on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
