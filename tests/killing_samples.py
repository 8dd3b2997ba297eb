"""A sampling run of two processes that is killed at random moments, goes on as one process, and is compared with an
undisturbed one.

    python tests/killing_samples.py --kills 10

prints what happened; generation/test_killed_runs.py does it with a few.
"""

import argparse
import os
import random
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path

import tiny

from guided_diffusion.commands.train_classifier import train_classifier
from guided_diffusion.commands.train_diffusion import train_diffusion
from guided_diffusion.data.formats.samples import read_shard

NUM_SAMPLES = 40
SHARD_SIZE = 2


def command(out: Path, diffusion: Path, classifier: Path) -> list[str]:
    """Script and options of a run of many small shards, guided, with labels that are drawn."""
    return [
        "sample.py", f"--diffusion={diffusion}", f"--classifier={classifier}", f"--out={out}", "--sampler.name=ddpm",
        "--sampler.steps=6", f"--num_samples={NUM_SAMPLES}", f"--shard_size={SHARD_SIZE}", "--batch_size=2",
        "--labels=uniform", "--guidance.scale=2",
    ]  # fmt: skip


def shard_bytes(directory: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(directory.glob("shard-*.npz"))}


def killed(arguments: list[str], out: Path, *, kills: int, rng: random.Random) -> Counter[str]:
    """Start the run on two processes and kill it, so many times; how far it had come."""
    outcomes: Counter[str] = Counter()
    for _ in range(kills):
        wanted = len(shard_bytes(out)) + rng.randrange(NUM_SAMPLES // SHARD_SIZE // kills)
        process = tiny.start(*arguments, processes=2, threads=1)
        begin = time.monotonic()
        while process.poll() is None and len(shard_bytes(out)) < wanted and time.monotonic() - begin < 60:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.1))  # within a shard, or while it is written
        everything = rng.random() < 0.5
        for pid in process.pids if everything else [rng.choice(process.pids)]:
            os.kill(pid, signal.SIGKILL)  # of one killed alone the other is ended, as torchrun does
        status, output = tiny.finish(process)
        if status == 0 and len(shard_bytes(out)) < NUM_SAMPLES // SHARD_SIZE:
            raise AssertionError(f"ended well with shards missing:\n{output}")
        outcomes["finished first" if status == 0 else "all killed" if everything else "one process killed"] += 1
    return outcomes


def killed_equals_undisturbed(
    directory: Path, diffusion: Path, classifier: Path, *, kills: int, seed: int
) -> Counter[str]:
    """Kill a run, let one process end it, and compare its bytes with an undisturbed run's.

    Raises:
        AssertionError: they differ.
    """
    arguments = {name: command(directory / name, diffusion, classifier) for name in ("undisturbed", "killed")}
    outcomes = killed(arguments["killed"], directory / "killed", kills=kills, rng=random.Random(seed))
    left = shard_bytes(directory / "killed")
    for name in left:
        read_shard(directory / "killed" / name)  # no shard is there in part
    for run in arguments.values():
        status, output = tiny.finish(tiny.start(*run, threads=1))
        assert status == 0, output
    assert shard_bytes(directory / "killed") == shard_bytes(directory / "undisturbed")
    assert len(shard_bytes(directory / "killed")) == NUM_SAMPLES // SHARD_SIZE
    for name in ("manifest.json", "grid.png"):
        ours, theirs = ((directory / run / name).read_bytes() for run in arguments)
        assert ours == theirs
    outcomes["shards there before the last start"] += len(left)
    return outcomes


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        root, begin = Path(directory), time.monotonic()
        folder = tiny.write_class_folder(root / "data")
        train_diffusion(tiny.diffusion_config(root / "diffusion", folder, iterations=2))
        train_classifier(
            tiny.classifier_config(root / "classifier", folder, diffusion=root / "diffusion", iterations=2)
        )
        outcomes = killed_equals_undisturbed(
            root, root / "diffusion", root / "classifier", kills=given.kills, seed=given.seed
        )
    told = ", ".join(f"{what} x {count}" for what, count in sorted(outcomes.items()))
    print(f"the same to the byte after {told} ({time.monotonic() - begin:.0f} s)")
