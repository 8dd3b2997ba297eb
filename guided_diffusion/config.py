"""The one place where YAML files and command lines become dataclasses, and dataclasses become plain values again."""

import dataclasses
import itertools
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache, reduce
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, get_args, get_origin, get_type_hints

import jsonargparse
import yaml

from .option_errors import config_files, in_words, stored_in_words
from .records import in_short
from .standard_streams import guarded_streams
from .stop_request import InterruptedWork

jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)

C = TypeVar("C")

Inherited = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""Defaults by dotted name, in place of those of the config class, that follow from the values given."""

_jsonargparse: Any = jsonargparse  # its signatures are untyped in part, and so are these
_yaml: Any = yaml


@guarded_streams()
def run_command(
    config_class: type[C],
    run: Callable[[C], object],
    argv: Sequence[str] | None = None,
    *,
    positional: str | None = None,
    inherited: Inherited | None = None,
) -> None:
    """Run a command on its config, as `parse` makes it of `--config FILE` and options.

    positional: the option whose value may come first on the command line, without its name. inherited: as for `parse`.

    Bad input (ValueError, OSError), a missing optional package or memory that runs out ends the process with a message
    on standard error and status 2; with GUIDED_DIFFUSION_DEBUG=1 it keeps its traceback. Work that was asked to stop
    ends with status 0.
    """
    try:
        words = sys.argv[1:] if argv is None else argv
        is_positional = positional is not None and words and not words[0].startswith("-")
        run(parse(config_class, [f"--{positional}", *words] if is_positional else words, inherited=inherited))
        sys.stdout.flush()
        _leave_process_group()
    except InterruptedWork as stopped:
        print(stopped, end="\n" if str(stopped) else "", file=sys.stderr)
        _leave_process_group()
    except (ValueError, OSError, ImportError, RuntimeError, MemoryError) as error:
        text = _message(error, config_class)
        if text is None or os.environ.get("GUIDED_DIFFUSION_DEBUG"):
            raise
        print(f"error: {text}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None


def _message(error: Exception, config_class: type) -> str | None:
    """The message of bad input or of memory that ran out; None for any other error."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        # Without the operating system's error number; a file that was to be renamed is known by its new name.
        return f"{error.strerror}: {error.filename2 or error.filename}"
    if isinstance(error, ValueError | OSError | ImportError):
        return str(error)
    from .memory import is_out_of_memory, out_of_memory_message  # here, since it imports torch

    return out_of_memory_message(error, dict(options_of(config_class))) if is_out_of_memory(error) else None


def _leave_process_group() -> None:
    """End this process's part in collectives, without which gloo may abort a program that ends soon after one."""
    dist: Any = sys.modules.get("torch.distributed")
    if dist is not None and dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def check_at_least(config: object, **smallest: int) -> None:
    """Refuse fields of a config below their smallest values; None passes.

    Raises:
        ValueError: naming the field.
    """
    for name, least in smallest.items():
        value = getattr(config, name)
        if value is not None and value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")


def parse(config_class: type[C], argv: Sequence[str] | None = None, *, inherited: Inherited | None = None) -> C:
    """A config from the command line: defaults, then `--config FILE`, then options such as `--network.dropout 0.1`.

    A list is one value as in YAML, '[16,8]', or several words, 16 8. A field whose name ends in an underscore, since
    Python has a keyword of that name, is known to users without it.

    Raises:
        ValueError: an unknown, misspelt or missing key, a value of the wrong type, values that do not fit together, or
            a file that is no YAML.
        SystemExit: `--help` was asked for.
    """
    options = dict(options_of(config_class))
    # The list form of `args` keeps jsonargparse from reading sys.argv when a caller passes an empty command line.
    arguments = _with_lists(sys.argv[1:] if argv is None else argv, options)
    for file in config_files(arguments):
        if Path(file).is_fifo() and not file.startswith("/dev/"):  # where the shell's <(..) has a writer
            raise ValueError(f"{file} is no YAML file of options but a named pipe; give a file")
        if Path(file).is_file():
            _refuse_duplicates(Path(file))
    try:
        parser = _command_parser(config_class)
        if defaults := inherited and inherited(_values_given(arguments)):
            parser = _command_parser.__wrapped__(config_class)  # one of its own, since these defaults are not for all
            parser.set_defaults(defaults)
        values = parser.instantiate(parser.parse_args(arguments))
    except jsonargparse.ArgumentError as error:
        raise ValueError(in_words(str(error), options, arguments)) from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{' or '.join(config_files(arguments))} is no YAML file of options: {error}") from None
    return config_class(**{name: values[_public(name)] for name in get_type_hints(config_class)})


