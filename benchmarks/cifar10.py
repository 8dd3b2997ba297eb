"""CIFAR-10 from class folders to a table and a picture, by the commands of docs/cifar10.md.

    python examples/cifar10_folders.py cifar10                             # once: the official archive as class folders
    python benchmarks/cifar10.py --data cifar10 --out runs/cifar10                     # the whole recipe
    python benchmarks/cifar10.py --data cifar10 --out runs/short --length 0.02         # a fiftieth of its length
    python benchmarks/cifar10.py --data cifar10 --out runs/cifar10 --stages train --minutes 9.5

Every stage leaves out what is done, so the same command continues after an interruption of any kind. OUT/cifar10.md
and OUT/cifar10.png hold what there is so far; OUT/logs holds the output of each command, OUT/stages.json its time.
"""

import json
import math
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import yaml
from einops import rearrange
from machine import description

from guided_diffusion.config import run_command
from guided_diffusion.data.formats.samples import iterate_shards
from guided_diffusion.data.image_set import open_image_set
from guided_diffusion.data.pictures import write_grid
from guided_diffusion.data.subset import evenly_spaced
from guided_diffusion.files import atomic_write, write_json
from guided_diffusion.stop_request import InterruptedWork

CONFIGS = Path("configs/cifar10")
TRAININGS = {"diffusion": "train_diffusion", "judge": "train_classifier", "classifier": "train_classifier"}
SMALLEST_BATCH = 32
FEWEST_SAMPLES = 320
"""More than the 256 features of the judge, so that covariances are not singular."""
SHOWN = 4
"""Samples of each class and scale in the picture."""
METRICS = {
    "frechet_distance": "FD", "precision": "precision", "recall": "recall", "density": "density",
    "coverage": "coverage", "accuracy": "accuracy",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Cifar10Benchmark:
    """Trains the diffusion model, the judge and the classifier of configs/cifar10, samples, evaluates, and reports."""

    data: Path
    """CIFAR-10 in class folders: train/<class>/*, test/<class>/*."""
    out: Path = Path("runs/cifar10")
    """Directory of all results."""
    length: float = 1.0
    """Training images, as a share of the recipe's. The batch goes with its root, in powers of two and at least 32."""
    scales: tuple[float, ...] = (0, 0.5, 1, 2, 4, 8)
    """Guidance scales s."""
    steps: int = 25
    """Timesteps of DDIM."""
    num_samples: int | None = None
    """Samples of each scale; null: 10,000 times the length, at least 320."""
    stages: tuple[Literal["data", "train", "sample"], ...] = ("data", "train", "sample")
    """Stages to make now; sample holds the evaluations as well."""
    minutes: float | None = None
    """Time after which this call stops, with all that it has on disk."""

    def __post_init__(self) -> None:
        if not self.length > 0:
            raise ValueError(f"length is a share of the recipe above 0, got {self.length}")

    @property
    def count(self) -> int:
        """Samples of each scale."""
        return self.num_samples or max(FEWEST_SAMPLES, round(10_000 * self.length))


def main(config: Cifar10Benchmark) -> None:
    """Run what is missing, and report."""
    if not CONFIGS.is_dir():
        raise ValueError("the benchmark runs scripts/ and configs/ by their names; start it where they are")
    (config.out / "logs").mkdir(parents=True, exist_ok=True)
    until = math.inf if config.minutes is None else time.monotonic() + 60 * config.minutes
    failures = list[str]()
    for stage, name, command in commands(config):
        if stage not in config.stages:
            continue
        try:
            if name == "floor":
                write_real(config)
            run(config, stage, name, command, until=until)
        except ValueError as error:  # the other measurements can do without this one
            if stage != "sample":
                raise
            failures.append(str(error))
        finally:
            report(config)
    print((config.out / "cifar10.md").read_text())
    if failures:
        raise ValueError("\n".join(failures))


def commands(config: Cifar10Benchmark) -> Iterator[tuple[str, str, str]]:
    """Stage, name and command line, without "python", of each piece of work in turn."""
    out, data = shlex.quote(str(config.out)), shlex.quote(str(config.data))
    for split in ("train", "test"):
        yield (
            "data",
            f"data/{split}",
            f"scripts/prepare_data.py --data.path {data}/{split} --size 32 --out {out}/data/{split}",
        )
    for name, script in TRAININGS.items():
        yield "train", name, f"scripts/{script}.py --config {CONFIGS}/{name}.yaml {training_options(config, name)}"
    for name in TRAININGS:
        yield "train", f"small/{name}", f"examples/small_checkpoint.py {out}/{name} {out}/small/{name}"
    measured = f"--real {out}/data/test --extractor.name classifier:{out}/judge"
    networks, batch = f"--diffusion {out}/diffusion --classifier {out}/classifier", batch_size()
    diagnose = f"scripts/diagnose_classifier.py --classifier {out}/classifier --data.path {out}/data/test"
    scales = ",".join(f"{scale:g}" for scale in config.scales)
    counts = f"--num_samples {config.count} --batch_size {batch} --shard_size {batch}"
    by_all_cores = f"-m torch.distributed.run --standalone --nproc_per_node {os.cpu_count()} "
    launch = "" if torch.cuda.is_available() else by_all_cores
    settings = f"--scales '[{scales}]' --samplers '[ddim]' --steps '[{config.steps}]' --out {out}/sweep"
    yield "sample", "levels", f"{diagnose} --max_images {min(5000, config.count)} --out {out}/levels.json"
    yield (
        "sample",
        "floor",
        f"scripts/evaluate.py --generated {out}/real-{config.count}.npz {measured} --out {out}/floor.json",
    )
    yield "sample", "sweep", f"{launch}scripts/sweep.py {networks} {measured} {settings} {counts}"


def batch_size() -> int:
    """Samples at a time."""
    return 500 if torch.cuda.is_available() else 64


def training_options(config: Cifar10Benchmark, name: str) -> str:
    """The options of a training beside its config file."""
    training, out = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())["training"], shlex.quote(str(config.out))
    images = round(training["images"] * config.length)
    batch = training["batch"]["size"]
    batch = min(batch, max(SMALLEST_BATCH, 2 ** round(math.log2(batch * config.length**0.5))))
    options = f"--out {out}/{name} --data.path {out}/data/train --resume auto"
    if config.length < 1:
        save = max(20, math.ceil(images / batch / 16))
        options += f" --training.batch.size {batch} --training.save_every_iterations {save}"
    if config.length != 1:
        options += f" --training.images {images}"
    if name != "diffusion":
        options += f" --heldout {out}/data/test"
    if name == "classifier":
        options += f" --diffusion {out}/diffusion"
    return options if torch.cuda.is_available() else f"{options} --data.num_workers 0"


