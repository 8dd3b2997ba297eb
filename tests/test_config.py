"""YAML files and command lines become configs; what is refused, and which options every script has."""

import ast
import importlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import tiny
from script_options import OPTIONS

from guided_diffusion.commands.evaluate import EvaluateConfig
from guided_diffusion.commands.sample import SampleConfig
from guided_diffusion.commands.train_classifier import TrainClassifierConfig
from guided_diffusion.commands.train_diffusion import TrainDiffusionConfig
from guided_diffusion.commands.train_upsampler import TrainUpsamplerConfig
from guided_diffusion.config import from_plain, parse, run_command, to_plain
from guided_diffusion.guidance.config import GuidanceConfig
from guided_diffusion.records import differences

SCRIPTS = sorted((tiny.REPOSITORY / "scripts").glob("*.py"))
CONFIG_FILES = sorted((tiny.REPOSITORY / "configs").rglob("*.yaml"))
CONFIG_CLASSES: dict[str, type] = {
    "diffusion": TrainDiffusionConfig,
    "classifier": TrainClassifierConfig,
    "judge": TrainClassifierConfig,
    "upsampler": TrainUpsamplerConfig,
    "sample": SampleConfig,
    "evaluate": EvaluateConfig,
}


@dataclass(frozen=True, kw_only=True)
class InnerConfig:
    """Part of a whole."""

    width: int
    """Pixels."""
    rate: float = 0.5
    """Of something."""
    sizes: tuple[float, ...] = (1.0, 2.0)
    """Several."""

    def __post_init__(self) -> None:
        if self.width < 0:
            raise ValueError(f"inner.width is {self.width}; give at least 0")


@dataclass(frozen=True, kw_only=True)
class OuterConfig:
    """A whole.

    Not part of the summary.
    """

    inner: InnerConfig
    """The part."""
    path: Path = Path("somewhere")
    """A place."""
    kind: Literal["a", "b"] = "a"
    """One of two."""
    maybe: float | None = None
    """Or nothing."""