@cache
def _command_parser(config_class: type) -> Any:
    """Parser of a command line. To make one takes longer than to use it."""
    parser = _jsonargparse.ArgumentParser(
        description=(config_class.__doc__ or "").strip().split("\n\n")[0],
        allow_abbrev=False,  # what is short for one option today may be short for two tomorrow
        exit_on_error=False,  # which would print the usage, seventy lines of it, before what is wrong
    )
    parser.add_argument("--config", action=_jsonargparse.ActionConfigFile)
    parser.add_class_arguments(config_class, as_group=False, as_positional=False, sub_configs=True)
    for action in [action for action in parser._actions if action.dest != _public(action.dest)]:
        options: dict[str, Any] = parser._option_string_actions
        for name in action.option_strings:
            options[_public(name)] = options.pop(name)
        action.dest, action.option_strings = _public(action.dest), [*map(_public, action.option_strings)]
    return parser


def _public(name: str) -> str:
    """A field's name without the underscore at its end, by which Python tells it from a keyword."""
    return name.removesuffix("_")


def _values_given(arguments: Sequence[str]) -> dict[str, Any]:
    """Values by dotted name, those of config files as YAML has them and others as texts; the last of each name.

    Files that cannot be read are left out: parsing refuses them.
    """
    found: dict[str, Any] = {}

    def add(values: Any, prefix: str = "") -> None:
        for name, value in cast(dict[str, Any], values).items() if isinstance(values, dict) else ():
            found[f"{prefix}{name}"] = value
            add(value, f"{prefix}{name}.")

    for word, following in itertools.pairwise([*arguments, ""]):
        name, is_joined, value = word.partition("=")
        given = value if is_joined else following
        with suppress(yaml.YAMLError, UnicodeDecodeError, OSError):
            add(_yaml.safe_load(Path(given).read_text()) if name == "--config" else {name.removeprefix("--"): given})
    return found


def _refuse_duplicates(file: Path) -> None:
    """Refuse a YAML file that gives an option twice, of which YAML would take the last, or whose alias names a mapping
    that holds it, which would be read for ever; what is no YAML passes."""
    with suppress(yaml.YAMLError, UnicodeDecodeError):
        nodes: list[tuple[Any, list[Any]]] = [(_yaml.compose(file.read_text(encoding="utf-8")), [])]
        for node, holders in nodes:  # which grows meanwhile
            if isinstance(node, yaml.MappingNode):
                where = f"the mapping from line {node.start_mark.line + 1} on"
                if node in holders:
                    raise ValueError(f"{file} has an alias of {where} in that mapping; write its values instead")
                counts = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
                if twice := [name for name, count in counts.items() if count > 1]:
                    raise ValueError(f"{file} gives {twice[0]} twice, in {where}; leave one out")
                nodes += [(value, [*holders, node]) for _, value in node.value]


def options_of(config_class: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every option's dotted name and type, those of nested configs too."""
    hints = get_type_hints(config_class)
    for field in dataclasses.fields(config_class):
        name, kind = prefix + _public(field.name), hints[field.name]
        yield name, kind
        if dataclasses.is_dataclass(kind):
            yield from options_of(cast(type, kind), f"{name}.")


def parse_values(config_class: type, name: str, values: Sequence[Any]) -> list[Any]:  # of the option's type
    """Values of the option of a dotted name, each of them as the command line takes it.

    Raises:
        ValueError: an unknown or misspelt name, or a value of the wrong type.
    """
    options = dict(options_of(config_class))
    if name not in options:
        raise ValueError(in_words(f"unrecognized arguments: --{name}", options, ()))
    if dataclasses.is_dataclass(options[name]):
        raise ValueError(f"{name} is a group of options; name one of them, as --help lists them")
    parser = _jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=list[options[name]])
    try:
        return [parser.parse_object({"value": [value]})["value"][0] for value in values]
    except jsonargparse.ArgumentError as error:
        raise ValueError(in_words(str(error).replace('"value"', f'"{name}"', 1), options, ())) from None