def run(config: Cifar10Benchmark, stage: str, name: str, command: str, *, until: float) -> None:
    """Run a command if it is not done, with its output in a log; note its time as it goes.

    Raises:
        ValueError: it failed, or a training was begun at another length.
        InterruptedWork: the time is up; a training has saved.
    """
    out = config.out
    record = {"seconds": 0.0, "done": False, "length": config.length, **stages(out).get(name, {})}
    if stage == "train" and record["length"] != config.length:
        raise ValueError(f"{out / name} was begun with --length {record['length']:g}; give that, or another --out")
    if record["done"] and (stage != "sample" or record["command"] == command):
        return
    log, before, started = out / "logs" / f"{name.replace('/', '-')}.log", record["seconds"], time.monotonic()
    print(f"$ python {command}    > {log}", file=sys.stderr, flush=True)
    with log.open("a") as stream:
        process = subprocess.Popen([sys.executable, *shlex.split(command)], stdout=stream, stderr=subprocess.STDOUT)
        status, is_late = None, False
        try:
            while status is None:
                is_late = time.monotonic() > until
                if is_late:
                    process.terminate()
                status = _wait(process, 60 if is_late else 1)
                record |= {"seconds": before + time.monotonic() - started, "done": status == 0 and not is_late}
                write_json(out / "stages.json", stages(out) | {name: record | {"command": command}})
        finally:
            process.kill()
            process.wait()
    if is_late:
        raise InterruptedWork(f"stopped after --minutes, within {name}; the same command continues")
    if status:
        raise ValueError(f"a command failed with status {status}; {log} ends:\n{log.read_text()[-1500:]}")


def _wait(process: subprocess.Popen[bytes], seconds: float) -> int | None:
    """The exit status; None if it runs on."""
    try:
        return process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        return None


def stages(out: Path) -> dict[str, Any]:
    """The record of what was done."""
    file = out / "stages.json"
    return json.loads(file.read_text()) if file.is_file() else {}


def write_real(config: Cifar10Benchmark) -> None:
    """Write as many training images as there are samples of a scale, whose distance from the test set is the floor."""
    file = config.out / f"real-{config.count}.npz"
    if file.is_file():
        return
    images = open_image_set(config.out / "data/train")
    chosen = evenly_spaced(len(images), most=config.count)
    with atomic_write(file) as stream:
        np.savez(stream, arr_0=np.stack([images.pixels(index) for index in chosen]))


