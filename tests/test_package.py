"""The package as a whole: its public names, its version, and the one command that runs all others."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

import guided_diffusion
from guided_diffusion.__main__ import COMMANDS, main

COMMAND_FILES = (tiny.REPOSITORY / "guided_diffusion" / "commands").glob("*.py")


def test_every_public_name_can_be_imported_and_is_known_to_editors():
    for name in guided_diffusion.__all__:
        assert getattr(guided_diffusion, name).__name__ == name
    tree = ast.parse(Path(guided_diffusion.__file__).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    imported = [alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert sorted(imported) == sorted(guided_diffusion.__all__)
    with pytest.raises(AttributeError, match="no attribute 'ddimm'"):
        _ = guided_diffusion.ddimm


def test_importing_the_package_and_listing_its_commands_loads_no_library():
    code = "import sys, guided_diffusion.__main__ as m; m.main(['--help']); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert all(f"\n  {command} " in done.stdout for group in COMMANDS.values() for command in group)


def test_importing_the_pipeline_and_help_of_every_command_import_what_their_work_needs_alone():
    # One interpreter after another would import torch each time. What is imported stays, so no step hides another's.
    code = """
import contextlib, io, sys
from importlib import import_module

def refuse(what, heavy):
    if found := heavy & sys.modules.keys():
        sys.exit(f"{what} imports {found}")

import guided_diffusion.distributed
refuse("distributed", {"accelerate", "torch.distributed.tensor"})
from guided_diffusion import GuidedDiffusion
refuse("the pipeline", {"PIL", "accelerate", "matplotlib", "torchvision"})
for name in sys.argv[1:]:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        import_module(f"guided_diffusion.commands.{name}").main(["--help"])
    heavy = {"PIL", "accelerate", "datasets", "matplotlib", "scipy", "sklearn", "torchmetrics", "torchvision", "wandb"}
    refuse(f"{name} --help", heavy)
"""
    commands = [command for group in COMMANDS.values() for command in group]
    done = subprocess.run([sys.executable, "-c", code, *commands], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_command_is_listed():
    listed = sorted(command for group in COMMANDS.values() for command in group)
    assert listed == sorted(file.stem for file in COMMAND_FILES if "\nmain = " in file.read_text())


@pytest.mark.parametrize("name", ["make_digits", "make-digits"])
def test_a_command_runs_under_its_name(name, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["before"])
    main([name, "--out", str(tmp_path / "digits")])
    assert (tmp_path / "digits" / "train" / "0").is_dir()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["smaple"], "error: there is no command smaple; did you mean sample?\n"),
        (["xyz"], "error: there is no command xyz; guided-diffusion --help lists all commands\n"),
        (["make_digits", "--uot=x"], "error: there is no option uot; did you mean out?\n"),
    ],
)
def test_a_misspelt_command_or_option_is_refused_with_the_nearest_and_status_2(words, message, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["before"])
    with pytest.raises(SystemExit) as end:
        main(words)
    assert (end.value.code, capsys.readouterr().err) == (2, message)


def test_the_version_is_that_of_the_changelog(capsys):
    main(["--version"])
    version = capsys.readouterr().out.strip()
    assert version == guided_diffusion.__version__
    assert f"## {version}" in (tiny.REPOSITORY / "CHANGELOG.md").read_text()
