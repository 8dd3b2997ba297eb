"""Errors of jsonargparse in terms of the command line or of a stored config, instead of Python's types."""

import dataclasses
import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

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
    "training.channels_last": "--training.channels_last has been removed: the faster format is chosen; leave it out",
}
"""Options of earlier versions and their present names, or a sentence for one that has none.

An old name is refused with its new one by commands that have the new one; elsewhere it keeps its own meaning.
"""


def in_words(message: str, options: Mapping[str, Any], arguments: Sequence[str]) -> str:
    """An error of jsonargparse in one line, in terms of the command line instead of Python's types."""
    if unrecognized := re.match(r"unrecognized arguments: --", message):
        unknown = re.findall(r"(?<!\S)--([^\s=]+)", message[unrecognized.end() - 2 :])
        return "; ".join(_unknown(name, options) for name in dict.fromkeys(unknown))
    if refused := re.match(r"(?:Group '(.+)' does not accept option|Option) '(.+?)'", message):
        return _unknown(".".join(filter(None, refused.groups())), options)
    key = re.match(r'Parser key "([\w.]+)"', message)
    got = re.search(r'(?:Got value: |Given value: |Unable to load config ")([^"\n]*)', message)
    if key and key[1] in options and "NestedArg" in message:  # jsonargparse's form of --key.name value
        return f"{key[1]} takes {_expected(options[key[1]])}, and has no options of its own; --help lists all options"
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
        file = " or ".join(config_files(arguments))
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


def config_files(arguments: Sequence[str]) -> list[str]:
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
    if get_origin(kind) is dict:
        return f"a mapping, such as '{{name: {'[a, b]' if get_origin(get_args(kind)[1]) is list else '2.5'}}}'"
    if dataclasses.is_dataclass(kind):
        return "no value itself, only its own options (--help lists them) or a YAML file of them"
    return _alternatives([choice for one in get_args(kind) for choice in _choices(one)])


def _choices(kind: Any) -> list[str]:  # any field's type
    """The values of one alternative of several, each by itself."""
    if get_origin(kind) is Literal:
        return [str(value) for value in get_args(kind)]
    return ["true", "false"] if kind is bool else [_expected(kind)]


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


def stored_in_words(message: str, options: Mapping[str, Any]) -> str:
    """An error of jsonargparse about a stored config, which it parsed as the option `--value`, in one line."""
    message = message.replace("Group 'value' does not accept option", "Option").replace("value.", "")
    if missing := re.match("the following arguments are required: (.*)", message):
        return f"it has no {missing[1]}"
    if unknown := re.match("Option '(.+?)'", message):
        return f"it has a field {unknown[1]}, which this version does not know"
    return in_words(message, options, ())