@pytest.fixture
def yaml_file(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("kind: b\npath: from/file\ninner:\n  width: 3\n  sizes: [4, 5]\n")
    return file


def test_options_win_over_the_file_and_the_file_over_defaults(yaml_file):
    config = parse(OuterConfig, [f"--config={yaml_file}", "--inner.width", "7"])
    assert config == OuterConfig(
        inner=InnerConfig(width=7, rate=0.5, sizes=(4.0, 5.0)), path=Path("from/file"), kind="b"
    )


def test_options_alone_are_enough():
    assert parse(OuterConfig, ["--inner.width=7"]) == OuterConfig(inner=InnerConfig(width=7))


def test_compile_is_on_or_off_in_a_file_too(tmp_path):
    (tmp_path / "file.yaml").write_text("compile: on\n")  # true to YAML
    given = ["--out", "samples", "--diffusion", "run"]
    assert parse(SampleConfig, ["--config", str(tmp_path / "file.yaml"), *given]).compile is True
    assert parse(SampleConfig, [*given, "--compile", "off"]).compile == "off"
    with pytest.raises(ValueError, match="compile takes auto, on, off, true or false; got maybe"):
        parse(SampleConfig, [*given, "--compile", "maybe"])


def test_null_means_none(yaml_file):
    assert parse(OuterConfig, [f"--config={yaml_file}", "--maybe=0.25"]).maybe == 0.25
    assert parse(OuterConfig, [f"--config={yaml_file}", "--maybe=0.25", "--maybe=null"]).maybe is None


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--inner.widht=7"], "inner.widht"),
        (["--inner.wid=7"], "inner.wid"),  # an abbreviation would change its meaning with the next option
        (["--kind=c"], "kind"),
        (["--inner.rate=fast"], "rate"),
        ([], "inner.width"),
        (["--inner.width=1", "extra"], "extra"),
        (["--config=/nowhere/at.yaml"], "/nowhere/at.yaml"),
    ],
)
def test_what_cannot_be_understood_is_refused_by_name(options, named):
    with pytest.raises(ValueError, match=re.escape(named)) as refusal:
        parse(OuterConfig, options)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--inner.rate=fast"], "inner.rate takes a number; got fast"),
        (["--maybe=fast"], "maybe takes a number or null; got fast"),
        (["--kind=c"], "kind takes a or b; got c"),
        (["--inner.sizes=4,8"], "inner.sizes takes numbers as a list, such as '[8,4]'; got 4,8"),
        (["--inner=7"], "inner takes no value itself, only its own options (--help lists them) or a YAML file of them"),
        (["--inner.widht=7"], "there is no option inner.widht; did you mean inner.width?"),
        (["--width=7"], "there is no option width; did you mean inner.width?"),
        (["--nonsense=7"], "there is no option nonsense; --help lists all options"),
        (["--maybe.name=7"], "maybe takes a number or null, and has no options of its own; --help lists all options"),
        (["--path.name=7"], "path takes a path, and has no options of its own; --help lists all options"),
        (["--inner.sizes", "4", "wide"], "inner.sizes takes numbers as a list, such as '[8,4]'; got wide"),
        (["--inner.sizes=4", "8"], "inner.sizes takes numbers as a list, such as '[8,4]'; got 4"),
        (["extra"], "'extra' belongs to no option; options are --NAME VALUE, lists --NAME 8 4"),
        ([], "needed and not given: --inner.width; give them as options, or a --config file that says them"),
    ],
)  # fmt: skip
def test_a_refusal_says_what_an_option_takes_in_plain_words(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        parse(OuterConfig, options)


@dataclass(frozen=True, kw_only=True)
class SamplerGroup:
    """Settings of sampling."""

    name: str = "ddpm"
    """Name."""
    steps: int = 250
    """Number."""


@dataclass(frozen=True, kw_only=True)
class GroupedConfig:
    """A command whose options have moved into groups."""

    sampler: SamplerGroup = SamplerGroup()
    """Settings of sampling."""
    data: InnerConfig = InnerConfig(width=1)
    """A group that has lost an option."""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--steps 25", "--steps is called --sampler.steps"),
        ("--steps=25", "--steps is called --sampler.steps"),
        ("--sampler ddim", "--sampler is called --sampler.name"),
        ("--steps=25 --staps 3", "--steps is called --sampler.steps; there is no option staps; "),
        ("--data.decode fast", "--data.decode has been removed: "),
        ("--eta 0.5", "there is no option eta; "),  # this command has no sampler.eta either
    ],
)
def test_an_option_of_an_earlier_version_is_refused_with_its_present_name(options, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        parse(GroupedConfig, options.split())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps: 25", "--steps is called --sampler.steps"),
        ("sampler: ddim", "--sampler is called --sampler.name"),
        ("data: {decode: fast}", "--data.decode has been removed: "),
    ],
)
def test_a_key_of_an_earlier_version_is_refused_with_its_present_name(tmp_path, text, message):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        parse(GroupedConfig, ["--config", str(tmp_path / "config.yaml")])


@dataclass(frozen=True, kw_only=True)
class SweepConfig(GroupedConfig):
    """A command with an option of an old name beside the group that has the new one."""

    steps: int = 1
    """Number."""


def test_an_old_name_that_a_command_has_is_no_old_name():
    assert parse(SweepConfig, ["--steps", "25"]).steps == 25
    with pytest.raises(ValueError, match="^steps takes a whole number; got fast"):
        parse(SweepConfig, ["--steps", "fast"])


def test_the_memory_format_of_earlier_versions_is_refused_with_the_reason():
    with pytest.raises(ValueError, match=r"^--training\.channels_last has been removed: the faster format is chosen"):
        parse(TrainDiffusionConfig, ["--data.path=x", "--out=y", "--training.channels_last", "true"])


