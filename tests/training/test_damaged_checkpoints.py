"""Resuming runs whose checkpoints are damaged."""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import tiny
from small_loop import assert_same_training, names, train

from guided_diffusion.checkpoint import DamagedCheckpointError
from guided_diffusion.run_directory import latest


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    width: int
    depth: int = 1


def flip_a_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def cut_short(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


@pytest.mark.parametrize("name", ["network.safetensors", "ema_0.9.safetensors", "resume/optimizer.safetensors"])
@pytest.mark.parametrize("damage", [flip_a_byte, cut_short, Path.unlink])
def test_a_damaged_checkpoint_is_reported_and_the_one_before_it_resumed_to_the_bit(
    tmp_path, class_folder, caplog, name, damage
):
    config = tiny.loop(iterations=6, save_every_iterations=2, keep_checkpoints=9)
    train(tmp_path / "whole", class_folder, config)
    shutil.copytree(tmp_path / "whole", tmp_path / "hurt")
    shutil.rmtree(tmp_path / "hurt" / "checkpoint-0000006")
    damage(tmp_path / "hurt" / "checkpoint-0000004" / name)
    train(tmp_path / "hurt", class_folder, config, resume=True)
    assert f"checkpoint-0000004/{name} is " in caplog.text
    assert "damaged-checkpoint-0000004, and the checkpoint before it is tried" in caplog.text
    assert_same_training(latest(tmp_path / "hurt"), latest(tmp_path / "whole"))
    assert names(tmp_path / "hurt") == names(tmp_path / "whole")


def test_a_checkpoint_without_its_description_is_damaged_too(tmp_path, class_folder, caplog):
    config = tiny.loop(iterations=4, save_every_iterations=2)
    train(tmp_path, class_folder, config)
    (tmp_path / "checkpoint-0000004" / "config.json").write_text("{")
    train(tmp_path, class_folder, config, resume=True)
    assert "config.json is damaged" in caplog.text
    assert names(tmp_path) == ["checkpoint-0000002", "checkpoint-0000004"]


@pytest.mark.parametrize("model", [{}, {"width": "wide"}, {"width": 8, "colour": 1}, {"width": 9}])
def test_a_description_that_was_changed_is_damaged_too(tmp_path, class_folder, caplog, model):
    config = tiny.loop(iterations=4, save_every_iterations=2)
    train(tmp_path, class_folder, config, model=ModelConfig(width=8))
    file = tmp_path / "checkpoint-0000004" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model": model}))
    train(tmp_path, class_folder, config, model=ModelConfig(width=8), resume=True)
    assert "damaged-checkpoint-0000004, and the checkpoint before it is tried" in caplog.text
    assert names(tmp_path) == ["checkpoint-0000002", "checkpoint-0000004"]


def test_checkpoints_without_a_sound_one_before_them_keep_their_names(tmp_path, class_folder):
    train(tmp_path, class_folder, tiny.loop(iterations=2, save_every_iterations=1), model={"width": 8, "later": 1})
    with pytest.raises(ValueError, match=r"none of the 2 checkpoints .* has a field later, which this version does"):
        train(tmp_path, class_folder, tiny.loop(iterations=2), model=ModelConfig(width=8), resume=True)
    assert names(tmp_path) == ["checkpoint-0000001", "checkpoint-0000002"]


def test_a_run_without_a_sound_checkpoint_does_not_begin_anew_unasked(tmp_path, class_folder):
    train(tmp_path, class_folder, tiny.loop(iterations=1))
    flip_a_byte(latest(tmp_path) / "network.safetensors")
    with pytest.raises(ValueError, match="none of the 1 checkpoints in .* is sound; begin again in another --out"):
        train(tmp_path, class_folder, tiny.loop(iterations=1), resume=True)


def test_a_run_whose_model_config_has_gained_a_field_since_is_resumed(tmp_path, class_folder):
    train(tmp_path, class_folder, tiny.loop(iterations=1), model={"width": 8})
    train(tmp_path, class_folder, tiny.loop(iterations=2), model=ModelConfig(width=8), resume=True)
    with pytest.raises(ValueError, match="differs from the one asked for in depth: 1 there, 2 now"):
        train(tmp_path, class_folder, tiny.loop(iterations=3), model=ModelConfig(width=8, depth=2), resume=True)


@pytest.mark.parametrize("make", [Path.touch, lambda path: path.symlink_to("nowhere")])
def test_a_newest_checkpoint_that_is_no_directory_is_reported_and_an_older_one_resumed(
    tmp_path, class_folder, caplog, make
):
    train(tmp_path, class_folder, tiny.loop(iterations=2))
    make(tmp_path / "checkpoint-0000003")
    train(tmp_path, class_folder, tiny.loop(iterations=4), resume=True)
    assert "checkpoint-0000003 is no directory; the checkpoint before it is taken" in caplog.text
    assert names(tmp_path) == ["checkpoint-0000002", "checkpoint-0000004"]


@pytest.mark.parametrize("name", ["loss_scale.json", "micro_batches.json"])
@pytest.mark.parametrize("content", ["[]", "{", '{"share": "many", "scale": []}'])
def test_damaged_records_of_a_resumed_run_are_named(tmp_path, class_folder, name, content):
    train(tmp_path, class_folder, tiny.loop(iterations=1))
    checkpoint = latest(tmp_path)
    (checkpoint / "resume" / name).write_text(content)
    record = json.loads((checkpoint / "config.json").read_text())
    del record["sha256"][f"resume/{name}"]  # as after a fault of the writer
    (checkpoint / "config.json").write_text(json.dumps(record))
    with pytest.raises(DamagedCheckpointError, match=f"resume/{name} is damaged"):
        train(tmp_path, class_folder, tiny.loop(iterations=2), resume=True)