def report(config: Cifar10Benchmark) -> None:
    """Write the table and the picture of all that is there."""
    lines = [*(f"- {line}" for line in description()), f"- Length: {config.length:g} of the recipe", ""]
    lines += ["| stage | minutes | images | images/s | result |", "| --- | --- | --- | --- | --- |"]
    for name, record in stages(config.out).items():
        cells = training_cells(config.out / name) if name in TRAININGS else ["", "", size_of_weights(config.out / name)]
        minutes = f"{record['seconds'] / 60:.1f}" + ("" if record["done"] else " so far")
        lines.append(f"| {' | '.join([name, minutes, *cells])} |")
    rows = dict(sample_rows(config))
    if rows:
        lines += ["", f"| samples | {' | '.join(METRICS.values())} |", f"| --- |{' --- |' * len(METRICS)}"]
        lines += [f"| {name} | {' | '.join(formatted(metrics))} |" for name, metrics in rows.items()]
        write_picture(config)
    with atomic_write(config.out / "cifar10.md") as file:
        file.write("\n".join([*lines, ""]).encode())


def training_cells(run_dir: Path) -> list[str]:
    """Images, rate, and the last loss or accuracy, by metrics.jsonl."""
    file = run_dir / "metrics.jsonl"
    metrics = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
    rated = [one for one in metrics if "images_per_second" in one]
    if not rated:
        return ["", "", ""]
    newest = max(run_dir.glob("checkpoint-*/config.json"), default=None)
    run = {} if newest is None else json.loads(newest.read_text())
    images = "" if not run else f"{run['iteration'] * run['run']['training']['batch']['size']:,}"
    heldout = [one["heldout_accuracy_t0"] for one in metrics if "heldout_accuracy_t0" in one]
    last = f"held-out accuracy {heldout[-1]:.3f} at t = 0" if heldout else f"loss {rated[-1]['loss']:.4f}"
    return [images, f"{np.median([one['images_per_second'] for one in rated]):,.0f}", last]


def size_of_weights(directory: Path) -> str:
    """Size of the weights in a small checkpoint; empty for another directory."""
    weights = list(directory.glob("checkpoint-*/*.safetensors"))
    return f"{weights[0].stat().st_size / 2**20:.1f} MiB in float16" if weights else ""


def sample_rows(config: Cifar10Benchmark) -> Iterator[tuple[str, Mapping[str, float]]]:
    """Metrics of real images and of each scale, as far as they are evaluated."""
    floor = config.out / "floor.json"
    if floor.is_file():
        yield f"{config.count:,} training images", json.loads(floor.read_text())["metrics"]
    for scale in config.scales:
        file = samples_of(config, scale) / "evaluation.json"
        if file.is_file():
            yield f"{config.count:,}, s = {scale:g}", json.loads(file.read_text())["metrics"]


def formatted(metrics: Mapping[str, float]) -> Iterator[str]:
    """Cells of a row."""
    for key in METRICS:
        value = metrics.get(key)
        yield "" if value is None else f"{value:.2f}" if key == "frechet_distance" else f"{value:.3f}"


def samples_of(config: Cifar10Benchmark, scale: float) -> Path:
    """The sweep's directory of a scale."""
    return config.out / "sweep" / "samples" / f"ddim-{config.steps}-scale{scale:g}"


def write_picture(config: Cifar10Benchmark) -> None:
    """Write the first samples of each class, a row, side by side for each scale, from the same noise."""
    blocks, scales, names = [], [], []
    for scale in config.scales:
        directory = samples_of(config, scale)
        if (directory / "evaluation.json").is_file():
            names = json.loads((directory / "manifest.json").read_text())["class_names"]
            shards = iterate_shards(directory, stop=len(names) * SHOWN)
            images = np.concatenate([shard.images for shard in shards])
            blocks.append(rearrange(torch.from_numpy(images), "(n c) y x rgb -> c n rgb y x", c=len(names)))
            scales += [f"s = {scale:g}", *[""] * (SHOWN - 1)]
    if blocks:
        tiles = rearrange(torch.cat(blocks, dim=1), "c n rgb y x -> (c n) rgb y x")
        write_grid(config.out / "cifar10.png", tiles, columns=len(scales), rows=names, heads=scales)


if __name__ == "__main__":
    run_command(Cifar10Benchmark, main)
