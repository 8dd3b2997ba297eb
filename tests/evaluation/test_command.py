"""The evaluation command: what it takes, writes and refuses."""

import re
from pathlib import Path

import pytest
from evaluation.reports import report

from guided_diffusion.commands.evaluate import EvaluateConfig, evaluate_samples
from guided_diffusion.config import parse, run_command
from guided_diffusion.evaluation.report import write_report


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    for name, one in (("A", report()), ("B", report(num_generated=50_000))):
        write_report(tmp_path / f"{name}.json", one)
    return [str(tmp_path / f"{name}.json") for name in "AB"]


def test_the_command_takes_files_as_separate_words(files: list[str], tmp_path, capsys) -> None:
    run_command(EvaluateConfig, evaluate_samples, ["--compare", *files, "--out", str(tmp_path / "page.html")])
    assert "NOT comparable: N generated differs (10,000 against 50,000)" in capsys.readouterr().out
    assert "NOT comparable" in (tmp_path / "page.html").read_text()


def test_the_command_writes_no_page_that_nobody_asked_for(files: list[str], tmp_path) -> None:
    before = sorted(tmp_path.iterdir())
    run_command(EvaluateConfig, evaluate_samples, ["--compare", *files])
    assert sorted(tmp_path.iterdir()) == before


def test_the_command_refuses_what_is_no_record_in_one_line(files: list[str], tmp_path, capsys) -> None:
    with pytest.raises(SystemExit) as end:
        run_command(EvaluateConfig, evaluate_samples, ["--compare", files[0], str(tmp_path / "none.json")])
    assert end.value.code == 2
    assert re.fullmatch(r"error: there is no evaluation record .*none\.json; .*\n", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--compare", "A", "B", "--generated", "x"], "takes reports, not images; leave out --generated"),
        (["--compare", "A.json", "B.json", "--generated", "x", "--real", "y"], "leave out --generated and --real"),
        (["--compare", "A.json", "B.json", "--out", "C.json"], "with --compare, --out is a page NAME.html; got C.json"),
        (["--generated", "x", "--real", "y", "--out", "r.html"],
         "the report goes into a file NAME.json, a page NAME.html beside it; got --out r.html"),
        ([], "needed and not given: --generated, --real; or compare evaluations, --compare A.json B.json"),
        (["--real", "y"], "needed and not given: --generated; or compare"),
    ],
)  # fmt: skip
def test_options_that_do_not_go_together_are_refused(options: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        parse(EvaluateConfig, options)
