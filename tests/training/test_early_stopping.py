"""Trainings that end before their budget does: asked to, or because held-out quality no longer rises."""

import os
import signal
from pathlib import Path

import pytest
import tiny
import torch
from small_loop import assert_same_training, denoise, metrics, train
from torch import nn

from guided_diffusion.checkpoint import open_checkpoint
from guided_diffusion.data.batches import Batch
from guided_diffusion.diffusion.noise import SeededNoise
from guided_diffusion.run_directory import best, checkpoints, latest
from guided_diffusion.training import loop
from guided_diffusion.training.objective import Losses, Observe


def names(run_dir: Path) -> list[str]:
    return [path.name for path in checkpoints(run_dir)]


def test_a_request_to_stop_between_micro_batches_leaves_the_iteration_to_the_resumed_run(tmp_path, class_folder):
    calls = 0

    def stopping(network: nn.Module, batch: Batch, noise: SeededNoise) -> Losses:
        nonlocal calls
        calls += 1
        if calls == 6:  # the second of four micro-batches of the second iteration
            os.kill(os.getpid(), signal.SIGTERM)
        return denoise(network, batch, noise)

    config = tiny.loop(iterations=4, batch_size=8, per_process=2)
    train(tmp_path / "parts", class_folder, config, objective=stopping)
    assert calls == 6
    assert names(tmp_path / "parts") == ["checkpoint-0000001"]
    train(tmp_path / "parts", class_folder, config, resume=True)
    train(tmp_path / "whole", class_folder, config)
    assert_same_training(latest(tmp_path / "parts"), latest(tmp_path / "whole"))


def test_a_request_to_stop_cuts_a_measurement_short_and_puts_the_trained_weights_back(tmp_path, class_folder):
    finished = False

    def long(network: nn.Module, now: int) -> dict[str, float]:
        nonlocal finished
        if now == 2:
            os.kill(os.getpid(), signal.SIGTERM)
            torch.zeros(1).sum()  # a handler runs between two bytecodes
            finished = True
        return {"watched": 1.0}

    config = tiny.loop(iterations=4, observe_every_iterations=2, log_every_iterations=9)
    train(tmp_path / "parts", class_folder, config, observe=long)
    assert not finished
    assert not (tmp_path / "parts" / "metrics.jsonl").exists()
    train(tmp_path / "parts", class_folder, config, resume=True)
    train(tmp_path / "whole", class_folder, config)
    assert_same_training(latest(tmp_path / "parts"), latest(tmp_path / "whole"))


def watched(values: dict[int, float]) -> Observe:
    return lambda network, now: {"quality": values[now]}


def test_training_stops_when_held_out_quality_has_not_risen_and_later_commands_take_the_best(tmp_path, class_folder):
    config = tiny.loop(
        iterations=9, observe_every_iterations=1, stop_after_worse=2, save_every_iterations=1, keep_checkpoints=1
    )
    values = {1: 0.5, 2: 0.7, 3: 0.6, 4: 0.7, 5: 0.9}
    train(tmp_path, class_folder, config, observe=watched(values), best_by="quality")
    # The best, the one before the newest, from which a sound update began, and the newest.
    assert names(tmp_path) == ["checkpoint-0000002", "checkpoint-0000003", "checkpoint-0000004"]
    assert best(tmp_path) == tmp_path / "checkpoint-0000002"
    assert open_checkpoint(tmp_path, "test").iteration == 2
    assert open_checkpoint(tmp_path / "checkpoint-0000004", "test").iteration == 4


def test_a_resumed_training_remembers_what_was_best(tmp_path, class_folder):
    config = {"observe_every_iterations": 1, "stop_after_worse": 3}
    values = {1: 0.5, 2: 0.9, 3: 0.8, 4: 0.8, 5: 0.8, 6: 1.0}
    train(tmp_path, class_folder, tiny.loop(iterations=3, **config), observe=watched(values), best_by="quality")
    longer = tiny.loop(iterations=9, **config)
    train(tmp_path, class_folder, longer, observe=watched(values), best_by="quality", resume=True)
    assert latest(tmp_path).name == "checkpoint-0000005"
    assert open_checkpoint(tmp_path, "test").iteration == 2


def test_a_training_that_stopped_early_is_at_its_end_however_often_it_is_resumed(tmp_path, class_folder, capsys):
    config = tiny.loop(iterations=20, observe_every_iterations=1, stop_after_worse=2)
    for _ in range(3):
        train(
            tmp_path,
            class_folder,
            config,
            observe=lambda network, now: {"quality": -now},
            best_by="quality",
            resume=True,
        )
        assert latest(tmp_path).name == "checkpoint-0000003"
    assert capsys.readouterr().err.count("stopped at iteration 3: quality was best, -1, at 1") == 3


def test_a_best_measurement_that_was_cut_off_before_it_was_marked_is_made_again(tmp_path, class_folder, monkeypatch):
    config = tiny.loop(iterations=6, observe_every_iterations=2, save_every_iterations=2, stop_after_worse=9)
    values = {2: 0.5, 4: 0.9, 6: 0.7}

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "mark_best", killed)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path, class_folder, config, observe=watched(values), best_by="quality")
    train(tmp_path, class_folder, config, observe=watched(values), best_by="quality", resume=True)
    assert open_checkpoint(tmp_path, "test").iteration == 4
    assert [line["iteration"] for line in metrics(tmp_path) if "quality" in line] == [2, 4, 6]


def test_stopping_early_needs_a_measurement(tmp_path, class_folder):
    with pytest.raises(ValueError, match="stop_after_worse needs a held-out measurement"):
        train(tmp_path, class_folder, tiny.loop(iterations=1, stop_after_worse=1))


def test_a_measurement_that_a_stop_left_out_is_made_first_thing_by_the_resumed_run(tmp_path, class_folder):
    seen: list[int] = []

    def observe(network: nn.Module, now: int) -> dict[str, float]:
        if now == 2 and not seen:
            seen.append(now)
            os.kill(os.getpid(), signal.SIGTERM)
            torch.zeros(1).sum()  # a handler runs between two bytecodes
        seen.append(now)
        return {"watched": float(now)}

    config = tiny.loop(iterations=4, observe_every_iterations=2, log_every_iterations=9)
    train(tmp_path, class_folder, config, observe=observe)
    assert seen == [2]
    for _ in range(2):  # the second time there is nothing left to do
        train(tmp_path, class_folder, config, observe=observe, resume=True)
    assert seen == [2, 2, 4]
    assert [line["watched"] for line in metrics(tmp_path) if "watched" in line] == [2.0, 4.0]
