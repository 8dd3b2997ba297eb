"""Settings of a sweep: the combinations of its axes, and one of them as a file for scripts/sample.py."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from itertools import product
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import options_of, parse_values, to_plain, with_options
from ..files import atomic_write
from ..generation.config import SampleSetConfig
from ..samplers.config import OPTIONS, SAMPLERS
from .sample import SampleConfig

if TYPE_CHECKING:
    from .sweep import SweepConfig

SCALE, SAMPLER, STEPS = "guidance.scale", "sampler.name", "sampler.steps"
SCALES = (0.0, 1.0, 2.0, 4.0, 8.0)
"""Guidance scales of a sweep that is not given any."""
OWN_OPTIONS = {SCALE: "scales", SAMPLER: "samplers", STEPS: "steps"}
"""Axes that the sweep has options of its own for."""
FIXED = ("out", "diffusion", "num_samples")
"""Options that all settings share: their numbers could not be compared otherwise."""
LONGEST_VALUE, LONGEST_NAME = 40, 200
"""Characters of a value in a directory's name, and of the name; what is longer is cut and has a hash."""


def checked_axes(config: "SweepConfig") -> dict[str, list[Any]]:
    """`config.axes` with values of their options' types.

    Raises:
        ValueError: no option of samples, one that is not swept by `axes`, or values that are not several of its type.
    """
    checked: dict[str, list[Any]] = {}
    plain = SampleSetConfig(out=config.out, diffusion=config.diffusion)
    for name, values in ((str(name), values) for name, values in config.axes.items()):
        if name in OWN_OPTIONS:
            raise ValueError(f"axes has {name}, which --{OWN_OPTIONS[name]} sweeps; give its values there")
        if name in FIXED:
            raise ValueError(f"axes has {name}, which all settings of a sweep share; leave it out")
        try:
            parsed = parse_values(SampleSetConfig, name, values)
        except ValueError as error:
            raise ValueError(f"axes: {error}") from None
        if not parsed or any(value in parsed[:place] for place, value in enumerate(parsed)):
            raise ValueError(f"axes: {name} takes one or more different values, got {values}")
        given = attrgetter(name)(config)
        if given != attrgetter(name)(plain) and given not in parsed:
            raise ValueError(f"a sweep takes its values of {name} from axes, and {given} is not among them; add it, or "
                             f"leave out --{name}")  # fmt: skip
        checked[name] = parsed
    return checked


def sample_configs(config: "SweepConfig") -> list[SampleConfig]:
    """The sampling run of each combination, in a directory of its own, with the options that its sampler has.

    Settings that load the same networks follow one another.

    Raises:
        ValueError: a combination that cannot be, named by its directory.
    """
    shared = {field.name: getattr(config, field.name) for field in fields(SampleSetConfig)}
    axes: dict[str, Sequence[Any]] = {SAMPLER: config.samplers, STEPS: config.steps, **config.axes}
    by_networks: dict[str, list[SampleConfig]] = {}
    for combination in product(*axes.values()):
        values = dict(zip(axes, combination, strict=True))
        without = {f"sampler.{name}": None for name in OPTIONS if name not in SAMPLERS[values[SAMPLER]].options}
        is_scaled = values.get("classifier", config.classifier) is not None
        for scale in config.scales or SCALES if is_scaled else (None,):
            out = config.out / "samples" / _directory_name(config, values, scale)
            with naming(out):
                own = without | values | {SCALE: scale, "out": out}
                setting = with_options(SampleConfig(**shared), own)
            by_networks.setdefault(loaded_by(setting), []).append(setting)
    return [setting for settings in by_networks.values() for setting in settings]


@contextmanager
def naming(out: Path) -> Iterator[None]:
    """Name the setting of this directory in what is refused of it."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"setting {out.name}: {error}") from None


def loaded_by(setting: SampleConfig) -> str:
    """All that may say which networks a setting loads: its options but the sampler's, strengths and the interval."""
    read_later = {"out", "guidance.sigma_min", "guidance.sigma_max", *setting.guidance.strengths}
    values = {
        name: to_plain(attrgetter(name)(setting))
        for name, kind in options_of(SampleSetConfig)
        if not is_dataclass(kind) and not name.startswith("sampler.") and name not in read_later
    }
    return json.dumps({name: value for name, value in values.items() if value is not None}, sort_keys=True)


def shown(value: Any) -> str:  # of an option of any type
    """A value of an option as a user writes it."""
    plain = to_plain(value)
    if isinstance(plain, str):
        return plain
    return f"{plain:g}" if isinstance(plain, float) and float(f"{plain:g}") == plain else json.dumps(plain)


def short_name(option: str) -> str:
    """An option's name without the group that most of a sweep's options are in."""
    return option.removeprefix("guidance.").removeprefix("sampler.")


def _directory_name(config: "SweepConfig", values: Mapping[str, Any], scale: float | None) -> str:
    """Name of a combination's directory. An axis at its default is left out, so that a sweep may gain axes."""
    plain = SampleSetConfig(out=config.out, diffusion=config.diffusion)
    name = f"{values[SAMPLER]}-{str(values[STEPS]).replace(',', '_')}" + ("" if scale is None else f"-scale{scale:g}")
    for option in sorted(config.axes):
        if values[option] != attrgetter(option)(plain):
            name += f"-{short_name(option)}={_file_name(shown(values[option]), LONGEST_VALUE)}"
    return _file_name(name, LONGEST_NAME)


def _file_name(text: str, longest: int) -> str:
    """A text as part of a file's name, with a hash where the text itself cannot be that."""
    safe = re.sub(r"[^\w.+=-]", "_", text, flags=re.ASCII)
    is_whole = safe == text and len(text) <= longest
    return text if is_whole else f"{safe[-longest:]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def write_sample_config(path: Path, setting: SampleConfig, *, header: str) -> None:
    """Write a setting for scripts/sample.py --config, without `out` and, but for sampler and seed, without defaults."""
    defaults = to_plain(SampleConfig(out=setting.out, diffusion=setting.diffusion))
    values = {"diffusion": str(setting.diffusion), "seed": setting.seed} | _unlike(to_plain(setting), defaults)
    values["sampler"] = {"name": setting.sampler.name, "steps": setting.sampler.steps} | values.get("sampler", {})
    lines = [
        f"# {header}",
        f"#   python scripts/sample.py --config {path} --out runs/samples",
        *(f"{name}: {json.dumps(value)}" for name, value in values.items()),  # a JSON value is a YAML value too
    ]
    with atomic_write(path) as file:
        file.write("\n".join([*lines, ""]).encode())


def _unlike(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The values that differ from the defaults, in nested mappings too."""
    return {
        name: _unlike(value, defaults[name]) if isinstance(value, dict) and name in defaults else value
        for name, value in values.items()
        if name not in defaults or value != defaults[name]
    }
