"""Standard streams that fail: progress is lost without harm, results are not."""

import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = """
import logging, sys
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from guided_diffusion.config import run_command


@dataclass(frozen=True)
class Config:
    out: Path


def run(config):
    for _ in tqdm(range(3), mininterval=0):
        print("progress", file=sys.stderr, flush=True)
        logging.warning("warning")
    config.out.write_text("whole")
    print("result")


run_command(Config, run)
"""


def run(out: Path, streams: str) -> tuple[int, str]:
    """Status and text of a command in a shell that redirects its streams."""
    words = ["sh", "-c", f'"$@" {streams}', "sh", sys.executable, "-c", COMMAND, "--out", str(out)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, cwd=Path(__file__).parents[1])
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("streams", ["2>/dev/full", "2>&-"])
def test_progress_that_nobody_can_read_ends_no_work(tmp_path, streams):
    # Both ended a training with status 1 and no message; a closed stream gave its number to the next file.
    assert run(tmp_path / "made", streams) == (0, "result\n")
    assert (tmp_path / "made").read_text() == "whole"


def test_results_that_cannot_be_written_are_an_error_that_says_where(tmp_path):
    status, text = run(tmp_path / "made", ">/dev/full")
    assert status == 2
    assert "error: No space left on device: standard output\n" in text


def test_a_warning_stands_above_the_progress_bar(tmp_path):
    # It stood on the bar's line, "67%|####   | 2/3warning".
    status, text = run(tmp_path / "made", "")
    assert status == 0
    assert [line for line in text.replace("\r", "\n").splitlines() if "warning" in line] == ["warning"] * 3
