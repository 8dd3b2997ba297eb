"""The demonstration: train, guide and evaluate on real digits, by running the very commands that a user would type."""

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import IO

from tqdm import tqdm

from ..config import run_command
from ..run_directory import latest
from .demo_report import Setting, write_demo_report

Command = tuple[str, ...]
"""The words of a command line after "python"."""


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Train a diffusion model, a classifier and a judge on handwritten digits, sample at several scales, and report."""

    out: Path = Path("runs/demo")
    """Where everything goes; a run that was interrupted continues there."""
    scales: tuple[float, ...] = (0, 1, 2, 4, 8)
    """Guidance scales s."""
    num_samples: int = 360
    """Samples of each setting, about as many as there are held-out scans, so that their Fréchet distances compare."""
    ddim_steps: int = 25
    """Timesteps of DDIM."""
    ddpm_steps: int = 25
    """Timesteps of DDPM."""


@dataclass(frozen=True)
class Job:
    """Commands that follow one another, under a name for the log."""

    name: str
    commands: tuple[Command, ...]
    trains: Path | None = None
    """Run directory of the training among them."""


def run_demo(config: DemoConfig) -> None:
    """Everything from the scans to report.html; prints the table and where the report is.

    Raises:
        ValueError: a command failed, and the message has the end of its output; or the current directory is another.
    """
    if not Path("scripts/demo.py").is_file():
        raise ValueError("the demonstration runs scripts/ and configs/ by their names; start it where they are")
    started = time.perf_counter()
    for title, jobs in _stages(config):
        _run_stage(title, jobs, logs=config.out / "logs")
    settings = list(_results(config))
    report = write_demo_report(
        config.out, settings, commands=[c for _, jobs in _stages(config) for job in jobs for c in job.commands]
    )
    print(report.table)
    print(f"\n{(time.perf_counter() - started) / 60:.1f} minutes; pictures and curves: {report.path}")


def _stages(config: DemoConfig) -> list[tuple[str, list[Job]]]:
    out = config.out
    diffusion, classifier, judge, digits = (str(out / name) for name in ("diffusion", "classifier", "judge", "digits"))
    train = ("--data.path", f"{digits}/train", "--resume", "auto")
    extractor = ("--extractor.name", f"classifier:{judge}")
    train_diffusion: Command = (
        "scripts/train_diffusion.py", "--config", "configs/digits/diffusion.yaml", "--out", diffusion, *train,
    )  # fmt: skip
    train_judge: Command = (
        "scripts/train_classifier.py", "--config", "configs/digits/judge.yaml", "--out", judge,
        "--heldout", f"{digits}/test", *train,
    )  # fmt: skip
    train_classifier: Command = (
        "scripts/train_classifier.py", "--config", "configs/digits/classifier.yaml", "--out", classifier,
        "--diffusion", diffusion, "--heldout", f"{digits}/test", *train,
    )  # fmt: skip
    diagnose: Command = (
        "scripts/diagnose_classifier.py", "--classifier", classifier, "--data.path", f"{digits}/test",
        "--out", str(out / "classifier_levels.json"),
    )  # fmt: skip
    floor: Command = (
        "scripts/evaluate.py", "--generated", f"{digits}/test", "--real", f"{digits}/train", *extractor,
        "--out", str(out / "floor.json"),
    )  # fmt: skip
    trainings = [
        Job("diffusion", (train_diffusion,), trains=Path(diffusion)),
        Job("judge", (train_judge,), trains=Path(judge)),
    ]
    guide = Job("classifier", (train_classifier, diagnose), trains=Path(classifier))
    return [
        ("writing the digits", [Job("digits", (("scripts/make_digits.py", "--out", digits),))]),
        ("training the diffusion model", trainings),
        ("training the classifier", [guide, Job("floor", (floor,))]),
        ("sampling and evaluating", [_sampling_job(config, name, scale, extractor) for name, scale in _grid(config)]),
    ]


def _sampling_job(config: DemoConfig, sampler: str, scale: float, extractor: Sequence[str]) -> Job:
    out = config.out
    directory = _samples(config, sampler, scale)
    steps = config.ddim_steps if sampler == "ddim" else config.ddpm_steps
    sample: Command = (
        "scripts/sample.py", "--diffusion", str(out / "diffusion"), "--classifier", str(out / "classifier"),
        "--guidance.scale", f"{scale:g}", "--sampler.name", sampler, "--sampler.steps", str(steps),
        "--num_samples", str(config.num_samples), "--batch_size", "120", "--out", str(directory),
    )  # fmt: skip
    evaluate: Command = (
        "scripts/evaluate.py", "--generated", str(directory), "--real", str(out / "digits" / "train"), *extractor,
        "--out", str(directory / "evaluation.json"),
    )  # fmt: skip
    return Job(f"{sampler}-{scale:g}", (sample, evaluate))


def _grid(config: DemoConfig) -> list[tuple[str, float]]:
    return [(sampler, scale) for sampler in ("ddim", "ddpm") for scale in config.scales]


def _samples(config: DemoConfig, sampler: str, scale: float) -> Path:
    return config.out / "samples" / f"{sampler}-scale{scale:g}"


def _results(config: DemoConfig) -> Iterator[Setting]:
    for sampler, scale in _grid(config):
        directory = _samples(config, sampler, scale)
        record = json.loads((directory / "evaluation.json").read_text())
        yield Setting(sampler, scale, record["metrics"], directory / "grid.png")


def _run_stage(title: str, jobs: list[Job], *, logs: Path) -> None:
    """Run jobs side by side, one a core and at most two, each single-threaded: small networks gain little from more."""
    logs.mkdir(parents=True, exist_ok=True)
    failed = Event()
    with (
        ThreadPoolExecutor(max_workers=min(2, os.cpu_count() or 1)) as pool,
        tqdm(total=len(jobs), desc=title, unit="job") as bar,
    ):
        pending = [pool.submit(_run_job, job, logs / f"{job.name}.log", failed) for job in jobs]
        try:
            for done in as_completed(pending):
                done.result()
                bar.update()
        except BaseException:
            failed.set()
            pool.shutdown(cancel_futures=True)
            raise


def _run_job(job: Job, log: Path, failed: Event) -> None:
    """Run a job's commands, one after the other until one fails, here or in a job beside it."""
    with log.open("w") as output:
        for command in job.commands:
            output.write(f"$ python {shlex.join(command)}\n")
            output.flush()
            status = _status(command, output, failed)
            if failed.is_set():
                return
            if status:
                end = "\n".join(log.read_text().replace("\r", "\n").splitlines()[-15:])
                raise ValueError(f"a command of the demonstration failed with status {status}; {log} ends:\n{end}")
    if job.trains is not None:
        _refuse_unfinished(job.trains)


def _status(command: Command, output: IO[str], failed: Event) -> int:
    """Exit status of a command that is ended early if a job beside it fails."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    words = [sys.executable, *command]
    with subprocess.Popen(words, stdout=output, stderr=subprocess.STDOUT, env=environment) as process:
        while process.poll() is None:
            if failed.wait(timeout=0.2):
                process.terminate()
                return process.wait()
        return process.returncode


def _refuse_unfinished(run: Path) -> None:
    """A training that was asked to stop saves and ends well, but nothing should be made with its network.

    Raises:
        ValueError: fewer iterations than its budget.
    """
    record = json.loads(((latest(run) or run) / "config.json").read_text())
    done, budget = record["iteration"], record["run"]["training"]["iterations"]
    if done < budget:
        raise ValueError(f"{run} was stopped at iteration {done} of {budget}; the same command continues")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; argv: None takes the process's own arguments."""
    run_command(DemoConfig, run_demo, argv)