@dataclass(frozen=True, kw_only=True)
class ListsConfig:
    """Of every kind."""

    numbers: tuple[float, ...] = ()
    """Numbers."""
    sides: tuple[int, ...] = ()
    """Whole ones."""
    files: tuple[Path, ...] = ()
    """Paths."""
    kinds: tuple[Literal["a", "b"], ...] = ()
    """Names."""
    steps: tuple[int | str, ...] = ()
    """Numbers or names."""
    levels: tuple[int, ...] | Literal["all"] | Literal["none"] = "none"
    """A list, or a name in its place."""
    out: Path = Path("out")
    """No list."""


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--numbers 0 1 2.5", ListsConfig(numbers=(0, 1, 2.5))),
        ("--numbers 1 -2 -3e-2 --sides 16 8", ListsConfig(numbers=(1, -2, -0.03), sides=(16, 8))),
        ("--files A.json B.json --out page", ListsConfig(files=(Path("A.json"), Path("B.json")), out=Path("page"))),
        ("--files 1 2:3,[4]#5", ListsConfig(files=(Path("1"), Path("2:3,[4]#5")))),
        ("--kinds b a", ListsConfig(kinds=("b", "a"))),
        ("--steps 25 ddim25 10,15", ListsConfig(steps=(25, "ddim25", "10,15"))),
        ("--numbers 4", ListsConfig(numbers=(4,))),
        ("--files one", ListsConfig(files=(Path("one"),))),
        ("--levels all", ListsConfig(levels="all")),
        ("--levels 8 4 --kinds a", ListsConfig(levels=(8, 4), kinds=("a",))),
        ("--numbers [1,2]", ListsConfig(numbers=(1, 2))),
        ("--numbers=[1,2] --out x", ListsConfig(numbers=(1, 2), out=Path("x"))),
        ("--files [runs/a, runs/b]", ListsConfig(files=(Path("runs/a"), Path("runs/b")))),
    ],
)  # fmt: skip
def test_a_list_is_several_words_or_one_value(words, expected):
    found = parse(ListsConfig, words.split())
    assert found == expected
    assert [type(step) for step in found.steps] == [type(step) for step in expected.steps]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--kinds a c", "kinds takes a list, such as '[a,b]', each of it a or b; got"),
        ("--kinds c", "kinds takes a list, such as '[a,b]', each of it a or b; got"),
        ("--sides", "sides takes whole numbers as a list, such as '[8,4]'; got nothing"),
        ("--sides 4 8 --out x y", "'y' belongs to no option"),
        ("--levels all none", "levels takes whole numbers as a list, such as '[8,4]', all or none; got"),
        ("--sides 4 8.5", "sides takes whole numbers as a list, such as '[8,4]'; got 8.5"),
    ],
)
def test_words_that_make_no_list_are_refused_by_name(words, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        parse(ListsConfig, words.split())


def test_help_is_asked_for_behind_a_list_too(capsys):
    with pytest.raises(SystemExit):
        parse(ListsConfig, ["--numbers", "1", "2", "-h"])
    assert "Whole ones." in capsys.readouterr().out


@pytest.mark.parametrize("text", ["inner: [", "kind:\n\tb", "hello", ""])
def test_a_file_that_is_no_yaml_of_options_is_named(tmp_path, text):
    file = tmp_path / "config.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=rf"^{re.escape(str(file))} is no YAML file of options"):
        parse(OuterConfig, ["--config", str(file)])


@pytest.mark.parametrize("text", ["inner:\n  widht: 3\n", "inner:\n  width: 3\nkinnd: a\n"])
def test_a_misspelt_key_of_a_file_is_refused_by_name(tmp_path, text):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"there is no option (inner.widht; did you mean inner.width|kinnd; did you)"):
        parse(OuterConfig, [f"--config={tmp_path / 'config.yaml'}"])


def test_values_that_do_not_fit_together_keep_their_own_message():
    with pytest.raises(ValueError, match=r"inner.width is -1; give at least 0"):
        parse(OuterConfig, ["--inner.width=-1"])


def test_an_empty_command_line_is_not_taken_from_the_running_program(monkeypatch):
    monkeypatch.setattr("sys.argv", ["program", "--inner.width=9"])
    assert parse(OuterConfig).inner.width == 9
    with pytest.raises(ValueError, match="inner.width"):
        parse(OuterConfig, [])


def test_help_says_what_fields_mean(capsys):
    with pytest.raises(SystemExit):
        parse(OuterConfig, ["--help"])
    text = capsys.readouterr().out
    assert "A whole." in text
    assert "Not part of the summary" not in text
    assert "Pixels." in text


CONFIGS = [
    OuterConfig(inner=InnerConfig(width=1, sizes=())),
    OuterConfig(inner=InnerConfig(width=1), path=Path("/a b/c"), kind="b", maybe=1e-7),
    tiny.diffusion_config(Path("out"), Path("in"), iterations=3, ema_decays=(0.9, 0.9999)),
    tiny.upsampler_config(Path("out"), Path("in"), iterations=3),
    tiny.classifier_config(Path("out"), Path("in"), iterations=3, diffusion=Path("run")),
    SampleConfig(diffusion=Path("run"), out=Path("out"), guidance=GuidanceConfig(scale=2.0, sigma_min=0.5)),
]


