"""All benchmarks in turn, each in a process of its own, and their tables in benchmarks/RESULTS.md: make bench.

python benchmarks/results.py [--subjects forward guided_step] [--out benchmarks/RESULTS.md]

With some subjects alone, the others' sections stay as they are, if they are of the same machine and versions. A
subject that fails has "not measured" and the reason in place of its tables.
"""

import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from machine import description, load
from rounds import NOT_MEASURED

from guided_diffusion.config import run_command

HERE = Path(__file__).parent
SUBJECTS = (
    "forward", "training_step", "guided_step", "guided_runs", "features", "metrics", "data_loading", "data_start",
    "start_up", "peak_memory", "sampling_overhead",
)  # fmt: skip
"""Files here that print tables, in the order of their sections."""
GPU_TABLES = "GPU.md"
"""The tables that gpu.py writes, kept beside RESULTS.md once there are some."""


@dataclass(frozen=True, kw_only=True)
class ResultsConfig:
    """Measure on this machine and write the tables."""

    out: Path = HERE / "RESULTS.md"
    """File of the tables."""
    subjects: tuple[str, ...] = SUBJECTS
    """Sections to measure."""
    timeout: int = 600
    """Seconds after which a subject is given up."""

    def __post_init__(self) -> None:
        unknown = sorted(set(self.subjects) - set(SUBJECTS))
        if unknown:
            raise ValueError(f"there is no benchmark {unknown[0]}; there are {', '.join(SUBJECTS)}")


def main(config: ResultsConfig) -> None:
    """Write the file anew after each subject, so that an interrupted run leaves what it measured.

    Raises:
        ValueError: sections to be kept that are of another machine.
    """
    head = "\n".join(f"- {line}" for line in description())
    sections = {} if set(config.subjects) == set(SUBJECTS) else kept_sections(config.out, head)
    for subject in config.subjects:
        print(f"{subject} ..", file=sys.stderr, flush=True)
        sections[subject] = section(subject, timeout=config.timeout)
        print(sections[subject], flush=True)
        config.out.write_text(document(head, sections, gpu=(config.out.parent / GPU_TABLES).exists()))


def document(head: str, sections: dict[str, str], *, gpu: bool) -> str:
    """The whole file."""
    ordered = [sections.get(subject, f"## {subject}\n\n{NOT_MEASURED}\n") for subject in SUBJECTS]
    tables = f"[{GPU_TABLES}]({GPU_TABLES})" if gpu else f"{NOT_MEASURED}; `python benchmarks/gpu.py` makes the tables"
    return "\n".join([
        "# Measured comparisons", "",
        "Written by `make bench`. Numbers are medians over rounds in which the ways took turns in one process, with "
        "quartiles in brackets; ratios are formed within rounds. Each section says when and under which load it was "
        "measured.", "", head, f"- Tables of a GPU: {tables}", "", *ordered,
    ])  # fmt: skip


def section(subject: str, *, timeout: int) -> str:
    """The heading, the tables that a benchmark prints, and its circumstances."""
    command, before, started = ["benchmarks/" + f"{subject}.py"], load(), time.time()
    try:
        done = subprocess.run(
            [sys.executable, "-u", *command],
            capture_output=True,
            text=True,
            cwd=HERE.parent,
            timeout=timeout,
            check=False,
        )
        tables, errors, failed = done.stdout, done.stderr, done.returncode != 0
    except subprocess.TimeoutExpired as expired:
        output = expired.stdout
        tables = output.decode() if isinstance(output, bytes) else output or ""
        errors, failed = f"no end after {timeout} seconds", True
    if failed:
        print(errors, file=sys.stderr)
        tables += f"\n{NOT_MEASURED}: {(errors.strip().splitlines() or ['no output'])[-1]}\n"
    if "|" not in tables:
        tables = f"```\n{tables.strip()}\n```"
    date = time.strftime("%Y-%m-%d %H:%M", time.localtime(started))
    note = f"{date}, load {before} before and {load()} after, {time.time() - started:.0f} s."
    return f"## {subject}\n\n`python {' '.join(command)}`, {note}\n\n{tables.strip()}\n"


def kept_sections(file: Path, head: str) -> dict[str, str]:
    """The sections of a file of the same machine, by subject; none where there is no file.

    Raises:
        ValueError: a file of another machine, or of other versions or settings.
    """
    if not file.exists():
        return {}
    text = file.read_text()
    if head not in text:
        raise ValueError(
            f"{file} holds tables of another machine, other versions or other settings; measure all subjects, or give "
            f"another --out"
        )
    found = re.split(r"^## (\w+)$", text, flags=re.MULTILINE)[1:]
    return {name: f"## {name}{body.rstrip()}\n" for name, body in zip(found[::2], found[1::2], strict=True)}


if __name__ == "__main__":
    run_command(ResultsConfig, main)
