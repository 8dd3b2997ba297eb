"""Trainings that are killed and asked to stop at random moments, resumed each time, and compared with undisturbed ones.

    python tests/killing.py --interruptions 20

does it for all three kinds of network and prints what happened; test_training_runs.py does it with a few.
"""

import argparse
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import tiny

from guided_diffusion.run_directory import checkpoints, latest

ITERATIONS = 24
KINDS = ("diffusion", "classifier", "upsampler")


def command(kind: str, out: Path, folder: Path, diffusion: Path) -> list[str]:
    """Script and options of a training that saves every third iteration and observes every seventh."""
    network = [option for option in tiny.DIFFUSION_OPTIONS if not option.startswith(("--chain", "--preview"))]
    own = {
        "diffusion": [*tiny.CHAIN_OPTIONS, "--preview.images=2", "--preview.steps=3", "--timesteps=loss_second_moment"],
        "upsampler": [*tiny.CHAIN_OPTIONS, "--preview.images=2", "--preview.steps=3", "--low_res_size=4"],
        "classifier": [f"--diffusion={diffusion}", f"--heldout={folder}"],
    }
    return [
        f"train_{kind}.py", f"--data.path={folder}", f"--out={out}", "--resume=auto", *network, *own[kind],
        "--data.flip=true", "--network.dropout=0.1", f"--training.iterations={ITERATIONS}", "--training.anneal=linear",
        "--training.save_every_iterations=3", "--training.observe_every_iterations=7",
        "--training.ema_decays=[0.5,0.9]", "--training.ema_widths=[0.1]", "--training.snapshot_every_iterations=2",
        "--training.batch.size=4", "--training.batch.per_process=3", "--training.log_every_iterations=1",
    ]  # fmt: skip


def interrupted(arguments: list[str], *, interruptions: int, rng: random.Random) -> Counter[str]:
    """Run the training to its end through so many signals at random moments; what became of its processes."""
    outcomes: Counter[str] = Counter()
    out = Path(next(argument for argument in arguments if argument.startswith("--out=")).removeprefix("--out="))
    for _ in range(interruptions):
        wanted = logged(out) + rng.randrange(ITERATIONS // interruptions)
        process = tiny.start(*arguments)
        number = rng.choice([signal.SIGKILL, signal.SIGTERM])
        while process.poll() is None and logged(out) < wanted:
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.05))  # within an iteration, or while it is saved
        if process.poll() is not None:
            outcomes["finished first"] += 1
        process.send_signal(number)
        status, output = tiny.finish(process)
        # Before the training listens for it, SIGTERM ends a program as it ends any other.
        if status not in (0, -number):
            raise AssertionError(f"status {status} after {number.name} at iteration {wanted}:\n{output}")
        outcomes[f"{number.name}: status {status}"] += 1
    status, output = tiny.finish(tiny.start(*arguments))
    if status != 0:
        raise AssertionError(output)
    return outcomes


def logged(out: Path) -> int:
    """Lines of a training's log, of which every iteration writes one."""
    file = out / "metrics.jsonl"
    return len(file.read_text().splitlines()) if file.exists() else 0


def same(ours: Path, theirs: Path) -> bool:
    """True if two runs ended with the same weights, averages, moments and snapshots, to the bit."""
    a, b = (latest(run) for run in (ours, theirs))
    if a is None or b is None or a.name != b.name:
        return False
    ours_files, theirs_files = (
        {
            file.relative_to(run): file.read_bytes()
            for folder in (newest, run / "snapshots")
            for file in folder.rglob("*.safetensors")
        }
        for run, newest in ((ours, a), (theirs, b))
    )
    return ours_files == theirs_files


def killed_equals_undisturbed(kind: str, directory: Path, *, interruptions: int, seed: int) -> Counter[str]:
    """Interrupt a training of that kind and compare its end with an undisturbed one's, to the bit.

    Raises:
        AssertionError: they differ.
    """
    folder = tiny.write_class_folder(directory / "data")
    diffusion = directory / "chain"
    if kind == "classifier":
        status, output = tiny.finish(tiny.start(*short_diffusion(diffusion, folder)))
        assert status == 0, output
    arguments = {name: command(kind, directory / name, folder, diffusion) for name in ("undisturbed", "killed")}
    outcomes = interrupted(arguments["killed"], interruptions=interruptions, rng=random.Random(f"{kind}{seed}"))
    status, output = tiny.finish(tiny.start(*arguments["undisturbed"]))
    assert status == 0, output
    assert same(directory / "killed", directory / "undisturbed")
    assert len(checkpoints(directory / "killed")) == 3
    assert len(checkpoints(directory / "killed" / "snapshots")) == ITERATIONS // 2
    assert not list((directory / "killed").glob("damaged-*"))
    assert not list((directory / "killed" / "snapshots").glob(".partial-*"))
    lines = (directory / "killed" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == len((directory / "undisturbed" / "metrics.jsonl").read_text().splitlines())
    return outcomes


def short_diffusion(out: Path, folder: Path) -> list[str]:
    """A diffusion run that only lends its chain."""
    options = [*tiny.DIFFUSION_OPTIONS, "--training.iterations=1"]
    return ["train_diffusion.py", f"--data.path={folder}", f"--out={out}", *options]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--interruptions", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as directory:
            begin = time.monotonic()
            outcomes = killed_equals_undisturbed(
                kind, Path(directory), interruptions=given.interruptions, seed=given.seed
            )
        told = ", ".join(f"{what} x {count}" for what, count in sorted(outcomes.items()))
        print(f"{kind}: the same to the bit after {told} ({time.monotonic() - begin:.0f} s)")
        sys.stdout.flush()
