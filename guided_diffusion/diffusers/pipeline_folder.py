"""Folders of a diffusers pipeline: U-Net, scheduler and classifier, in files of JSON and safetensors."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from classifiers.model import ClassifierConfig
from classifiers.trained_model import Classifier

from ..checkpoint import read_state_dict, write_tensors
from ..config import from_plain, to_plain
from ..diffusion.denoiser import Variance
from ..diffusion.model import DiffusionConfig
from ..diffusion.schedules import ChainConfig
from ..files import atomic_directory, write_json
from ..models.unet import UNet, UNetConfig
from ..openai import Converted
from ..records import Fields, read_record
from .scheduler import model_fields, scheduler_config, time_table
from .state_dict import TIME_TABLE, exported, imported
from .unet_config import network_config, unet2d_config

_WEIGHTS = "diffusion_pytorch_model.safetensors"
_INDEX: Fields = {"unet": list[str], "scheduler": list[str], "id2label": dict[str, str] | None}
_UNET: Fields = {
    "block_out_channels": list[int], "down_block_types": list[str], "up_block_types": list[str], "sample_size": Any,
    "num_class_embeds": int | None,
}  # fmt: skip
_SCHEDULER: Fields = {
    "_class_name": str, "num_train_timesteps": int | None, "trained_betas": list[float] | None,
    "beta_schedule": str | None, "beta_start": float | None, "beta_end": float | None,
    "prediction_type": str | None, "variance_type": str | None,
}  # fmt: skip


def write_pipeline(
    out: Path, model: DiffusionConfig, weights: Mapping[str, Tensor], classifier: Classifier | None = None
) -> str:
    """Write a folder that diffusers loads, and return the name of its pipeline's class.

    An unconditional model without a classifier is a DDPMPipeline. Any other is a `GuidedPipeline`, whose file is there.

    Raises:
        ValueError: a model that the blocks and the scheduler of diffusers cannot say.
        FileExistsError: something is at `out` already.
    """
    network, scheduler = model.network, scheduler_config(model)
    own = {"out_channels": network.out_channels, "num_class_embeds": network.num_labels or None}
    unet, tensors = _network(network, own, model.chain, weights)
    index: dict[str, Any] = {"_class_name": "DDPMPipeline", "_diffusers_version": "0.35.0"}
    index |= {"unet": ["diffusers", "UNet2DModel"], "scheduler": ["diffusers", "DDPMScheduler"]}
    if model.is_conditional or classifier is not None:
        asked = model if classifier is None or model.is_conditional else classifier.config
        names = asked.class_names or [str(label) for label in range(asked.network.num_classes or 0)]
        index["_class_name"] = ["guided_pipeline", "GuidedPipeline"]
        index["id2label"] = {str(label): name for label, name in enumerate(names)}
    with atomic_directory(out) as folder:
        _write(folder / "unet", unet, tensors)
        write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
        if classifier is not None:
            index["classifier"] = ["noisy_classifier", "NoisyClassifier"]
            _write_classifier(folder / "classifier", classifier)
        shutil.copy(Path(__file__).with_name("guided_pipeline.py"), folder)
        write_json(folder / "model_index.json", index)
    return "DDPMPipeline" if index["_class_name"] == "DDPMPipeline" else "GuidedPipeline"


def with_variance(
    model: DiffusionConfig, weights: Mapping[str, Tensor], variance: Variance
) -> tuple[DiffusionConfig, dict[str, Tensor]]:
    """The model without the channels of a learned variance, and with one that is not learned."""
    channels = model.network.in_channels
    kept = {key: tensor[:channels] if key.startswith("conv_out.") else tensor for key, tensor in weights.items()}
    return replace(model, network=replace(model.network, out_channels=channels), variance=variance), kept


def _write_classifier(folder: Path, classifier: Classifier) -> None:
    network, chain = classifier.config.network, classifier.config.chain
    assert chain is not None  # of a classifier that can guide
    encoder, tensors = _network(network, {}, chain, classifier.network.state_dict())
    config = {"num_classes": network.num_classes, "pooling": network.pooling, "encoder": encoder}
    _write(folder, {"_class_name": "NoisyClassifier", **config}, tensors)
    shutil.copy(Path(__file__).with_name("noisy_classifier.py"), folder)


def _network(
    config: UNetConfig | ClassifierConfig, own: Mapping[str, object], chain: ChainConfig, weights: Mapping[str, Tensor]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Config and state dict in diffusers of a network that was trained on a chain."""
    table, own = time_table(chain, config.base_channels), {"in_channels": config.in_channels, **own}
    return unet2d_config(config, own, table=None if table is None else len(table)), exported(weights, config, table)


