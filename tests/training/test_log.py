"""The numbers of a run, in TensorBoard's files and in those of Weights & Biases without a network."""

import struct
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny
import torch
import wandb
from small_loop import train
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from wandb.errors import UsageError
from wandb.proto import wandb_internal_pb2

from guided_diffusion.data.pictures import write_png
from guided_diffusion.training.log import preview_file
from guided_diffusion.training.objective import Observe


def test_tensorboard_shows_every_line_once_through_a_resume(tmp_path, class_folder):
    for iterations in (2, 4):
        config = tiny.loop(iterations=iterations, tensorboard=True, log_every_iterations=1)
        train(tmp_path, class_folder, config, resume=True)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert {"loss", "brightness", "grad_norm", "images_per_second"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3, 4]


def test_offline_wandb_keeps_one_run_with_its_numbers_through_a_resume(tmp_path, class_folder, monkeypatch):
    monkeypatch.setenv("WANDB_SILENT", "true")
    for iterations in (1, 2):
        time.sleep(1.1)  # offline directories are named by the second
        config = tiny.loop(iterations=iterations, wandb="offline", log_every_iterations=1)
        train(tmp_path, class_folder, config, resume=True)
    identity = (tmp_path / "wandb_run_id").read_text()
    wandb.teardown()  # its service may write after a run has finished, but not after it has ended itself
    files = sorted((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    assert all(file.stem == f"run-{identity}" for file in files)
    logged = [(record["_step"], float(record["loss"])) for file in files for record in history(file)]
    assert sorted(step for step, _ in logged) == ["1", "2"]
    assert all(loss > 0 for _, loss in logged)


def picture_of(run_dir: Path) -> Observe:
    """An observation that leaves a picture as previews do."""

    def observe(network: nn.Module, iteration: int) -> dict[str, float]:
        write_png(preview_file(run_dir, iteration), torch.zeros(1, 8, 8, dtype=torch.uint8))
        return {"seen": 1.0}

    return observe


def test_tensorboard_shows_previews(tmp_path, class_folder):
    config = tiny.loop(iterations=2, tensorboard=True, observe_every_iterations=1)
    train(tmp_path, class_folder, config, observe=picture_of(tmp_path))
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.width) for event in events.Images("previews")] == [(1, 512), (2, 512)]


def test_weights_and_biases_gets_previews(tmp_path, class_folder, monkeypatch):
    logged: list[tuple[int, object]] = []
    run = SimpleNamespace(log=lambda values, step: logged.append((step, values)), finish=lambda: None)
    monkeypatch.setattr("wandb.init", lambda **_: run)
    config = tiny.loop(iterations=1, wandb="offline", observe_every_iterations=1)
    train(tmp_path, class_folder, config, observe=picture_of(tmp_path))
    (shown,) = [(step, values["previews"]) for step, values in logged if "previews" in values]
    assert shown[0] == 1
    assert isinstance(shown[1], wandb.Image)


def test_what_weights_and_biases_refuses_is_said_with_the_ways_out(tmp_path, class_folder, monkeypatch):
    def refuse(**settings: object) -> None:
        raise UsageError("No API key configured.")

    monkeypatch.setattr("wandb.init", refuse)
    with pytest.raises(ValueError, match=r"No API key configured.\); log in .* --training.wandb offline"):
        train(tmp_path, class_folder, tiny.loop(iterations=1, wandb="online"))


def history(file: Path) -> list[dict[str, str]]:
    """The numbers in a file that `wandb sync` would send."""
    lines = []
    for data in records(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            lines.append({item.key or "/".join(item.nested_key): item.value_json for item in record.history.item})
    return lines


def records(content: bytes) -> Iterator[bytes]:
    """LevelDB's log format: 7 bytes of head, then blocks of 32 kB of pieces (checksum, length, which part, data)."""
    position, whole = 7, b""
    while position + 7 <= len(content):
        if 32768 - position % 32768 < 7:
            position += 32768 - position % 32768
        _, length, part = struct.unpack_from("<IHB", content, position)
        if position + 7 + length > len(content):  # not written to its end yet
            return
        whole += content[position + 7 : position + 7 + length]
        position += 7 + length
        if part in (1, 4):  # all of a record, or its last part
            yield whole
            whole = b""


def test_tensorboard_that_is_not_installed_is_named_with_the_command_that_installs_it(
    tmp_path, class_folder, monkeypatch
):
    monkeypatch.setitem(__import__("sys").modules, "tensorboard", None)
    with pytest.raises(ModuleNotFoundError, match="pip install tensorboard"):
        train(tmp_path / "run", class_folder, tiny.loop(iterations=1, tensorboard=True))