def test_an_underscore_at_the_end_of_a_fields_name_is_pythons_alone(tmp_path, capsys):
    @dataclass(frozen=True, kw_only=True)
    class FromConfig:
        """Begin."""

        from_: str | None = None
        """The beginning."""
        width: int = 1
        """Pixels."""

    file = tmp_path / "config.yaml"
    file.write_text("from: there\n")
    assert parse(FromConfig, [f"--config={file}"]).from_ == "there"
    assert parse(FromConfig, [f"--config={file}", "--from", "here"]) == FromConfig(from_="here")
    assert to_plain(FromConfig(from_="here")) == {"from": "here", "width": 1}
    with pytest.raises(ValueError, match="there is no option from_; did you mean from"):
        parse(FromConfig, ["--from_=here"])
    seen: list[Any] = []
    inherited = parse(FromConfig, [f"--config={file}"], inherited=lambda given: seen.append(given) or {"width": 3})
    assert (inherited.width, seen[0]["from"]) == (3, "there")
    with pytest.raises(SystemExit):
        parse(FromConfig, ["--help"])
    assert "--from FROM" in capsys.readouterr().out


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
def test_plain_values_become_the_config_they_came_from(config):
    assert from_plain(type(config), to_plain(config), source="a test") == config


def plain_types(value: Any) -> set[type]:
    if isinstance(value, dict):
        return {dict}.union(*(plain_types(item) for item in value.values()))
    if isinstance(value, list):
        return {list}.union(*(plain_types(item) for item in value))
    return {type(value)}


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
def test_plain_values_are_what_json_holds(config):
    assert plain_types(to_plain(config)) <= {dict, list, str, int, float, bool, type(None)}


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        ({"inner": {"width": 1, "widht": 2}}, "it has a field inner.widht, which this version does not know"),
        ({"inner": {"width": 1}, "kinnd": "a"}, "it has a field kinnd, which this version does not know"),
        ({"inner": {}}, "it has no inner.width"),
        ({}, "it has no inner.width"),
        ({"inner": [1]}, r"inner is \[1\], where an object of its fields was expected"),
        ({"inner": {"width": "wide"}}, "inner.width takes a whole number; got wide"),
        ({"inner": {"width": -1}}, "inner.width is -1"),
    ],
)
def test_stored_values_that_are_no_config_are_refused_naming_file_and_key(plain, message):
    with pytest.raises(ValueError, match=f"some/config.json does not hold a OuterConfig: (?s:.*){message}"):
        from_plain(OuterConfig, plain, source="some/config.json")


def test_differences_name_what_changed_and_how():
    stored = {"network": {"dropout": 0.1, "width": 8}, "chain": {"steps": 10}, "names": ["a", "b"], "gone": 1}
    wanted = {"network": {"dropout": 0.0, "width": 8}, "chain": {"steps": 10}, "names": ["a"], "new": 2}
    assert differences(stored, wanted) == [
        "gone: 1 there, absent now",
        'names: ["a", "b"] there, ["a"] now',
        "network.dropout: 0.1 there, 0.0 now",
        "new: absent there, 2 now",
    ]
    assert differences(stored, dict(reversed(stored.items()))) == []


def test_long_values_are_shortened_in_differences():
    (line,) = differences({"names": ["class"] * 1000}, {"names": []})
    assert len(line) < 110


def test_a_script_runs_its_config():
    seen = []
    run_command(OuterConfig, seen.append, ["--inner.width=2"])
    assert seen == [OuterConfig(inner=InnerConfig(width=2))]


@pytest.mark.parametrize("words", [["2", "--kind=b"], ["--inner.width=2", "--kind=b"], ["--kind=b", "--inner.width=2"]])
def test_one_option_of_a_script_may_come_first_without_its_name(words):
    seen = []
    run_command(OuterConfig, seen.append, words, positional="inner.width")
    assert seen == [OuterConfig(inner=InnerConfig(width=2), kind="b")]


@pytest.mark.parametrize("error", [ValueError("too wide; narrow it"), FileNotFoundError("there is no run")])
def test_a_script_states_bad_input_in_one_line_and_ends_with_status_2(error, capsys, monkeypatch):
    monkeypatch.delenv("GUIDED_DIFFUSION_DEBUG", raising=False)

    def run(config: OuterConfig) -> None:
        raise error

    with pytest.raises(SystemExit) as end:
        run_command(OuterConfig, run, ["--inner.width=2"])
    assert end.value.code == 2
    assert capsys.readouterr().err == f"error: {error}\n"


