"""The one place where YAML files and command lines become dataclasses, and dataclasses become plain values again."""

import dataclasses
import difflib
import itertools
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import reduce
from pathlib import Path
from types import NoneType
from typing import Any, Literal, TypeVar, cast, get_args, get_origin, get_type_hints

import jsonargparse

from .stop_request import InterruptedWork

jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)

C = TypeVar("C")

_jsonargparse: Any = jsonargparse  # its signatures are untyped in part

RENAMED_OPTIONS: Mapping[str, str] = {
    "sampler": "sampler.name",
    "steps": "sampler.steps",
    "eta": "sampler.eta",
    "snr": "sampler.snr",
    "langevin_steps": "sampler.langevin_steps",
    "clip": "sampler.clip",
    "threshold": "sampler.threshold",
    "guidance.gradient_at": "sampler.gradient_at",
    "guidance.entropy_scaled": "--guidance.entropy_scaled true is called --guidance.score entropy_scaled",
    "guidance.free_weight": "guidance.classifier_free.weight",
    "guidance.weak": "guidance.autoguidance.model",
    "guidance.weak_weight": "guidance.autoguidance.weight",
    "guidance.off_the_shelf": "guidance.clean_classifier.name",
    "guidance.off_the_shelf_scale": "guidance.clean_classifier.scale",
    "guidance.off_the_shelf_gradient": "guidance.clean_classifier.gradient",
    "extractor": "extractor.name",
    "inception.weights": "extractor.weights",
    "dinov2.weights": "extractor.weights",
    "data.decode": "--data.decode has been removed: images are always decoded whole; leave it out",
}
"""Options of earlier versions and their present names, or a sentence for one that has none.

An old name is refused with its new one by commands that have the new one; elsewhere it keeps its own meaning.
"""


