"""The source of a training's first weights, `--from`: a run, a checkpoint or a published file, and the settings that
follow from it.

A resumed run takes these settings from its own checkpoint, so that its source may be gone.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import Tensor

from ..checkpoint import Checkpoint, DamagedCheckpointError, open_checkpoint, read_weights
from ..config import from_plain, to_plain
from ..diffusion.denoiser import has_learned_variance
from ..files import file_sha256
from ..models.unet import EncoderConfig
from ..run_directory import checkpoints
from .adaptation import Adapted, adapted
from .config import TrainingConfig

KINDS = (("diffusion",), ("upsampler",), ("classifier", "regression", "attributes"))
"""Kinds of checkpoints that may begin from one another: their networks differ in the last layer at most."""

UNKNOWN_RATE = 5e-5
"""Learning rate of a training from weights whose own is not known: half of ADM's."""

WIDTH = 0.1
"""Relative width of the average of a training from weights, in which these have no part however short it is."""


@dataclass(frozen=True)
class Source:
    """The weights that a training begins from, and their model."""

    kind: str
    model: Mapping[str, Any]
    """Plain values, as in a checkpoint's config.json."""
    run: Mapping[str, Any]
    """Settings that they were trained with; empty where unknown."""
    record: Mapping[str, Any]
    """Name, kind, weights, SHA-256 and iteration, as in `Checkpoint.lineage`."""
    lineage: Sequence[Mapping[str, Any]]
    """As in `Checkpoint`, of the source itself."""
    weights: Mapping[str, Tensor]
    """Mapped into memory, so that they outlive their file."""
    notes: Sequence[str] = ()
    """Sentences on what was found or assumed in reading a file of other software."""

    def adapted(self, model: Any, initial: Mapping[str, Tensor]) -> Adapted:
        """The weights for another model, a config, whose network's own initial ones are given."""
        stored = {**self.model, "network": to_plain(_network(model, self))}
        return adapted(self.weights, stored, to_plain(model), initial)


def _network(model: Any, source: Source) -> Any:
    """The network's config of a source, of the class that the model has; fields younger than it have their defaults."""
    return from_plain(type(model.network), source.model["network"], source=f"the network of {source.record['name']}")


def _kinds(kind: str) -> tuple[str, ...]:
    return next(kinds for kinds in KINDS if kind in kinds)


@lru_cache(maxsize=1)  # until `source_of`, so that a command converts a file once, and sees one state of its source
def open_source(path: Path, kind: str) -> Source:
    """The run, checkpoint, published file or folder of diffusers that a training of a kind begins from; of a run's
    weights the slowest average.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: another kind, a damaged checkpoint, or a file that is not recognised.
    """
    if path.is_file() and path.parent in checkpoints(path.parent.parent):
        raise ValueError(f"{path} is a file of a checkpoint; give the checkpoint, --from {path.parent}")
    if path.is_file():
        return _published(path, kind)
    if (path / "model_index.json").is_file():
        return _pipeline(path, kind)
    checkpoint = open_checkpoint(path, *_kinds(kind))
    file = checkpoint.weights_file()
    record = _record(checkpoint.name, checkpoint.kind, file, iteration=checkpoint.iteration)
    weights = read_weights(checkpoint)
    return Source(checkpoint.kind, checkpoint.model, checkpoint.run, record, checkpoint.lineage, weights)


def _record(name: str, kind: str, file: Path, *, iteration: int) -> dict[str, Any]:
    return {"name": name, "kind": kind, "weights": file.stem, "sha256": file_sha256(file), "iteration": iteration}


def _published(file: Path, wanted: str) -> Source:
    from ..openai import load_openai  # here, with the packages of images and tables
    from ..openai.flags import CHECKPOINT_KIND

    try:
        converted = load_openai(file)
    except ValueError as error:
        if " --" not in str(error):  # no option of the import would help
            raise
        raise ValueError(
            f'{error}; import it first, by scripts/import_openai.py {file} --out RUN --flags "..", and give --from RUN'
        ) from None
    kind = CHECKPOINT_KIND[converted.kind]
    if kind not in _kinds(wanted):
        raise ValueError(f'{file} holds a model of kind "{kind}", but kind "{wanted}" is needed here')
    record = _record(file.name, kind, file, iteration=converted.iteration)
    return Source(kind, converted.config, {}, record, (), converted.weights, converted.notes)


