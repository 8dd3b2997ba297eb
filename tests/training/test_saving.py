"""Saving of a training: updates that go wrong, disks that fail for a while, and what else lies in a run directory."""

import errno
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import tiny
from small_loop import assert_same_training, broken_at, denoise, names, train
from torch import nn

from guided_diffusion.data.batches import Batch
from guided_diffusion.diffusion.noise import SeededNoise
from guided_diffusion.run_directory import latest
from guided_diffusion.training import saving
from guided_diffusion.training.objective import Losses, Objective


@pytest.mark.parametrize("save_every", [1, 3])
def test_a_diverged_training_keeps_its_checkpoints_and_resumes_with_a_lower_learning_rate(
    tmp_path, class_folder, save_every
):
    config = tiny.loop(iterations=6, save_every_iterations=2)
    train(tmp_path, class_folder, config)
    sound = [f"checkpoint-{i:07d}" for i in (2, 4, 6)]
    diverging = tiny.loop(iterations=40, save_every_iterations=save_every, learning_rate=1e30)
    with pytest.raises(ValueError, match="the checkpoints in .* are from before: resume with a lower learning rate"):
        train(tmp_path, class_folder, diverging, resume=True)
    assert names(tmp_path) == sound
    train(tmp_path, class_folder, tiny.loop(iterations=9, save_every_iterations=save_every), resume=True)
    whole = tiny.loop(iterations=9, save_every_iterations=save_every)
    train(tmp_path / "whole", class_folder, whole)
    assert_same_training(latest(tmp_path), latest(tmp_path / "whole"))


def growing_from(call: int) -> Objective:
    """`denoise`, but its loss is absurd from this call (from 1) on, though finite."""
    calls = 0

    def objective(network: nn.Module, batch: Batch, noise: SeededNoise) -> Losses:
        nonlocal calls
        calls += 1
        return Losses(total=denoise(network, batch, noise).total * (1e6 if calls >= call else 1.0), logged={})

    return objective


def test_weights_whose_next_loss_is_absurd_are_set_aside_and_nothing_is_saved_after_them(tmp_path, class_folder):
    config = tiny.loop(iterations=40, save_every_iterations=1, keep_checkpoints=1, max_skipped=3, per_process=8)
    with pytest.raises(ValueError, match=r"checkpoint-0000004 was written when this began, and is set aside"):
        train(tmp_path, class_folder, config, objective=growing_from(5))
    assert names(tmp_path) == ["checkpoint-0000003"]
    assert (tmp_path / "damaged-checkpoint-0000004").is_dir()
    train(tmp_path, class_folder, tiny.loop(iterations=5), resume=True)


def test_a_checkpoint_that_a_killed_run_left_unproven_is_named_where_it_cannot_be_resumed(tmp_path, class_folder):
    train(tmp_path, class_folder, tiny.loop(iterations=2))
    config = tiny.loop(iterations=9, max_skipped=2, per_process=8)
    with pytest.raises(ValueError, match="if all updates go wrong again, remove .*checkpoint-0000002 to resume"):
        train(tmp_path, class_folder, config, objective=broken_at(*range(1, 9)), resume=True)
    assert names(tmp_path) == ["checkpoint-0000002"]


@pytest.mark.parametrize("ends", ["asked to stop", "of the budget"])
def test_a_training_that_ends_in_updates_that_went_wrong_is_not_saved(tmp_path, class_folder, ends, capsys):
    def stop(network: nn.Module, now: int) -> dict[str, float]:
        if ends == "asked to stop" and now == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return {}

    config = tiny.loop(iterations=5, save_every_iterations=2, per_process=8, observe_every_iterations=1)
    objective = broken_at(4, 5)
    if ends == "of the budget":
        with pytest.raises(ValueError, match="the last updates, up to iteration 5, went wrong; the checkpoints in"):
            train(tmp_path, class_folder, config, objective=objective, observe=stop)
    else:
        train(tmp_path, class_folder, config, objective=objective, observe=stop)
        assert "not saved: its last updates went wrong" in capsys.readouterr().err
    assert names(tmp_path) == ["checkpoint-0000002"]


def full_at(monkeypatch: pytest.MonkeyPatch, *attempts: int) -> None:
    """Let the disk be full at these attempts to save, from 1."""
    write, calls = saving.write_resume, 0

    def full(files: Mapping[str, Mapping[str, Any]], directory: Path) -> None:
        nonlocal calls
        calls += 1
        if calls in attempts:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(directory))
        write(files, directory)

    monkeypatch.setattr(saving, "write_resume", full)