def test_a_script_says_what_the_operating_system_refused_without_its_number(capsys):
    with pytest.raises(SystemExit):
        run_command(OuterConfig, lambda config: Path("/nowhere/at/all").read_text(), ["--inner.width=2"])
    assert capsys.readouterr().err == "error: No such file or directory: /nowhere/at/all\n"


def test_a_file_that_cannot_take_its_name_is_called_by_it(tmp_path, capsys):
    (tmp_path / "shard.npz").mkdir()
    (tmp_path / ".shard.npz.123.tmp").touch()
    with pytest.raises(SystemExit):
        run_command(
            OuterConfig, lambda config: (tmp_path / ".shard.npz.123.tmp").replace(tmp_path / "shard.npz"),
            ["--inner.width=2"],
        )  # fmt: skip
    assert capsys.readouterr().err == f"error: Is a directory: {tmp_path / 'shard.npz'}\n"


def test_an_interrupted_script_promises_nothing_and_ends_as_shells_expect(capsys):
    def run(config: OuterConfig) -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as end:
        run_command(OuterConfig, run, ["--inner.width=2"])
    assert end.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_script_keeps_the_traceback_of_our_own_bugs():
    def run(config: OuterConfig) -> None:
        raise KeyError("bug")

    with pytest.raises(KeyError):
        run_command(OuterConfig, run, ["--inner.width=2"])


def test_a_script_keeps_the_traceback_of_bad_input_if_asked(monkeypatch):
    monkeypatch.setenv("GUIDED_DIFFUSION_DEBUG", "1")
    with pytest.raises(ValueError, match=r"inner.width is -1"):
        run_command(OuterConfig, lambda config: None, ["--inner.width=-1"])


@pytest.mark.parametrize("file", CONFIG_FILES, ids=lambda file: str(file.relative_to(tiny.REPOSITORY)))
def test_every_shipped_yaml_loads_and_says_what_it_is_and_how_to_run_it(file):
    assert file.stem in CONFIG_CLASSES, f"{file} is of no known kind; its name says which config it holds"
    config = parse(CONFIG_CLASSES[file.stem], [f"--config={file}"])
    assert from_plain(type(config), to_plain(config), source=str(file)) == config
    head = file.read_text().split("\n")[:6]
    assert head[0].startswith("# ")
    relative = file.relative_to(tiny.REPOSITORY)
    assert any(re.fullmatch(rf"#\s+python scripts/\w+\.py --config {relative}.*", line) for line in head)


def script_config(script: Path) -> type:
    """The config class that the command of a script hands to run_command."""
    return importlib.import_module(f"guided_diffusion.commands.{script.stem}").main.args[0]


def test_every_script_has_its_list_of_options_here():
    assert sorted(OPTIONS) == [script.stem for script in SCRIPTS]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_the_options_of_a_script_are_those_users_know(script, capsys):
    with pytest.raises(SystemExit):
        parse(script_config(script), ["--help"])
    found = set(re.findall(r"^  (--[\w.]+)", capsys.readouterr().out, flags=re.MULTILINE))
    known = {f"--{option}" for option in OPTIONS[script.stem]}
    assert found - {"--config", "--print_config"} == known


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_scripts_are_short_and_begin_with_the_command_that_runs_them(script):
    text = script.read_text()
    assert len(text.splitlines()) <= 30
    assert f"python scripts/{script.name}" in (ast.get_docstring(ast.parse(text)) or "")


@dataclass(frozen=True, kw_only=True)
class ConfigWithMethods:
    """A command whose config computes something."""

    width: int = 2
    """Pixels."""

    @property
    def area(self) -> int:
        """Pixels."""
        return self.width**2

    def scaled(self, factor: int) -> int:
        """Pixels."""
        return factor * self.width


def test_a_config_may_have_public_methods_and_properties():
    config = parse(ConfigWithMethods, ["--width=3"])
    assert (config.area, config.scaled(2)) == (9, 6)
    with pytest.raises(ValueError, match="'area' belongs to no option"):
        parse(ConfigWithMethods, ["area"])