def _pipeline(path: Path, wanted: str) -> Source:
    from ..diffusers import load_diffusers, unet_weights

    if "diffusion" not in _kinds(wanted):
        raise ValueError(f'{path} holds a model of kind "diffusion", but kind "{wanted}" is needed here')
    converted = load_diffusers(path)
    record = _record(path.name, "diffusion", unet_weights(path), iteration=0)
    return Source("diffusion", converted.config, {}, record, (), converted.weights, converted.notes)


def source_of(config: TrainingConfig, kind: str) -> Source | None:
    """The source of a training that begins; None without one, and for a run that is resumed."""
    origin = None if config.from_ is None else _origin(config.from_, config.out, config.resume, kind)
    open_source.cache_clear()
    return origin if isinstance(origin, Source) else None


def origin_model(config: TrainingConfig, kind: str) -> Mapping[str, Any]:
    """The model, plain values, of a training's own checkpoint where it is resumed, else of its source."""
    return {} if config.from_ is None else _origin(config.from_, config.out, config.resume, kind).model


def _origin(path: Path, run_dir: Path, resume: object, kind: str) -> Checkpoint | Source:
    """A run's newest checkpoint that can be read, where it is resumed and has one, else the source at the path."""
    for own in reversed(checkpoints(run_dir)) if resume == "auto" else ():
        with suppress(DamagedCheckpointError):
            return open_checkpoint(own, *_kinds(kind))
    return open_source(path, kind)


def inherited_options(given: Mapping[str, Any], *, kind: str) -> Mapping[str, Any]:
    """Defaults of a training of a kind by dotted name, from the source that the given values name; empty without."""
    path = given.get("from")
    if path in (None, "null", "") or str(path).startswith("--"):  # or no value, which parsing refuses
        return {}
    open_source.cache_clear()
    source = _origin(Path(str(path)), Path(str(given.get("out", ""))), given.get("resume"), kind)
    model, run = source.model, source.run
    network: Mapping[str, Any] = model["network"]
    named = {field.name for field in fields(EncoderConfig)} & network.keys()
    options = {f"network.{name}": network[name] for name in named}
    scale = _scale(given, network)
    options["network.attention_sizes"] = [int(scale * size) for size in network["attention_sizes"]]
    if kind == "classifier":
        columns: Mapping[str, Any] = model.get("columns") or {}
        options |= {"pooling": network.get("pooling", "attention"), "target": model.get("target")}
        if given.get("target", options["target"]) == options["target"]:
            options["columns"] = columns.get("names")
    else:
        options |= _diffusion_options(given, model, run)
    options["training.learning_rate"] = _learning_rate(source, is_resumed=isinstance(source, Checkpoint))
    if "training.ema_decays" not in given:
        options |= {"training.ema_decays": [], "training.ema_widths": [] if kind == "classifier" else [WIDTH]}
    return options


def _scale(given: Mapping[str, Any], network: Mapping[str, Any]) -> float:
    """The image size asked for over that of the source; 1 where it is no number, which parsing refuses."""
    with suppress(ValueError, TypeError):
        return int(given.get("network.image_size", network["image_size"])) / network["image_size"]
    return 1.0


def _diffusion_options(given: Mapping[str, Any], model: Mapping[str, Any], run: Mapping[str, Any]) -> dict[str, Any]:
    network, chain = model["network"], model["chain"]
    options: dict[str, Any] = {f"chain.{name}": value for name, value in chain.items()}
    options |= {name: model[name] for name in ("prediction", "variance") if name in model}
    is_conditional = network.get("num_classes") is not None
    options["class_conditional"] = is_conditional
    if network.get("null_class") and str(given.get("class_conditional", "true")).lower() == "true":
        options["label_dropout"] = run.get("label_dropout") or 0.1
    is_learned = has_learned_variance(given.get("variance", model.get("variance", "learned_range")))
    usual = "vlb" if model.get("prediction") == "mean" else "hybrid" if is_learned else "simple"
    options["loss"] = usual if "variance" in given else run.get("loss", usual)
    if "low_res_size" in network:
        options["low_res_size"] = int(_scale(given, network) * network["low_res_size"])
        options["conditioning_noise"] = network.get("conditioning_noise")
    return options


def _learning_rate(source: Source | Checkpoint, *, is_resumed: bool) -> float:
    """Half of that of a training from nothing; that of a training from weights, which is lower already.

    The rate of a few parts alone suits no others.
    """
    trained_with: Mapping[str, Any] = source.run.get("training") or {}
    rate = trained_with.get("learning_rate")
    if is_resumed and rate is not None:
        return rate
    if rate is None or trained_with.get("train_only"):
        return UNKNOWN_RATE
    return rate if source.lineage else rate / 2
