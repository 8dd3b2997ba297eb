"""Commands that are killed, started twice, or asked to stop end with the files of one undisturbed run."""

import signal
import time
from collections.abc import Callable
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


@pytest.mark.parametrize("command", ["prepare_data", "export_samples"])
def test_a_command_that_was_killed_continues_to_the_bytes_of_an_undisturbed_one(command, material, tmp_path):
    assert killed_equals_undisturbed(command, material, tmp_path, kills=3, seed=0) == {"kills": 3}


@pytest.mark.parametrize("command", ["prepare_data", "encode"])
def test_of_two_commands_on_one_out_one_is_refused_or_both_end_well(command, material, tmp_path):
    outcomes = raced(command, material, tmp_path, rounds=1, seed=0)
    assert outcomes["broken"] == 0
    assert outcomes.total() == 1


def test_a_sampling_that_is_asked_to_stop_ends_on_all_processes_with_status_0_and_goes_on(material, tmp_path):
    long = ("--num_samples=40", "--shard_size=2", "--batch_size=2", "--sampler.steps=8")
    out, whole = tmp_path / "stopped", tmp_path / "whole"
    for processes in (1, 2):
        there = len(_shards(out))
        program = start("sample", material, out, *long, processes=processes)
        _wait_for(lambda least=there + 2: len(_shards(out)) >= least, program)
        if processes == 1:
            program.send_signal(signal.SIGSTOP)  # or it might end first
            second = start("sample", material, out, *long, processes=2)
            status, output = tiny.finish(second)
            assert status == 2
            assert output.count(f"another sampling is at work in {out}; wait for it, or choose another --out") == 2
            program.send_signal(signal.SIGCONT)
        program.send_signal(signal.SIGTERM, to=program.pids[-1:])  # one of the processes is told, and all end
        status, output = tiny.finish(program)
        assert status == 0, output
        assert output.count(f"stopped: {out} has {len(_shards(out))} of 20 shards; run it again to go on") == 1
        assert leftovers(out) == []
    for directory in (out, whole):
        assert tiny.finish(start("sample", material, directory, *long))[0] == 0
    assert result(out) == result(whole)


def _shards(directory: Path) -> list[Path]:
    return list(directory.glob("shard-*.npz"))


def _wait_for(condition: Callable[[], bool], program: tiny.Program) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        assert program.poll() is None, tiny.finish(program)
        time.sleep(0.01)