def run_command(
    config_class: type[C],
    run: Callable[[C], object],
    argv: Sequence[str] | None = None,
    *,
    positional: str | None = None,
) -> None:
    """Run a command on its config, as `parse` makes it of `--config FILE` and options.

    positional: the option whose value may come first on the command line, without its name.

    Bad input (ValueError, OSError), a missing optional package or memory that runs out ends the process with a message
    on standard error and status 2; with GUIDED_DIFFUSION_DEBUG=1 it keeps its traceback. Work that was asked to stop
    ends with status 0.
    """
    try:
        words = sys.argv[1:] if argv is None else argv
        is_positional = positional is not None and words and not words[0].startswith("-")
        run(parse(config_class, [f"--{positional}", *words] if is_positional else words))
    except InterruptedWork as stopped:
        print(stopped, end="\n" if str(stopped) else "", file=sys.stderr)
    except (ValueError, OSError, ImportError, RuntimeError, MemoryError) as error:
        from .memory import is_out_of_memory, out_of_memory_message  # here, since it imports torch

        is_bad_input = isinstance(error, ValueError | OSError | ImportError)
        if os.environ.get("GUIDED_DIFFUSION_DEBUG") or not (is_bad_input or is_out_of_memory(error)):
            raise
        text = str(error) if is_bad_input else out_of_memory_message(error, dict(_options(config_class)))
        if isinstance(error, OSError) and error.strerror and error.filename is not None:
            text = f"{error.strerror}: {error.filename}"  # without the operating system's error number
        print(f"error: {text}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None


def check_at_least(config: object, **smallest: int) -> None:
    """Refuse fields of a config below their smallest values; None passes.

    Raises:
        ValueError: naming the field.
    """
    for name, least in smallest.items():
        value = getattr(config, name)
        if value is not None and value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")


def parse(config_class: type[C], argv: Sequence[str] | None = None) -> C:
    """A config from the command line: defaults, then `--config FILE`, then options such as `--network.dropout 0.1`.

    A list is one value as in YAML, '[16,8]', or several words, 16 8.

    Raises:
        ValueError: an unknown, misspelt or missing key, a value of the wrong type, values that do not fit together, or
            a file that is no YAML.
        SystemExit: `--help` was asked for.
    """
    options = dict(_options(config_class))
    # The list form of `args` keeps jsonargparse from reading sys.argv when a caller passes an empty command line.
    arguments = _with_lists(sys.argv[1:] if argv is None else argv, options)
    for file in _config_files(arguments):
        if Path(file).is_fifo() and not file.startswith("/dev/"):  # where the shell's <(..) has a writer
            raise ValueError(f"{file} is no YAML file of options but a named pipe; give a file")
    try:
        return _jsonargparse.auto_cli(
            config_class,
            as_positional=False,
            return_instance=True,  # else public methods of the config would become subcommands
            args=arguments,
            description=(config_class.__doc__ or "").strip().split("\n\n")[0],
            allow_abbrev=False,  # what is short for one option today may be short for two tomorrow
            exit_on_error=False,  # which would print the usage, seventy lines of it, before what is wrong
        )
    except jsonargparse.ArgumentError as error:
        raise ValueError(_in_words(str(error), options, arguments)) from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{' or '.join(_config_files(arguments))} is no YAML file of options: {error}") from None


def _options(config_class: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every option's dotted name and type, those of nested configs too."""
    hints = get_type_hints(config_class)
    for field in dataclasses.fields(config_class):
        name, kind = prefix + field.name, hints[field.name]
        yield name, kind
        if dataclasses.is_dataclass(kind):
            yield from _options(cast(type, kind), f"{name}.")


def _with_lists(arguments: Sequence[str], options: Mapping[str, Any]) -> list[str]:
    """A command line with the words after an option that takes a list joined into one YAML list."""
    joined: list[str] = []
    rest = list(arguments)
    while rest:
        option = rest.pop(0)
        joined.append(option)
        kind = options.get(option.removeprefix("--")) if option.startswith("--") else None
        if any(get_origin(one) is tuple for one in (kind, *get_args(kind))):
            words = list(itertools.takewhile(lambda word: not word.startswith("--") and word != "-h", rest))
            rest = rest[len(words) :]
            if words and (words[0].startswith("[") or words == ["null"]):
                joined.append(" ".join(words))  # a YAML list that the shell split at its blanks: "[8," "4]"
            elif words:  # quoted, so that YAML reads no comma or colon in them; jsonargparse converts to numbers
                joined.append(json.dumps(words, ensure_ascii=False))
    return joined


def _in_words(message: str, options: Mapping[str, Any], arguments: Sequence[str]) -> str:
    """An error of jsonargparse in one line, in terms of the command line instead of Python's types."""
    if unrecognized := re.match(r"unrecognized arguments: --", message):
        unknown = re.findall(r"(?<!\S)--([^\s=]+)", message[unrecognized.end() - 2 :])
        return "; ".join(_unknown(name, options) for name in dict.fromkeys(unknown))
    if refused := re.match(r"(?:Group '(.+)' does not accept option|Option) '(.+?)'", message):
        return _unknown(".".join(filter(None, refused.groups())), options)
    key = re.match(r'Parser key "([\w.]+)"', message)
    got = re.search(r'(?:Got value: |Given value: |Unable to load config ")([^"\n]*)', message)
    if key and got and key[1] in options:
        if dataclasses.is_dataclass(options[key[1]]) and RENAMED_OPTIONS.get(key[1]) in options:
            return _unknown(key[1], options)  # a value of its old name, which is a group
        return f"{key[1]} takes {_expected(options[key[1]])}; got {got[1]}"
    if lonely := re.match(r"argument --([\w.]+): expected one argument", message):
        kind = options.get(lonely[1], Path)  # --config is no option of a config
        return f"{lonely[1]} takes {_expected(kind)}; got nothing"
    if stray := re.match(r"unrecognized arguments: (\S+)", message):
        return f"'{stray[1]}' belongs to no option; options are --NAME VALUE, lists --NAME 8 4"
    if missing := re.match(r"the following arguments are required: (.*)", message):
        names = ", ".join(f"--{name}" for name in missing[1].split(", "))
        return f"needed and not given: {names}; give them as options, or a --config file that says them"
    if re.match(r"(Problems parsing|Unexpected) config: ", message):
        reason = " ".join(message.split(": ", 1)[1].replace('in "<unicode string>", ', "at ").split())[:200]
        file = " or ".join(_config_files(arguments))
        return f"{file} is no YAML file of options, such as 'out: runs/mine': {reason or 'it is empty'}"
    return " ".join(re.sub(r'^Parser key "([\w.]+)"', r"--\1", message).split())


def _unknown(name: str, options: Mapping[str, Any]) -> str:
    new = RENAMED_OPTIONS.get(name, "")
    if new in options:
        return f"--{name} is called --{new}"
    group, _, last = name.rpartition(".")
    if " " in new and group in options:
        return new
    meant = [option for option in options if option.rpartition(".")[2] == last]  # only its group is missing or wrong
    meant = meant or difflib.get_close_matches(name, options, n=1)
    advice = f"did you mean {_alternatives(meant)}?" if meant else "--help lists all options"
    return f"there is no option {name}; {advice}"


def _config_files(arguments: Sequence[str]) -> list[str]:
    """The values of `--config FILE` and `--config=FILE`."""
    return re.findall(r"(?:^|\0)--config[\0=]([^\0]*)", "\0".join(arguments))


def _expected(kind: Any) -> str:  # any field's type
    """The values that a field of this type takes."""
    if kind in _KINDS:
        return _KINDS[kind]
    if get_origin(kind) is Literal:
        return _alternatives([str(value) for value in get_args(kind)])
    if get_origin(kind) is tuple:
        element = get_args(kind)[0]
        if element in (int, float):
            return f"{_KINDS[element].removeprefix('a ')}s as a list, such as '[8,4]'"
        return f"a list, such as '[a,b]', each of it {_expected(element)}"
    if dataclasses.is_dataclass(kind):
        return "no value itself, only its own options (--help lists them) or a YAML file of them"
    return _alternatives([_expected(one) for one in get_args(kind)])


_KINDS: Mapping[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    Path: "a path",
    NoneType: "null",
}


def _alternatives(values: Sequence[str]) -> str:
    return " or ".join(filter(None, (", ".join(values[:-1]), values[-1])))


def to_plain(value: Any) -> Any:  # any config value: the result is what JSON can hold
    """A config as nested mappings, lists, strings, numbers, booleans and None."""

    def plain(item: Any) -> Any:  # what JSON has no form for
        is_config = dataclasses.is_dataclass(item) and not isinstance(item, type)
        return dataclasses.asdict(cast(Any, item)) if is_config else os.fspath(cast(Path, item))

    return json.loads(json.dumps(value, default=plain))


def from_plain(config_class: type[C], plain: Mapping[str, Any], *, source: str) -> C:
    """The config that `to_plain` wrote; `source` says in errors where it was read.

    Raises:
        ValueError: an unknown key, a missing one, a value of the wrong type, or values that do not fit together.
    """
    parser = _jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=config_class)
    options = dict(_options(config_class))
    try:
        for name in (name for name, kind in options.items() if dataclasses.is_dataclass(kind)):
            value: Any = reduce(lambda inner, key: inner.get(key, {}), name.split("."), plain)
            if not isinstance(value, Mapping):
                raise ValueError(f"{name} is {_shown(value)}, where an object of its fields was expected")
        return parser.instantiate(parser.parse_object({"value": dict(plain)}))["value"]
    except (jsonargparse.ArgumentError, TypeError, ValueError) as error:
        message = str(error).replace("Group 'value' does not accept option", "Option").replace("value.", "")
        if missing := re.match("the following arguments are required: (.*)", message):
            reason = f"it has no {missing[1]}"
        elif unknown := re.match("Option '(.+?)'", message):
            reason = f"it has a field {unknown[1]}, which this version does not know"
        else:
            reason = _in_words(message, options, ())
        raise ValueError(f"{source} does not hold a {config_class.__name__}: {reason}") from None


def differences(stored: Any, wanted: Any, where: str = "") -> list[str]:  # plain values of any kind
    """Differences of two plain values, a line each: "sampler.eta: absent there, 0.5 now"."""
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


def identified(value: Any) -> Any:  # plain values of any kind
    """A plain value without fields that do not identify it: null ones, and names beside a "sha256"."""
    if isinstance(value, list):
        return [identified(item) for item in cast(list[Any], value)]
    if not isinstance(value, dict):
        return value
    fields = cast(dict[str, Any], value)
    return {
        key: identified(inner)
        for key, inner in fields.items()
        if inner is not None and not (key == "name" and "sha256" in fields)
    }


_ABSENT = object()


def _shown(value: Any) -> str:
    text = "absent" if value is _ABSENT else json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