def _write(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    write_json(folder / "config.json", config)
    write_tensors(tensors, folder / _WEIGHTS)


def load_diffusers(path: Path) -> Converted:
    """The model of a folder that holds a pipeline of a UNet2DModel and a scheduler.

    Raises:
        FileNotFoundError: a file of the pipeline is missing.
        ValueError: other components, or blocks, a scheduler or weights that no model of this project has.
    """
    if not (path / "model_index.json").is_file():
        raise FileNotFoundError(f"no model_index.json in {path}; give the folder of a pipeline of diffusers")
    index = read_record(path / "model_index.json", _INDEX)
    parts = {name: part for name, part in index.items() if isinstance(part, list) and not name.startswith("_")}
    others = sorted(name for name, part in parts.items() if any(part))
    if index["unet"][-1:] != ["UNet2DModel"] or set(others) - {"unet", "scheduler", "classifier"}:
        found = ", ".join(f"{name} {index[name][-1]}" for name in others)
        raise ValueError(f"{path} is no pipeline of a UNet2DModel on pixels and a scheduler; it has {found}")
    folder = _unet_folder(path)
    unet = read_record(folder / "config.json", _UNET)
    inner = path / "scheduler" / "scheduler_config.json"
    scheduler = read_record(inner if inner.is_file() else path / inner.name, _SCHEDULER)
    network, weights = network_config(unet), read_state_dict(file := unet_weights(path))
    names = [] if network["num_classes"] is None else _class_names(index["id2label"] or {})  # else a classifier's
    if names and len(names) == (network["num_classes"] or 0) - 1:  # the last label means no class
        network |= {"num_classes": len(names), "null_class": True}
    config = from_plain(UNetConfig, network, source=str(folder / "config.json"))
    fields = model_fields(scheduler, weights.get(TIME_TABLE), learned=config.out_channels == 2 * config.in_channels)
    names = names or [str(label) for label in range(config.num_classes or 0)]
    model = to_plain({"network": config, **fields, "class_names": names})
    from_plain(DiffusionConfig, model, source=str(path))
    if config.least_parameters > (found := sum(tensor.numel() for tensor in weights.values())):
        raise ValueError(f"{folder} describes {config.least_parameters:.3g} parameters or more, and {file} has {found}")
    with torch.device("meta"):
        shapes = {key: tuple(tensor.shape) for key, tensor in UNet(config).state_dict().items()}
    sine_first = unet.get("flip_sin_to_cos") is False
    return Converted("unet", model, imported(weights, shapes, sine_first=sine_first), notes=(_note(file, model),))


def _note(file: Path, model: Mapping[str, Any]) -> str:
    settings = {name: model["network"][name] for name in ("image_size", "in_channels", "num_classes")}
    settings |= {name: model[name] for name in ("prediction", "variance")} | model["chain"]
    return f"{file}: " + ", ".join(f"{name} {value}" for name, value in settings.items())


def _class_names(id2label: Mapping[str, str]) -> list[str]:
    """The names by their labels, whose order in a file may be that of text: "0", "1", "10", "2"."""
    if missing := {str(label) for label in range(len(id2label))} - id2label.keys():
        raise ValueError(f"id2label in model_index.json has {len(id2label)} names, but none of label {min(missing)}")
    return [id2label[str(label)] for label in range(len(id2label))]


def unet_weights(path: Path) -> Path:
    """The file of the U-Net's weights in a pipeline's folder: safetensors, or in older ones a file of torch.save.

    Raises:
        FileNotFoundError: neither, as where they are in several files.
    """
    files = [_unet_folder(path) / name for name in (_WEIGHTS, "diffusion_pytorch_model.bin")]
    found = next((file for file in files if file.is_file()), None)
    if found is None:
        raise FileNotFoundError(f"no {files[0]}; save the pipeline with its U-Net's weights in one file")
    return found


def _unet_folder(path: Path) -> Path:
    return path / "unet" if (path / "unet").is_dir() else path  # older pipelines have all files in one folder
