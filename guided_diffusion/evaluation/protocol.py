"""The protocol that numbers hold under: what was compared with what, by which network, with what settings.

Plain JSON values in six parts: generated, real, extractor, settings, arithmetic, versions. What a source does not tell
is "unknown"; what its samples went without is "none".
"""

import json
import platform
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from typing import Any, cast

import torch

from ..data.formats.samples import ENVIRONMENTS
from ..data.sources import ImageSource, files_fingerprint
from ..files import file_sha256
from .config import EvaluationConfig
from .extractors.features import FeatureExtractor
from .inputs import RealSide, Sides
from .measure import Measured
from .scoring import Target
from .statistics import Gaussian

UNKNOWN = "unknown"
NONE = "none"

_MAKING = {
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
"""What every record says of how samples were made, and where a manifest says it."""
_OF_THE_SET = ("num_samples", "shard_size", "class_names", ENVIRONMENTS)
"""Parts of a manifest that say nothing of how one sample was made."""
_MOST_VALUES = 16
"""Of a list that is written out; of a longer one, its length and hash are."""
_PACKAGES = (
    "guided-diffusion", "torch", "numpy", "scipy", "pillow", "accelerate", "timm", "torchmetrics", "torch-fidelity",
)  # fmt: skip


def protocol_record(
    samples: Measured, target: Target, *, sides: Sides, extractor: FeatureExtractor, config: EvaluationConfig
) -> dict[str, Any]:
    """The protocol of one evaluation, as a Report keeps it."""
    return {
        "generated": _generated_record(sides.generated, samples, config),
        "real": _real_record(sides.real, target),
        "extractor": {
            "name": extractor.name,
            "sha256": extractor.sha256,
            "published": extractor.published,
            "resize": extractor.resize,
        },
        "settings": asdict(config),
        "arithmetic": _arithmetic(samples),
        "versions": versions(),
    }


def sampling_record(manifest: Mapping[str, Any] | None) -> dict[str, Any]:
    """How samples were made, from their manifest, one value a name; of enlarged ones, their base under "base.".

    manifest: None for pictures that have none. All that a manifest says of pixels is here, under its own dotted name
    where it has no other.
    """
    if manifest is None:
        return dict.fromkeys(_MAKING, UNKNOWN)
    told = {key: value for key, value in manifest.items() if key not in _OF_THE_SET}
    base: dict[str, Any] = {}
    if "upsampler" in told:
        # Guidance and labels are the base's: an upsampler follows its pictures.
        told = {"guidance": None, "classifier": None, "labels": "the base's"} | told
        told["diffusion"] = told.pop("upsampler")
        within = told.pop("base", None) or {}
        base = sampling_record(within["manifest"]) if "manifest" in within else within
    record = {name: _told(told, *place.split(".")) for name, place in _MAKING.items()}
    record["labels"] = _label_policy(told.get("labels", UNKNOWN), manifest.get("class_names"))
    if record["classifier"] == NONE and record["scale"] == UNKNOWN:
        record["scale"] = NONE  # it is the classifier's
    others = {name: value for name, value in flat(told).items() if value is not None and _is_said_nowhere(name)}
    return record | others | {f"base.{name}": value for name, value in base.items()}


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
    """A protocol under dotted names, but for manifests: their content is said by the record of sampling, which is made
    here where an old protocol lacks it."""
    generated = dict(protocol.get("generated", {}))
    generated = {"sampling": sampling_record(generated.get("manifest"))} | generated
    told = flat(dict(protocol) | {"generated": generated})
    return {name: value for name, value in told.items() if "manifest" not in name.split(".")}


def command_of(protocol: Mapping[str, Any]) -> str:
    """The command line that repeats an evaluation; settings at their defaults are left out.

    So is the file that other weights than the published ones came from, of which a protocol knows the hash alone.
    """
    name = protocol["extractor"]["name"]
    own = [option for option in ("inception", "dinov2") if name.startswith(option)]
    words = [
        *("python", "scripts/evaluate.py"),
        *("--generated", protocol["generated"]["path"], "--real", protocol["real"]["path"]),
        *("--extractor", own[0] if own else name),
    ]
    defaults = asdict(EvaluationConfig())
    for name, value in protocol["settings"].items():
        if value != defaults.get(name):
            words += [f"--protocol.{name}", json.dumps(value)]
    return shlex.join(words)


def source_record(source: ImageSource) -> dict[str, Any]:
    """What a set of images is, and what was done to them."""
    height, width, channels = source.shape
    stored = {"sha256": file_sha256(source.path)} if source.path.is_file() else {}
    return {
        "path": str(source.path),
        "kind": source.kind,
        **stored,
        "num_images": source.num_images,
        "image_size": [height, width],
        "channels": channels,
        "resize": source.resize,
        "manifest": source.manifest,
    }


def _generated_record(source: ImageSource, samples: Measured, config: EvaluationConfig) -> dict[str, Any]:
    # A manifest tells samples of ours better than their files' dates, and a file is hashed whole.
    is_told = source.manifest is not None or source.path.is_file()
    return {
        **source_record(source),
        **_identity(samples.pooled, files_sha256=None if is_told else files_fingerprint(source)),
        "num_manifold_images": min(len(samples.manifold), config.generated_manifold),
        "order": samples.order,
        "sampling": sampling_record(source.manifest),
        "made_on": _made_on(source.manifest),
    }


def _identity(pooled: Gaussian, *, files_sha256: str | None) -> dict[str, Any]:
    """What tells one set of images from another: names, sizes and times of its files, where nothing better does, and
    two numbers of its features, which are the same wherever files lie and however they are dated."""
    files = {} if files_sha256 is None else {"files_sha256": files_sha256}
    return files | {"features": {"mean_norm": float(pooled.mean.norm()), "total_variance": float(pooled.cov.trace())}}


def _statistics_record(side: RealSide) -> dict[str, Any]:
    told = (side.reference.record if side.reference else None) or {}
    of_images = {name: told.get(name, UNKNOWN) for name in ("image_size", "channels", "resize")}
    return {"path": str(side.path), "kind": "statistics", "sha256": file_sha256(side.path), **of_images}


def _real_record(side: RealSide, target: Target) -> dict[str, Any]:
    record = _statistics_record(side) if side.images is None else source_record(side.images)
    record |= _identity(target.pooled, files_sha256=side.files_sha256)
    record |= {
        "num_images": target.pooled.count or UNKNOWN,
        "num_manifold_images": 0 if target.manifold is None else len(target.manifold),
        "statistics": "computed" if side.reference is None else "stored",
    }
    if side.images is not None and side.images.manifest is not None:
        record["sampling"] = sampling_record(side.images.manifest)
    if side.reference is not None:
        told = side.reference.record or {}
        record |= {"kind": "reference", "resize": told.get("resize", UNKNOWN), "record": told or UNKNOWN}
    return record


def _told(manifest: Mapping[str, Any], *place: str) -> Any:  # a plain value
    """What a manifest says at a place: "none" where it says null, there or of the whole; "unknown" where nothing."""
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


def _is_said_nowhere(name: str) -> bool:
    return not any(name == place or name.startswith(f"{place}.") for place in _MAKING.values())


def _label_policy(labels: Any, class_names: Sequence[str] | None) -> str:  # labels: as a LabelRule records itself
    if isinstance(labels, list):
        if class_names and labels == list(range(len(class_names))):
            return f"all {len(class_names)} classes in turn"
        return f"in turn {_shortened(cast(list[Any], labels))}"
    if isinstance(labels, Mapping):
        told = flat(cast(Mapping[str, Any], labels))
        return ", ".join([str(told.pop("policy", UNKNOWN)), *(f"{name} {value}" for name, value in told.items())])
    return NONE if labels is None else str(labels)


def _shortened(value: Any) -> Any:  # a plain value
    if not isinstance(value, list | tuple):
        return value
    values = list(cast(Sequence[Any], value))
    if len(values) <= _MOST_VALUES:
        return values
    return f"{len(values)} values, SHA-256 {sha256(json.dumps(values).encode()).hexdigest()}"


def _made_on(manifest: Mapping[str, Any] | None) -> str:
    environments: list[Mapping[str, Any]] = (manifest or {}).get(ENVIRONMENTS, [])
    told = [f"{made.get('device', UNKNOWN)} with torch {made.get('torch', UNKNOWN)}" for made in environments]
    return "; ".join(dict.fromkeys(told)) or UNKNOWN


def _arithmetic(samples: Measured) -> dict[str, Any]:
    """What features were computed by; within `exact_float32`, as all of them are."""
    device = samples.device
    on_gpu = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if on_gpu else f"{device.type}, {platform.machine()}",
        "features": f"{str(samples.manifold.dtype).removeprefix('torch.')}, TensorFloat-32 off",
        "statistics": "float64",
    }


def versions() -> dict[str, str]:
    """Of Python and the packages that numbers may depend on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
