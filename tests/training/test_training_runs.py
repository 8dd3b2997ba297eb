"""Training as a program: killed, asked to stop, and on two processes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny
import torch
from killing import KINDS, killed_equals_undisturbed
from safetensors.torch import load_file

from guided_diffusion.commands.train_diffusion import train_diffusion
from guided_diffusion.diffusion.model import load_diffusion
from guided_diffusion.run_directory import latest


def begin(out: Path, folder: Path, *options: str):
    paths = (f"--out={out}", f"--data.path={folder}")
    return tiny.start("train_diffusion.py", *paths, *tiny.DIFFUSION_OPTIONS, *options)


def wait_for(condition, process) -> None:
    deadline = time.monotonic() + 90
    while not condition():
        assert process.poll() is None, tiny.finish(process)
        assert time.monotonic() < deadline, "the training did not get going in 90 s"
        time.sleep(0.01)


def continued_to(out: Path, folder: Path, iterations: int) -> dict[str, torch.Tensor]:
    train_diffusion(tiny.diffusion_config(out, folder, iterations=iterations, resume="auto"))
    return load_file(latest(out) / "network.safetensors")


def test_a_training_killed_outright_and_resumed_equals_an_uninterrupted_one(tmp_path, class_folder):
    run = tmp_path / "killed"
    process = begin(run, class_folder, "--training.iterations=100000", "--training.save_every_iterations=5")
    wait_for(lambda: latest(run) is not None, process)
    process.send_signal(signal.SIGKILL)
    status, _ = tiny.finish(process)
    assert status == -signal.SIGKILL
    length = int(latest(run).name.removeprefix("checkpoint-")) + 4
    resumed = continued_to(run, class_folder, length)
    whole = continued_to(tmp_path / "whole", class_folder, length)
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    assert not list(run.glob(".partial-*"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_training_interrupted_at_random_moments_ends_as_an_undisturbed_one(tmp_path, kind):
    killed_equals_undisturbed(kind, tmp_path, interruptions=2, seed=1)


def test_sigterm_saves_and_ends_well_and_the_training_can_be_continued(tmp_path, class_folder):
    run = tmp_path / "stopped"
    process = begin(run, class_folder, "--training.iterations=100000", "--training.log_every_iterations=1")
    wait_for(lambda: (run / "metrics.jsonl").exists(), process)
    process.send_signal(signal.SIGTERM)
    status, output = tiny.finish(process)
    assert status == 0, output
    stopped_at = int(latest(run).name.removeprefix("checkpoint-"))
    assert f"stopped at iteration {stopped_at}, saved; continue with --resume auto" in output
    logged = [json.loads(line)["iteration"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert logged == list(range(1, stopped_at + 1))
    continued_to(run, class_folder, stopped_at + 1)
    assert latest(run).name == f"checkpoint-{stopped_at + 1:07d}"


def test_two_processes_with_two_micro_batches_each_train_the_network_that_one_trains(tmp_path, class_folder):
    options = ("--training.iterations=4", "--training.log_every_iterations=1", "--training.batch.per_process=2")
    script = str(tiny.REPOSITORY / "scripts" / "train_diffusion.py")
    paths = (f"--out={tmp_path / 'two'}", f"--data.path={class_folder}")
    # torchrun itself, where other tests start their processes as it would.
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    # A user's shell says nothing of accelerate, which must find out by itself that there is no GPU.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ACCELERATE_")}
    environment["PYTHONPATH"] = str(tiny.REPOSITORY)
    command = [*torchrun, script, *paths, *tiny.DIFFUSION_OPTIONS, *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    train_diffusion(tiny.diffusion_config(tmp_path / "one", class_folder, iterations=4, log_every_iterations=1))
    one, two = (load_diffusion(tmp_path / name, weights="network") for name in ("one", "two"))
    x = torch.randn(4, *one.image_shape, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0.0, 10.0, 25.0, 49.0])
    # The functions, not the weights: a bias before a group normalisation of one channel a group acts on nothing, and
    # Adam walks it along the sign of its gradient's rounding.
    ours, theirs = two.network(x, t), one.network(x, t)
    assert float(theirs.abs().max()) > 1e-2
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-4 * float(theirs.abs().max()))
    losses = [
        [json.loads(line)["loss"] for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    ]
    assert len(losses[0]) == 4
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