def test_a_disk_that_stays_full_ends_in_its_own_error_with_the_last_checkpoint_whole(
    tmp_path, class_folder, monkeypatch
):
    config = tiny.loop(iterations=4, save_every_iterations=2)
    full_at(monkeypatch, *range(2, 9))
    ending = "ends at iteration 4 without a checkpoint of it: .*No space left on device.*newest checkpoint is .*0000002"
    with pytest.raises(OSError, match=ending):
        train(tmp_path / "run", class_folder, config)
    assert names(tmp_path / "run") == ["checkpoint-0000002"]
    assert not list((tmp_path / "run").glob(".partial*"))
    monkeypatch.undo()
    train(tmp_path / "run", class_folder, config, resume=True)
    train(tmp_path / "whole", class_folder, config)
    assert_same_training(latest(tmp_path / "run"), latest(tmp_path / "whole"))


def test_a_disk_that_was_full_for_a_while_stops_nothing_and_saving_is_tried_again_soon(
    tmp_path, class_folder, monkeypatch, caplog
):
    config = tiny.loop(iterations=45, save_every_iterations=20, keep_checkpoints=9)
    full_at(monkeypatch, 1, 2)
    train(tmp_path / "run", class_folder, config)
    assert "no checkpoint at iteration 20: [Errno 28] No space left on device" in caplog.text
    assert names(tmp_path / "run") == [f"checkpoint-{i:07d}" for i in (24, 40, 45)]
    train(tmp_path / "whole", class_folder, config)
    assert_same_training(latest(tmp_path / "run"), latest(tmp_path / "whole"))


def a_file(path: Path) -> None:
    path.write_text("")


def a_dangling_link(path: Path) -> None:
    path.symlink_to("nowhere")


def a_directory(path: Path) -> None:
    (path / "inner").mkdir(parents=True)
    (path / "inner" / "file").touch()


@pytest.mark.parametrize("make", [a_file, a_dangling_link, a_directory])
@pytest.mark.parametrize("name", ["checkpoint-0000002", ".partial-checkpoint-0000001", ".partial-x", ".x.tmp"])
def test_nothing_that_lies_in_a_run_directory_makes_a_save_fail(tmp_path, class_folder, make, name):
    def litter(network: nn.Module, now: int) -> dict[str, float]:
        if now == 1:
            make(tmp_path / name)
        return {}

    train(tmp_path, class_folder, tiny.loop(iterations=2, observe_every_iterations=1), observe=litter)
    assert names(tmp_path) == ["checkpoint-0000002"]
    assert (latest(tmp_path) / "config.json").is_file()


def test_checkpoints_that_cannot_be_pruned_stop_nothing(tmp_path, class_folder, caplog):
    (tmp_path / "best.json").write_text("[]")
    config = tiny.loop(iterations=4, save_every_iterations=1, keep_checkpoints=2)
    train(tmp_path, class_folder, config)
    assert "old checkpoints are not deleted: " in caplog.text
    assert "best.json is damaged" in caplog.text
    assert len(names(tmp_path)) == 4


def test_metrics_that_cannot_be_written_stop_nothing(tmp_path, class_folder, caplog):
    def block(network: nn.Module, now: int) -> dict[str, float]:
        (tmp_path / "metrics.jsonl").unlink(missing_ok=True)
        (tmp_path / "metrics.jsonl").mkdir(exist_ok=True)
        return {"seen": 1.0}

    config = tiny.loop(iterations=3, log_every_iterations=1, observe_every_iterations=1)
    train(tmp_path, class_folder, config, observe=block)
    assert "metrics of iteration 2 are not recorded: [Errno 21] Is a directory" in caplog.text
    assert names(tmp_path) == ["checkpoint-0000003"]


def test_an_observation_that_the_disk_refuses_is_left_out(tmp_path, class_folder, caplog):
    def full(network: nn.Module, now: int) -> dict[str, float]:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "previews")

    train(tmp_path, class_folder, tiny.loop(iterations=2, observe_every_iterations=1), observe=full)
    assert "the observation at iteration 1 is left out: [Errno 28] No space left on device: 'previews'" in caplog.text
