"""The one place where YAML files and command lines become dataclasses, and dataclasses become plain values again."""

import dataclasses
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import jsonargparse

jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)

C = TypeVar("C")

_jsonargparse: Any = jsonargparse  # its signatures are untyped in part

DEBUG_VARIABLE = "GUIDED_DIFFUSION_DEBUG"
"""Environment variable that makes scripts show the traceback of an error they would state in one line."""


def run_script(config_class: type[C], run: Callable[[C], object], argv: Sequence[str] | None = None) -> None:
    """What every script does: `--config FILE` and options become one config, which is run.

    Bad input (ValueError, OSError) or a missing optional package ends the process with its message on standard error
    and status 2; with GUIDED_DIFFUSION_DEBUG=1 it keeps its traceback.
    """
    try:
        run(parse(config_class, argv))
    except (ValueError, OSError, ImportError) as error:
        if os.environ.get(DEBUG_VARIABLE):
            raise
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from what is saved", file=sys.stderr)
        raise SystemExit(130) from None


def parse(config_class: type[C], argv: Sequence[str] | None = None) -> C:
    """A config from the command line: defaults, then `--config FILE`, then options such as `--network.dropout 0.1`.

    Raises:
        SystemExit: an unknown or misspelt key, or a value of the wrong type, named on standard error.
        ValueError: values that do not fit together.
    """
    # The list form of `args` keeps jsonargparse from reading sys.argv when a caller passes an empty command line.
    arguments = list(sys.argv[1:] if argv is None else argv)
    return _jsonargparse.auto_cli(
        config_class,
        as_positional=False,
        args=arguments,
        description=_summary(config_class),
        allow_abbrev=False,  # what is short for one option today may be short for two tomorrow
    )


def _summary(config_class: type) -> str:
    return (config_class.__doc__ or "").strip().split("\n\n")[0]


def to_plain(value: Any) -> Any:  # any config value: the result is what JSON can hold
    """A config as nested mappings, lists, strings, numbers, booleans and None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        mapping = cast(Mapping[str, Any], value)
        return {key: to_plain(item) for key, item in mapping.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in cast(Sequence[Any], value)]
    return str(value) if isinstance(value, Path) else value


def from_plain(config_class: type[C], plain: Mapping[str, Any], *, source: str) -> C:
    """The config that `to_plain` wrote; `source` says in errors where it was read.

    Raises:
        ValueError: an unknown key, a missing one, a value of the wrong type, or values that do not fit together.
    """
    parser = _jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=config_class)
    try:
        return parser.instantiate(parser.parse_object({"value": dict(plain)}))["value"]
    except (jsonargparse.ArgumentError, TypeError, ValueError) as error:
        raise ValueError(f"{source} does not hold a {config_class.__name__}: {error}") from None


def differences(stored: Any, wanted: Any, where: str = "") -> list[str]:  # plain values of any kind
    """Where two plain values differ, a line each: "sampler.eta: absent there, 0.5 now"."""
    if isinstance(stored, Mapping) and isinstance(wanted, Mapping):
        old, new = cast(Mapping[str, Any], stored), cast(Mapping[str, Any], wanted)
        return [
            line
            for key in sorted(old.keys() | new.keys())
            for line in differences(old.get(key, _ABSENT), new.get(key, _ABSENT), f"{where}.{key}" if where else key)
        ]
    # True == 1, but a seed of true is not a seed of 1.
    same = type(cast(object, stored)) is type(cast(object, wanted)) and stored == wanted
    return [] if same else [f"{where}: {_shown(stored)} there, {_shown(wanted)} now"]


_ABSENT = object()


def _shown(value: Any) -> str:
    text = "absent" if value is _ABSENT else json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
