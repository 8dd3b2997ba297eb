"""Train, guide and evaluate on handwritten digits, by the commands that a user would type: python scripts/demo.py"""

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event

import yaml
from tqdm import tqdm

from ..config import run_command
from ..records import DamagedRecordError, parse_record
from ..run_directory import latest


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Train a diffusion model, a classifier and a judge on handwritten digits, sample at several scales, and report."""

    out: Path = Path("runs/demo")
    """Directory of all results; an interrupted run continues there."""
    scales: tuple[float, ...] = (0, 1, 2, 4, 8)
    """Guidance scales s."""
    num_samples: int = 360
    """Samples of each setting, about as many as there are held-out scans, so that their Fréchet distances compare."""
    ddim_steps: int = 25
    """Timesteps of DDIM."""
    ddpm_steps: int = 25
    """Timesteps of DDPM."""
    particles: int = 4
    """Particles of each sample where DDPM tilts exactly; 1 leaves that out."""
    particle_scales: tuple[float, ...] = (1, 2)
    """Guidance scales of that, which costs as many times DDPM as there are particles."""


@dataclass(frozen=True)
class Setting:
    """Samples of one row of the table."""

    sampler: str
    steps: int
    scale: float
    particles: int = 1

    @property
    def label(self) -> str:
        """The sampler, as the table has it."""
        return self.sampler if self.particles == 1 else f"{self.sampler}, K = {self.particles}"

    @property
    def directory(self) -> str:
        """Name of the samples' directory."""
        return f"{self.sampler}{'' if self.particles == 1 else f'-particles{self.particles}'}-scale{self.scale:g}"


@dataclass(frozen=True)
class Job:
    """Commands that run one after the other, and the name of their log."""

    name: str
    commands: tuple[str, ...]
    """Command lines, without the leading "python"."""
    trains: Path | None = None
    """Run directory of the training among them."""
    after: Path | None = None
    """Run directory whose first checkpoint they wait for."""


def run_demo(config: DemoConfig) -> None:
    """Run all stages from the scans to report.html; print the table and the report's path.

    Raises:
        ValueError: a command failed (the message has the end of its output), or scripts/ is not in this directory.
    """
    from .demo_report import write_demo_report  # here, since it needs matplotlib, which --help does not
    from .sweep_report import Outcome

    if not Path("scripts/demo.py").is_file():
        raise ValueError("the demonstration runs scripts/ and configs/ by their names; start it where they are")
    started = time.perf_counter()
    stages = demo_stages(config)
    for title, jobs in stages.items():
        run_stage(title, jobs, logs=config.out / "logs")
    outcomes: list[Outcome] = []
    for one in _settings(config):
        directory = config.out / "samples" / one.directory
        record = json.loads((directory / "evaluation.json").read_text())
        outcomes.append(Outcome(
            sampler=one.label, steps=one.steps, scale=one.scale, network_evaluations=one.steps * one.particles,
            metrics=record["metrics"], display_names=record["display_names"], grid=directory / "grid.png",
        ))  # fmt: skip
    commands = [command for jobs in stages.values() for job in jobs for command in job.commands]
    print(write_demo_report(config.out, outcomes, commands=commands))
    minutes = (time.perf_counter() - started) / 60
    print(f"\n{minutes:.1f} minutes; pictures and curves: {config.out / 'report.html'}")


def demo_stages(config: DemoConfig) -> dict[str, list[Job]]:
    """Jobs by the title of their stage; those of a stage may run in parallel."""
    out = shlex.quote(str(config.out))
    data = f"--data.path {out}/digits/train --resume auto"
    diffusion = f"scripts/train_diffusion.py --config configs/digits/diffusion.yaml --out {out}/diffusion {data}"
    train_classifier = f"scripts/train_classifier.py {data} --heldout {out}/digits/test --config configs/digits"
    judge = f"{train_classifier}/judge.yaml --out {out}/judge"
    classifier = f"{train_classifier}/classifier.yaml --out {out}/classifier --diffusion {out}/diffusion"
    evaluate = f"scripts/evaluate.py --real {out}/digits/train --extractor.name classifier:{out}/judge"
    diagnose = (
        f"scripts/diagnose_classifier.py --classifier {out}/classifier --data.path {out}/digits/test "
        f"--out {out}/classifier_levels.json"
    )
    floor = f"{evaluate} --generated {out}/digits/test --out {out}/floor.json"

    return {
        "writing the digits": [Job("digits", (f"scripts/make_digits.py --out {out}/digits",))],
        "training": [
            Job("diffusion", (diffusion,), trains=config.out / "diffusion"),
            Job("judge", (judge,), trains=config.out / "judge"),
            Job("classifier", (classifier,), trains=config.out / "classifier", after=config.out / "diffusion"),
        ],
        "measuring the classifier and held-out digits": [Job("levels", (diagnose,)), Job("floor", (floor,))],
        "sampling and evaluating": [_sampling(one, config, evaluate=evaluate) for one in _settings(config)],
    }


