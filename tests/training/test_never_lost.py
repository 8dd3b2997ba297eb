"""Trainings whose numbers, files, disks or data fail."""

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from safetensors import SafetensorError
from small_loop import Convolutions, assert_same_training, broken_at, denoise, metrics, names, train
from torch import nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

from guided_diffusion import checkpoint
from guided_diffusion.checkpoint import save_checkpoint
from guided_diffusion.commands.train_diffusion import train_diffusion
from guided_diffusion.data.batches import Batch
from guided_diffusion.diffusion.noise import SeededNoise
from guided_diffusion.diffusion.schedules import make_chain
from guided_diffusion.diffusion.timesteps import LossSecondMoment
from guided_diffusion.files import locked
from guided_diffusion.run_directory import latest
from guided_diffusion.training.objective import Losses
from guided_diffusion.training.run import TrainState


@pytest.mark.parametrize("part", ["loss", "gradient"])
def test_an_update_that_is_not_finite_is_left_out_and_counted(tmp_path, class_folder, part):
    moments, weights = [torch.empty(0)], [torch.empty(0)]

    def keep(network: nn.Module, now: int) -> dict[str, float]:
        weights.append(torch.cat([parameter.detach().flatten().clone() for parameter in network.parameters()]))
        return {}

    config = tiny.loop(
        iterations=4, log_every_iterations=2, save_every_iterations=1, keep_checkpoints=9, per_process=8,
        observe_every_iterations=1, ema_decays=(),
    )  # fmt: skip

    def remember(optimizer: Optimizer, *_: Any) -> None:
        values = [value for state in optimizer.state.values() for value in state.values()]
        moments.append(torch.cat([value.flatten().clone() for value in values]))

    hook = register_optimizer_step_post_hook(remember)
    try:
        train(tmp_path, class_folder, config, objective=broken_at(2, part=part), observe=keep)
    finally:
        hook.remove()
    assert torch.equal(weights[1], weights[2])
    assert not torch.equal(weights[2], weights[3])
    assert torch.equal(moments[1], moments[2])
    assert not torch.equal(moments[2], moments[3])
    assert names(tmp_path) == [f"checkpoint-{i:07d}" for i in (1, 3, 4)]
    assert [line.get("skipped") for line in metrics(tmp_path)] == [1, None]
    assert all(np.isfinite(line["loss"]) for line in metrics(tmp_path))


def test_updates_whose_outcome_is_read_late_learn_the_same_and_end_alike(tmp_path, class_folder, monkeypatch):
    """On a CPU, which otherwise reads it at once."""
    config = tiny.loop(iterations=6, log_every_iterations=3, save_every_iterations=6, per_process=8, max_skipped=2)
    messages: list[str] = []
    for name in ("early", "late"):
        train(tmp_path / name, class_folder, config, objective=broken_at(2, 5))
        with pytest.raises(ValueError, match="loss or gradient were not finite in 2 updates in a row") as raised:
            train(tmp_path / f"{name}-broken", class_folder, config, objective=broken_at(3, 4, 5))
        messages.append(str(raised.value).replace(name, ""))
        monkeypatch.setattr(TrainState, "settles_late", True)
    assert_same_training(latest(tmp_path / "late"), latest(tmp_path / "early"))
    keys = ("iteration", "loss", "grad_norm", "skipped")
    early, late = ([[line.get(key) for key in keys] for line in metrics(tmp_path / name)] for name in ("early", "late"))
    assert late == early
    assert messages[0] == messages[1]


def test_a_stop_that_is_read_late_ends_the_training_at_the_update_before(tmp_path, class_folder, monkeypatch):
    monkeypatch.setattr(TrainState, "settles_late", True)
    calls = 0

    def objective(network: nn.Module, batch: Batch, noise: SeededNoise) -> Losses:
        nonlocal calls
        calls += 1
        if calls == 3:
            signal.raise_signal(signal.SIGTERM)
        return denoise(network, batch, noise)

    config = tiny.loop(iterations=9, per_process=8)
    train(tmp_path / "stopped", class_folder, config, objective=objective)
    stopped = latest(tmp_path / "stopped")
    assert stopped is not None
    done = int(stopped.name.removeprefix("checkpoint-"))
    assert done < 9
    train(tmp_path / "whole", class_folder, tiny.loop(iterations=done, per_process=8))
    assert_same_training(stopped, latest(tmp_path / "whole"))


