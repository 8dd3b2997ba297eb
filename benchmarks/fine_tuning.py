"""Fine-tuning against training from nothing: digits 8 and 9, of which the source has seen none.

OMP_NUM_THREADS=1 python benchmarks/fine_tuning.py --demo runs/demo

A source of the digits 0 to 7 is trained by configs/digits/diffusion.yaml, conditioned on the class, and fine-tuned on
50 scans each of 8 and 9 with the defaults of --from. From nothing, the same recipe has the same budget. Samples of
DDIM-10, as many of each class as there are other scans of 8 and 9, are compared with those by the demo's judge, which
knows all digits. Trainings and samples that are there already are not made again.
"""

import json
import shutil
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from guided_diffusion.commands import evaluate, sample, train_diffusion
from guided_diffusion.config import run_command
from guided_diffusion.run_directory import latest

REPOSITORY = Path(__file__).parents[1]
RECIPE = (f"--config={REPOSITORY}/configs/digits/diffusion.yaml", "--class_conditional=true", "--preview.images=0")
WAYS: dict[str, tuple[str, ...]] = {
    "from nothing": ("--training.ema_decays=[]", "--training.ema_widths=[0.1]"),
    "--from": (),
    "--from, --training.train_only label": ("--training.train_only=[label]", "--training.learning_rate=0.02"),
    "--from, --training.train_only '*.attention' label": ("--training.train_only=['*.attention',label]",),
    "--from, --training.train_only levels conv_out label": ("--training.train_only=[levels,norm_out,conv_out,label]",),
    "--from, --training.learning_rate 0.0003": ("--training.learning_rate=0.0003",),
    "--from, --training.learning_rate 0.002": ("--training.learning_rate=0.002",),
    "--from, --training.warmup_iterations 20": ("--training.warmup_iterations=20",),
}
"""Options of each way of training."""
NUMBERS = {"frechet_distance": "FD", "precision": "precision", "recall": "recall", "accuracy": "asked class"}


@dataclass(frozen=True, kw_only=True)
class FineTuningBenchmark:
    """Prints a table, a row a way and budget, each number the mean over seeds with its range."""

    demo: Path
    """Directory of scripts/demo.py, for its digits and its judge."""
    out: Path = Path("runs/fine_tuning")
    """Directory of the trainings."""
    budgets: tuple[int, ...] = (50, 200)
    """Iterations, of 16 images."""
    seeds: tuple[int, ...] = (0, 1)
    """Seeds of the trainings that begin from nothing and from the one source."""
    images: int = 50
    """Scans of each new class to train on."""


def main(config: FineTuningBenchmark) -> None:
    """Prints the table."""
    trained(config, "source", "known", *RECIPE, batch=64)
    print(f"| way | iterations | {' | '.join(NUMBERS.values())} |\n{'| --- ' * (2 + len(NUMBERS))}|")
    for budget in config.budgets:
        for number, (way, options) in enumerate(WAYS.items()):
            runs = [measured(config, f"{number}-{budget}-{seed}", way, options, budget, seed) for seed in config.seeds]
            columns = [[run[name] for run in runs] for name in NUMBERS]
            cells = [f"{mean(values):.3g} ({min(values):.3g} to {max(values):.3g})" for values in columns]
            print(f"| `{way}` | {budget} | {' | '.join(cells)} |", flush=True)


def split(config: FineTuningBenchmark) -> Path:
    """The directory of known/, new/ and rest/."""
    data = config.out / f"data-{config.images}"
    if not data.exists():
        digits, partial = config.demo / "digits", data.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        for label in range(8):
            shutil.copytree(digits / "train" / str(label), partial / "known" / str(label))
        for label in (8, 9):
            files = [file for part in ("train", "test") for file in sorted((digits / part / str(label)).iterdir())]
            for name, chosen in (("new", files[: config.images]), ("rest", files[config.images :])):
                (partial / name / str(label)).mkdir(parents=True)
                for file in chosen:
                    shutil.copy(file, partial / name / str(label))
        partial.rename(data)
    return data


def trained(config: FineTuningBenchmark, name: str, part: str, *options: str, batch: int = 16) -> Path:
    """A run on one part of the digits."""
    run = config.out / name
    if latest(run) is None:
        common = (f"--data.path={split(config) / part}", "--data.num_workers=0", f"--training.batch.size={batch}")
        logged(run, train_diffusion.main, [*options, *common, f"--out={run}"])
    return run


def measured(
    config: FineTuningBenchmark, name: str, way: str, options: tuple[str, ...], budget: int, seed: int
) -> dict[str, float]:
    """FD, precision, recall and accuracy of a way's samples."""
    begin = RECIPE if way == "from nothing" else (f"--from={config.out}/source", "--preview.images=0")
    run = trained(config, name, "new", *begin, *options, f"--training.seed={seed}", f"--training.iterations={budget}")
    rest, samples = split(config) / "rest", run / "samples"
    report = samples / "evaluation.json"
    if not report.exists():
        count = len(list(rest.glob("*/*.png")))
        logged(run, sample.main, [f"--diffusion={run}", f"--out={samples}", "--sampler.name=ddim", "--sampler.steps=10",
                                  f"--num_samples={count}", "--labels=balanced", "--batch_size=128"])  # fmt: skip
        logged(run, evaluate.main, [f"--generated={samples}", f"--real={rest}", f"--out={report}",
                                    f"--extractor.name=classifier:{config.demo / 'judge'}"])  # fmt: skip
    return json.loads(report.read_text())["metrics"]


def logged(run: Path, command: object, options: list[str]) -> None:
    """Run a command with its output in RUN.log."""
    run.parent.mkdir(parents=True, exist_ok=True)
    with run.with_suffix(".log").open("a") as log, redirect_stdout(log), redirect_stderr(log):
        command(options)  # type: ignore[operator]  # main of a command


if __name__ == "__main__":
    run_command(FineTuningBenchmark, main)
