"""Checkpoint directories: whole or not there, and refused with a reason where they cannot be used."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from guided_diffusion import files
from guided_diffusion.checkpoint import (
    DamagedCheckpointError,
    load_weights,
    open_checkpoint,
    read_tensors,
    read_weights,
    save_checkpoint,
    verify,
)
from guided_diffusion.run_directory import checkpoints, latest, mark_best, prune, read_best, set_aside


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def names(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


def save(run_dir: Path, iteration: int = 1, *, kind: str = "diffusion", write_resume=None, **weights) -> Path:
    states = weights or {"network": network().state_dict()}
    return save_checkpoint(
        run_dir, kind=kind, iteration=iteration, model={"width": 4}, run={"seed": 0}, weights=states,
        write_resume=write_resume,
    )  # fmt: skip


def test_weights_come_back_to_the_bit_also_into_a_network_without_memory(tmp_path):
    save(tmp_path, 7)
    checkpoint = open_checkpoint(tmp_path, "diffusion")
    assert (checkpoint.kind, checkpoint.iteration) == ("diffusion", 7)
    assert (checkpoint.model, checkpoint.run) == ({"width": 4}, {"seed": 0})
    with torch.device("meta"):
        loaded = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    load_weights(loaded, checkpoint)
    for name, value in network().state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)
        assert loaded.state_dict()[name].dtype == value.dtype


def test_a_checkpoint_is_named_by_its_iteration_and_says_which_libraries_wrote_it(tmp_path):
    path = save(tmp_path, 42)
    assert path == tmp_path / "checkpoint-0000042"
    assert json.loads((path / "config.json").read_text())["versions"]["torch"] == torch.__version__.split("+")[0]


def test_a_run_directory_means_its_newest_checkpoint(tmp_path):
    for iteration in (9_999_999, 2, 10_000_000):
        save(tmp_path, iteration)
    assert [path.name for path in checkpoints(tmp_path)] == [
        "checkpoint-0000002", "checkpoint-9999999", "checkpoint-10000000"
    ]  # fmt: skip
    assert open_checkpoint(tmp_path, "diffusion").iteration == 10_000_000
    assert open_checkpoint(tmp_path / "checkpoint-0000002", "diffusion").iteration == 2


def test_a_write_that_fails_leaves_nothing_and_harms_nothing(tmp_path):
    save(tmp_path, 1)

    def fail(directory: Path) -> None:
        (directory / "half").write_text("written")
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space left"):
        save(tmp_path, 2, write_resume=fail)
    assert names(tmp_path) == ["checkpoint-0000001"]
    open_checkpoint(tmp_path, "diffusion")


def test_nothing_bears_a_checkpoints_name_before_it_is_on_disk(tmp_path, monkeypatch):
    seen = []
    real = files.sync_to_disk

    def watched(directory: Path) -> None:
        seen.append((latest(tmp_path), sorted(file.name for file in directory.iterdir())))
        real(directory)

    monkeypatch.setattr(files, "sync_to_disk", watched)
    save(tmp_path, 1, write_resume=lambda path: None)
    assert seen == [(None, ["config.json", "network.safetensors", "resume"])]
    assert latest(tmp_path) is not None


def test_what_a_crash_left_is_no_checkpoint_and_goes_with_the_next_save(tmp_path):
    save(tmp_path, 1)
    for name in (".partial-checkpoint-0000009", ".partial-removed-checkpoint-0000000"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    assert latest(tmp_path).name == "checkpoint-0000001"
    save(tmp_path, 2)
    assert names(tmp_path) == ["checkpoint-0000001", "checkpoint-0000002"]


def test_other_entries_of_a_run_are_no_checkpoints(tmp_path):
    save(tmp_path, 3)
    for name in ("checkpoint-best", "checkpoint-7", "checkpoint-0000009.tar", "previews"):
        (tmp_path / name).mkdir()
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-0000003"]


def test_saving_the_same_iteration_again_replaces_it(tmp_path):
    save(tmp_path, 1)
    save(tmp_path, 1, network={"bias": torch.ones(2)})
    assert names(tmp_path) == ["checkpoint-0000001"]
    assert read_tensors(tmp_path / "checkpoint-0000001" / "network.safetensors").keys() == {"bias"}


def test_pruning_keeps_the_newest(tmp_path):
    for iteration in (1, 2, 3, 4):
        save(tmp_path, iteration)
    prune(tmp_path, keep=2)
    assert names(tmp_path) == ["checkpoint-0000003", "checkpoint-0000004"]
    prune(tmp_path, keep=5)
    assert len(checkpoints(tmp_path)) == 2


def test_pruning_keeps_milestones_and_the_best_besides(tmp_path):
    for iteration in (1, 2, 3, 4, 5, 6):
        save(tmp_path, iteration)
    mark_best(tmp_path, 2, metric="quality", value=0.5)
    prune(tmp_path, keep=1, keep_every=3)
    assert [path.name[-1] for path in checkpoints(tmp_path)] == ["2", "3", "6"]


def test_a_run_directory_means_its_best_checkpoint_once_one_is_marked(tmp_path):
    for iteration in (1, 2, 3):
        save(tmp_path, iteration)
    mark_best(tmp_path, 2, metric="quality", value=0.5)
    assert open_checkpoint(tmp_path, "diffusion").iteration == 2
    assert read_best(tmp_path) == (2, 0.5)
    shutil.rmtree(tmp_path / "checkpoint-0000002")
    assert open_checkpoint(tmp_path, "diffusion").iteration == 3
    assert read_best(tmp_path) is None


def test_a_sound_checkpoint_is_verified_also_without_its_resume_directory(tmp_path):
    save(tmp_path, write_resume=lambda path: (path / "state").write_text("state"))
    verify(open_checkpoint(tmp_path, "diffusion"))
    shutil.rmtree(tmp_path / "checkpoint-0000001" / "resume")
    verify(open_checkpoint(tmp_path, "diffusion"))


@pytest.mark.parametrize(
    ("hurt", "message"),
    [
        (lambda file: file.write_bytes(file.read_bytes()[:-1]), "is damaged: its SHA-256 is not"),
        (Path.unlink, "is missing"),
    ],
)
@pytest.mark.parametrize("name", ["network.safetensors", "resume/state"])
def test_a_file_that_is_not_what_was_written_is_named(tmp_path, name, hurt, message):
    path = save(tmp_path, write_resume=lambda path: (path / "state").write_text("state"))
    hurt(path / name)
    with pytest.raises(DamagedCheckpointError, match=f"{name} {message}"):
        verify(open_checkpoint(path, "diffusion"))


def test_a_damaged_checkpoint_is_set_aside_under_a_name_that_no_command_reads(tmp_path):
    for iteration in (1, 2):
        save(tmp_path, iteration)
    for _ in range(2):  # also where one of that name was set aside before
        assert set_aside(tmp_path / "checkpoint-0000002").name == "damaged-checkpoint-0000002"
        assert open_checkpoint(tmp_path, "diffusion").iteration == 1
        save(tmp_path, 2)


@pytest.mark.parametrize(
    ("names", "default"),
    [
        (("network",), "network"),
        (("network", "ema_0.99", "ema_0.9999", "ema_0.999"), "ema_0.9999"),
        (("network", "ema_0.5"), "ema_0.5"),
        (("network", "ema_0.9999", "ema_power_0.1", "ema_power_0.05"), "ema_power_0.1"),
    ],
)
def test_the_slowest_average_is_what_is_used_unless_asked(tmp_path, names, default):
    states = {name: {"w": torch.full((1,), float(i))} for i, name in enumerate(names)}
    save(tmp_path, 1, **states)
    checkpoint = open_checkpoint(tmp_path, "diffusion")
    assert checkpoint.weight_names == tuple(sorted(names))
    assert checkpoint.weights_file().stem == default
    assert checkpoint.weights_file("network").stem == "network"


def test_weights_that_are_not_there_are_refused_with_those_that_are(tmp_path):
    save(tmp_path, 1)
    with pytest.raises(ValueError, match=r'has no weights "ema_0.9"; it has network'):
        load_weights(network(), open_checkpoint(tmp_path, "diffusion"), "ema_0.9")


def test_a_checkpoint_under_the_name_of_another_iteration_is_refused(tmp_path):
    # It would pass for the newest: samples would come from it, and each resumed run would begin from it again.
    save(tmp_path, 2).rename(tmp_path / "checkpoint-0000009")
    for path in (tmp_path, tmp_path / "checkpoint-0000009"):
        with pytest.raises(ValueError, match="holds iteration 2, not 9 as its name says; .* rename it to .*-0000002"):
            open_checkpoint(path, "diffusion")
    (tmp_path / "checkpoint-0000009").rename(tmp_path / "kept")
    assert open_checkpoint(tmp_path / "kept", "diffusion").iteration == 2


def test_another_kind_is_refused_naming_both(tmp_path):
    save(tmp_path, 1, kind="classifier")
    with pytest.raises(ValueError, match='holds a model of kind "classifier", but kind "diffusion" is needed here'):
        open_checkpoint(tmp_path, "diffusion")


def test_a_later_format_is_refused_whatever_else_it_holds(tmp_path):
    path = save(tmp_path, 1)
    (path / "config.json").write_text('{"format": 2, "something": "new"}')
    with pytest.raises(ValueError, match="has format 2; this version reads up to 1: update it"):
        open_checkpoint(path, "diffusion")


@pytest.mark.parametrize("content", [b"", b'{"format": 1, "ki', b"[]", b"{}", b'{"format": "new"}', b"\xff\xfe\x00"])
def test_a_damaged_description_is_refused_by_name(tmp_path, content):
    path = save(tmp_path, 1)
    (path / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"checkpoint-0000001/config.json is damaged: "):
        open_checkpoint(path, "diffusion")


def test_a_description_without_its_model_is_refused(tmp_path):
    path = save(tmp_path, 1)
    record = json.loads((path / "config.json").read_text())
    del record["model"]
    (path / "config.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="config.json is damaged: model is null; it has no model"):
        open_checkpoint(path, "diffusion")


def test_every_load_compares_the_weights_with_their_recorded_hash(tmp_path):
    file = save(tmp_path, 1) / "network.safetensors"
    content = bytearray(file.read_bytes())
    content[-20] ^= 1  # within a tensor: the file is still of its format
    file.write_bytes(content)
    assert read_tensors(file).keys() == network().state_dict().keys()
    for load in (read_weights, lambda checkpoint: load_weights(network(), checkpoint)):
        with pytest.raises(DamagedCheckpointError, match="network.safetensors is damaged: its SHA-256 is not the one"):
            load(open_checkpoint(tmp_path, "diffusion"))


def test_weights_without_a_recorded_hash_are_read_and_damaged_ones_refused_by_name(tmp_path):
    file = save(tmp_path, 1) / "network.safetensors"
    record = json.loads((file.parent / "config.json").read_text())
    (file.parent / "config.json").write_text(json.dumps({**record, "sha256": None}))
    load_weights(network(), open_checkpoint(tmp_path, "diffusion"))
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"network.safetensors is damaged \(.*\); take another checkpoint"):
        load_weights(network(), open_checkpoint(tmp_path, "diffusion"))


@pytest.mark.parametrize(
    ("path", "reason"),
    [("nowhere", "no such directory"), ("empty", r"it holds no checkpoint-\*")],
)
def test_a_path_without_a_checkpoint_is_refused_with_what_was_found(tmp_path, path, reason):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=rf"no checkpoint at .*{path} \({reason}\); give a run directory"):
        open_checkpoint(tmp_path / path, "diffusion")


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(4)), r'"0.bias" \(file \(4,\), network \(5,\)\)'),
        (nn.Sequential(nn.Linear(3, 4)), r'"1.bias" \(file \(4,\), network None\)'),
        (nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)), r'"2.bias" \(file None, network \(1,\)\)'),
    ],
)
def test_weights_that_do_not_fit_are_refused_naming_a_tensor_and_both_shapes(tmp_path, other, message):
    save(tmp_path, 1)
    before = {name: value.clone() for name, value in other.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        load_weights(other, open_checkpoint(tmp_path, "diffusion"))
    assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())