def test_too_many_in_a_row_end_the_training_with_their_last_batch_written_out(tmp_path, class_folder):
    config = tiny.loop(iterations=9, save_every_iterations=2, max_skipped=3, batch_size=5, per_process=3)
    objective = broken_at(1, *range(6, 20))  # two micro-batches an iteration: 3 and all later ones are broken
    with pytest.raises(ValueError, match=r"not finite in 3 updates in a row, .* the last at iteration 5, "):
        train(tmp_path, class_folder, config, objective=objective)
    (file,) = tmp_path.glob("not_finite-*.npz")
    with np.load(file) as written:
        assert written["counter"].tolist() == [20, 21, 22, 23, 24]
        assert written["x0"].shape == (5, 1, 8, 8)
        assert written["y"].shape == (5,)
    assert names(tmp_path) == []  # nothing was saved while updates were skipped, and the one before had begun it


def test_a_sound_update_begins_the_count_anew(tmp_path, class_folder):
    config = tiny.loop(iterations=6, max_skipped=2, log_every_iterations=6, per_process=8)
    train(tmp_path, class_folder, config, objective=broken_at(1, 3, 5))
    assert metrics(tmp_path)[0]["skipped"] == 3


def test_broken_weights_are_not_saved_over_sound_ones(tmp_path, class_folder):
    def breaking(network: nn.Module, now: int) -> dict[str, float]:
        if now == 3:
            next(iter(network.parameters())).data.fill_(float("inf"))
        return {}

    config = tiny.loop(
        iterations=9, save_every_iterations=2, observe_every_iterations=1, keep_checkpoints=1, ema_decays=()
    )
    with pytest.raises(ValueError, match=r"the weights are not finite at iteration 4; .* are from before"):
        train(tmp_path, class_folder, config, observe=breaking)
    assert names(tmp_path) == ["checkpoint-0000002"]


def test_milestones_are_kept_beside_the_newest(tmp_path, class_folder):
    config = tiny.loop(iterations=7, save_every_iterations=1, keep_checkpoints=2, keep_every_iterations=3)
    train(tmp_path, class_folder, config)
    assert names(tmp_path) == [f"checkpoint-{i:07d}" for i in (3, 6, 7)]


def test_damaged_lines_of_metrics_are_skipped(tmp_path, class_folder):
    train(tmp_path, class_folder, tiny.loop(iterations=1))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('[1]\n{"loss": 1}\nnull\n{"iteration": "1"}\n')
    train(tmp_path, class_folder, tiny.loop(iterations=2), resume=True)
    assert [line["iteration"] for line in metrics(tmp_path)] == [1, 2]


@pytest.mark.parametrize("name", ["network", "optimizer"])
def test_what_the_library_of_weights_makes_of_a_full_disk_is_an_error_of_the_disk(
    tmp_path, class_folder, monkeypatch, name
):
    save_file = checkpoint.save_file

    def full(tensors: dict[str, torch.Tensor], file: Path) -> None:
        if file.stem == name:
            raise SafetensorError("I/O error: No space left on device (os error 28)")
        save_file(tensors, file)

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(OSError, match=f"{name}.safetensors could not be written: .*No space left"):
        train(tmp_path / "run", class_folder, tiny.loop(iterations=1))
    assert not list((tmp_path / "run").glob("*checkpoint*"))


def test_two_trainings_do_not_share_a_directory(tmp_path, class_folder):
    refusal = f"another training is at work in {tmp_path}; wait for it"
    with locked(tmp_path, work="training"), pytest.raises(ValueError, match=refusal):
        train(tmp_path, class_folder, tiny.loop(iterations=1))
    train(tmp_path, class_folder, tiny.loop(iterations=1))


