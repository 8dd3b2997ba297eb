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

from tqdm import tqdm

from .report import Setting, write_demo_report

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


def run_demo(config: DemoConfig) -> None:
    """Everything from the scans to report.html; prints the table and where the report is.

    Raises:
        ValueError: a command failed; the message has the end of its output.
    """
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
    extractor = ("--extractor", f"classifier:{judge}")
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
    return [
        ("writing the digits", [Job("digits", (("scripts/make_digits.py", "--out", digits),))]),
        ("training the diffusion model", [Job("diffusion", (train_diffusion,)), Job("judge", (train_judge,))]),
        ("training the classifier", [Job("classifier", (train_classifier, diagnose)), Job("floor", (floor,))]),
        ("sampling and evaluating", [_sampling_job(config, name, scale, extractor) for name, scale in _grid(config)]),
    ]  # fmt: skip


def _sampling_job(config: DemoConfig, sampler: str, scale: float, extractor: Sequence[str]) -> Job:
    out = config.out
    directory = _samples(config, sampler, scale)
    steps = config.ddim_steps if sampler == "ddim" else config.ddpm_steps
    sample: Command = (
        "scripts/sample.py", "--diffusion", str(out / "diffusion"), "--classifier", str(out / "classifier"),
        "--guidance.scale", f"{scale:g}", "--sampler", sampler, "--steps", str(steps),
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
    with (
        ThreadPoolExecutor(max_workers=min(2, os.cpu_count() or 1)) as pool,
        tqdm(total=len(jobs), desc=title, unit="job", leave=True) as bar,
    ):
        pending = [pool.submit(_run_job, job, logs / f"{job.name}.log") for job in jobs]
        try:
            for done in as_completed(pending):
                done.result()
                bar.update()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _run_job(job: Job, log: Path) -> None:
    with log.open("w") as output:
        for command in job.commands:
            words = [sys.executable, *command]
            output.write(f"$ python {shlex.join(command)}\n")
            output.flush()
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            status = subprocess.run(words, stdout=output, stderr=subprocess.STDOUT, env=environment).returncode
            if status:
                end = "\n".join(log.read_text().replace("\r", "\n").splitlines()[-15:])
                raise ValueError(f"a command of the demonstration failed with status {status}; {log} ends:\n{end}")