def with_options(config: C, values: Mapping[str, Any]) -> C:
    """A copy of a config with other values of the options of these dotted names; it checks them together.

    Raises:
        ValueError: values that do not fit together.
    """
    own = {name: value for name, value in values.items() if "." not in name}
    for group in {name.partition(".")[0] for name in values.keys() - own.keys()}:
        inner = {name.partition(".")[2]: value for name, value in values.items() if name.startswith(f"{group}.")}
        own[group] = with_options(own.get(group, getattr(config, group)), inner)
    return dataclasses.replace(cast(Any, config), **own)


def _with_lists(arguments: Sequence[str], options: Mapping[str, Any]) -> list[str]:
    """A command line with the words after an option that takes a list joined into one YAML list."""
    joined: list[str] = []
    rest = list(arguments)
    while rest:
        option = rest.pop(0)
        joined.append(option)
        kind = options.get(option.removeprefix("--")) if option.startswith("--") else None
        members = (kind,) if get_origin(kind) is tuple else get_args(kind)
        if any(get_origin(one) is tuple for one in members):
            words = list(itertools.takewhile(lambda word: not word.startswith("--") and word != "-h", rest))
            rest = rest[len(words) :]
            names = ["null", *(name for one in members if get_origin(one) is Literal for name in get_args(one))]
            if words and (words[0].startswith("[") or (len(words) == 1 and words[0] in names)):
                joined.append(" ".join(words))  # a YAML list that the shell split at its blanks: "[8," "4]"
            elif words:  # quoted, so that YAML reads no comma or colon in them; jsonargparse converts to numbers
                joined.append(json.dumps(words, ensure_ascii=False))
    return joined


def to_plain(value: Any) -> Any:  # any config value: the result is what JSON can hold
    """A config as nested mappings, lists, strings, numbers, booleans and None."""

    def plain(item: Any) -> Any:  # what JSON has no form for
        is_config = dataclasses.is_dataclass(item) and not isinstance(item, type)
        return dataclasses.asdict(cast(Any, item), dict_factory=named) if is_config else os.fspath(cast(Path, item))

    def named(fields: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        return {_public(name): value for name, value in fields}

    return json.loads(json.dumps(value, default=plain))


def from_plain(config_class: type[C], plain: Mapping[str, Any], *, source: str) -> C:
    """The config that `to_plain` wrote; `source` says in errors where it was read.

    Raises:
        ValueError: an unknown key, a missing one, a value of the wrong type, or values that do not fit together.
    """
    parser = _value_parser(config_class)
    options = dict(options_of(config_class))
    for name, kind in options.items():
        configs = [one for one in (kind, *get_args(kind)) if dataclasses.is_dataclass(one)]
        value: Any = reduce(lambda inner, key: inner.get(key, {}), name.split("."), plain)
        if configs and not isinstance(value, Mapping) and (value is not None or kind in configs):
            shown = f"{name} is {in_short(value)}, where an object of its fields was expected"
            raise ValueError(f"{source} does not hold a {config_class.__name__}: {shown}")
        if configs and value and kind not in configs:  # a union, of whose members jsonargparse shows all errors
            from_plain(cast(type, configs[0]), cast(Any, value), source=f"{name} of {source}")
    own = {_public(name): name for name in get_type_hints(config_class)}
    try:
        return parser.instantiate(parser.parse_object({"value": {own.get(key, key): plain[key] for key in plain}}))[
            "value"
        ]
    except (jsonargparse.ArgumentError, TypeError, ValueError) as error:
        raise ValueError(
            f"{source} does not hold a {config_class.__name__}: {stored_in_words(str(error), options)}"
        ) from None


@cache
def _value_parser(config_class: type) -> Any:
    """Parser of a stored config, whose making takes as long as two readings."""
    parser = _jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=config_class)
    return parser