def test_vanished_data_end_in_an_error_that_names_a_file_with_all_that_was_learnt_saved(tmp_path):
    folder = tiny.write_class_folder(tmp_path / "data")

    def vanish(network: nn.Module, now: int) -> dict[str, float]:
        if now == 3:
            shutil.rmtree(folder)
        return {}

    config = tiny.loop(iterations=9, save_every_iterations=2, observe_every_iterations=1)
    with pytest.raises(OSError, match=r"data/(dark|light)/\d+\.png"):
        train(tmp_path / "run", folder, config, observe=vanish)
    assert names(tmp_path / "run") == ["checkpoint-0000002", "checkpoint-0000003"]


class Adapting:
    """An objective that weights its loss by the mean of all it has seen."""

    def __init__(self) -> None:
        self.timesteps = LossSecondMoment(make_chain(tiny.CHAIN), history_per_level=28)

    @property
    def seen(self) -> torch.Tensor:
        newest = self.timesteps.history[1]
        return newest[newest.isfinite()]

    def __call__(self, network: nn.Module, batch: Batch, noise: SeededNoise) -> Losses:
        losses = denoise(network, batch, noise)
        weight = 1.0 if not len(self.seen) else float(self.seen.mean())
        return Losses(
            losses.total * weight, {}, observed={"k": torch.ones_like(batch.counter), "loss": batch.counter.float()}
        )


def test_an_objective_learns_from_whole_batches_in_stream_order_and_its_memory_is_resumed(tmp_path, class_folder):
    memory = Adapting()
    train(tmp_path / "whole", class_folder, tiny.loop(iterations=4, batch_size=7, per_process=3), objective=memory)
    assert memory.seen.tolist() == list(range(28))
    for iterations in (2, 4):
        config = tiny.loop(iterations=iterations, batch_size=7, per_process=3)
        train(tmp_path / "parts", class_folder, config, objective=Adapting(), resume=True)
    assert_same_training(latest(tmp_path / "parts"), latest(tmp_path / "whole"))


def test_a_moved_data_set_resumes_quietly_and_a_changed_one_is_doubted(tmp_path, caplog):
    folder = tiny.write_class_folder(tmp_path / "data")
    train(tmp_path / "run", folder, tiny.loop(iterations=1))
    shutil.copytree(folder, tmp_path / "copy")
    train(tmp_path / "run", tmp_path / "copy", tiny.loop(iterations=2), resume=True)
    assert "images" not in caplog.text
    shutil.copyfile(tmp_path / "copy" / "dark" / "000.png", tmp_path / "copy" / "dark" / "001.png")
    train(tmp_path / "run", tmp_path / "copy", tiny.loop(iterations=3), resume=True)
    assert "with other images than it was trained on: other names, sizes or labels; stop it if" in caplog.text
    for number in range(8):
        (tmp_path / "copy" / "light" / f"{number:03d}.png").unlink()
    train(tmp_path / "run", tmp_path / "copy", tiny.loop(iterations=4), resume=True)
    assert "with other images than it was trained on: 20 there, 12 now" in caplog.text


def test_a_run_of_before_fingerprints_resumes_quietly(tmp_path, class_folder, caplog):
    train(tmp_path, class_folder, tiny.loop(iterations=1))
    (latest(tmp_path) / "resume" / "data.json").unlink()
    record = json.loads((latest(tmp_path) / "config.json").read_text())
    del record["sha256"]["resume/data.json"]
    (latest(tmp_path) / "config.json").write_text(json.dumps(record))
    train(tmp_path, class_folder, tiny.loop(iterations=2), resume=True)
    assert caplog.text == ""


def test_a_copied_run_resumes_without_a_word_about_its_directory(tmp_path, class_folder, caplog):
    train_diffusion(tiny.diffusion_config(tmp_path / "run", class_folder, iterations=1))
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    train_diffusion(tiny.diffusion_config(tmp_path / "copy", class_folder, iterations=1, resume="auto"))
    assert caplog.text == ""


def test_an_imported_model_is_not_resumed_and_the_message_says_why(tmp_path, class_folder):
    weights = {"ema_0.9999": Convolutions().state_dict()}
    run = {"imported": "64x64_diffusion.pt", "sha256": "0", "flags": None}
    save_checkpoint(tmp_path, kind="test", iteration=0, model={"width": 8}, run=run, weights=weights)
    with pytest.raises(ValueError, match="is an imported model: .* cannot be continued; sample from it, "):
        train(tmp_path, class_folder, tiny.loop(iterations=1), resume=True)
