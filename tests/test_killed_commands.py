"""Commands that are killed, started twice, or asked to stop end with the files of one undisturbed run."""

import signal
import time
from pathlib import Path

import pytest
import tiny
import writing_commands
from killing_commands import killed_equals_undisturbed
from races import raced
from writing_commands import leftovers, result, start


@pytest.fixture(scope="module")
def material(shared: Path) -> Path:
    """Files that the commands read."""
    return tiny.made_once(shared / "writing-commands", writing_commands.write_material)


@pytest.mark.parametrize("command", ["prepare_data", "sweep"])
def test_a_command_that_was_killed_continues_to_the_bytes_of_an_undisturbed_one(command, material, tmp_path):
    outcomes = killed_equals_undisturbed(command, material, tmp_path, kills=4, seed=0)
    assert outcomes == {"kills": 4}


@pytest.mark.parametrize("command", ["prepare_data", "sample", "encode"])
def test_of_two_commands_on_one_out_one_is_refused_or_both_end_well(command, material, tmp_path):
    outcomes = raced(command, material, tmp_path, rounds=2, seed=0)
    assert outcomes["broken"] == 0
    assert outcomes.total() == 2


def test_a_refused_command_ends_on_all_processes(material, tmp_path):
    (tmp_path / "out").mkdir()
    first = start("sample", material, tmp_path / "out", "--num_samples=2000", "--shard_size=10")
    _wait_for(tmp_path / "out" / "manifest.json", first)
    second = start("sample", material, tmp_path / "out", "--num_samples=2000", "--shard_size=10", processes=2)
    status, output = tiny.finish(second)
    first.send_signal(signal.SIGKILL)
    assert status == 2
    assert output.count(f"another sampling is at work in {tmp_path / 'out'}; wait for it") == 2


@pytest.mark.parametrize("processes", [1, 2])
def test_a_sampling_that_is_asked_to_stop_ends_with_status_0_on_all_processes_and_goes_on(
    processes, material, tmp_path
):
    long = ("--num_samples=400", "--shard_size=4", "--batch_size=4")
    stopped, whole = tmp_path / "stopped", tmp_path / "whole"
    program = start("sample", material, stopped, *long, processes=processes)
    _wait_for(stopped / "shard-00001.npz", program)
    program.send_signal(signal.SIGTERM, to=program.pids[-1:])  # torchrun's processes are told one by one
    status, output = tiny.finish(program)
    assert status == 0, output
    assert "shards; run it again to go on" in output
    assert f"stopped: {stopped} has " in output
    made = [name for name in result(stopped) if name.startswith("shard-")]
    assert 1 < len(made) < 100
    assert leftovers(stopped) == []
    for out in (stopped, whole):
        assert tiny.finish(start("sample", material, out, *long))[0] == 0
    assert result(stopped) == result(whole)


def _wait_for(path: Path, program: tiny.Program) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline
        assert program.poll() is None, tiny.finish(program)
        time.sleep(0.01)