def _settings(config: DemoConfig) -> list[Setting]:
    samplers = (("ddim", config.ddim_steps), ("ddpm", config.ddpm_steps))
    plain = [Setting(name, steps, scale) for name, steps in samplers for scale in config.scales]
    of_particles = config.particle_scales if config.particles > 1 else ()
    return plain + [Setting("ddpm", config.ddpm_steps, scale, config.particles) for scale in of_particles]


def _sampling(setting: Setting, config: DemoConfig, *, evaluate: str) -> Job:
    out = shlex.quote(str(config.out))
    samples = f"{out}/samples/{setting.directory}"
    exact = "" if setting.particles == 1 else f" --guidance.particles {setting.particles}"
    sample = (
        f"scripts/sample.py --diffusion {out}/diffusion --classifier {out}/classifier "
        f"--guidance.scale {setting.scale:g}{exact} --sampler.name {setting.sampler} --sampler.steps {setting.steps} "
        f"--num_samples {config.num_samples} --batch_size 120 --out {samples}"
    )
    return Job(setting.directory, (sample, f"{evaluate} --generated {samples} --out {samples}/evaluation.json"))


def run_stage(title: str, jobs: Sequence[Job], *, logs: Path) -> None:
    """Run jobs in parallel, at most two and one a core, each with one thread: small networks gain little from more.

    Raises:
        ValueError: a command failed, or a training was stopped before its last iteration.
    """
    logs.mkdir(parents=True, exist_ok=True)
    failed = Event()
    with (
        ThreadPoolExecutor(max_workers=min(2, os.cpu_count() or 1)) as pool,
        tqdm(total=len(jobs), desc=title, unit="job") as bar,
    ):
        pending = [pool.submit(_run_job, job, logs / f"{job.name}.log", failed) for job in jobs]
        try:
            while pending:
                done, waiting = wait(pending, timeout=2, return_when=FIRST_COMPLETED)
                for job in done:
                    job.result()
                    bar.update()
                pending = list(waiting)
                bar.set_postfix_str("; ".join(filter(None, map(training_progress, jobs if pending else ()))))
        except BaseException:
            failed.set()
            pool.shutdown(cancel_futures=True)
            raise


def training_progress(job: Job) -> str | None:
    """The state of a job's training, as "diffusion 600/1800, loss 0.15, 01:20 left"; None without one."""
    file = None if job.trains is None else job.trains / "metrics.jsonl"
    if file is None or not file.is_file():
        return None
    words = shlex.split(job.commands[0])
    training = yaml.safe_load(Path(words[words.index("--config") + 1]).read_text())["training"]
    for line in reversed(file.read_bytes().splitlines()):
        with suppress(DamagedRecordError):  # a line that is being written, or holds no loss
            metrics = parse_record(line, {"iteration": int, "loss": float, "images_per_second": float}, source=file)
            to_go = training["iterations"] - metrics["iteration"]
            left = tqdm.format_interval(to_go * training["batch"]["size"] / metrics["images_per_second"])
            done = f"{job.name} {metrics['iteration']}/{training['iterations']}, loss {metrics['loss']:.3g}"
            return f"{done}, {left} left" if to_go > 0 else done
    return None


def _run_job(job: Job, log: Path, failed: Event) -> None:
    """Run a job's commands; end early if `failed` is set by a parallel job."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    while job.after is not None and latest(job.after) is None:
        if failed.wait(timeout=0.2):
            return
    with log.open("w") as output:
        for command in job.commands:
            print(f"$ python {command}", file=output, flush=True)
            words = [sys.executable, *shlex.split(command)]
            with subprocess.Popen(words, stdout=output, stderr=subprocess.STDOUT, env=environment) as process:
                while process.poll() is None:
                    if failed.wait(timeout=0.2):
                        process.terminate()
                        return
            if process.returncode:
                end = "\n".join(log.read_text().replace("\r", "\n").splitlines()[-15:])
                raise ValueError(
                    f"a command of the demonstration failed with status {process.returncode}; {log} ends:\n{end}"
                )
    if job.trains is not None:  # a training that is asked to stop saves and ends well, but its network is unfinished
        record = json.loads(((latest(job.trains) or job.trains) / "config.json").read_text())
        done, budget = record["iteration"], record["run"]["training"]["iterations"]
        if done < budget:
            raise ValueError(f"{job.trains} was stopped at iteration {done} of {budget}; the same command continues")


main = partial(run_command, DemoConfig, run_demo)
