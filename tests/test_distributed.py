"""Several processes as one: the main one's result or failure is everyone's, and sums that no process waits for."""

import pytest
import torch

from guided_diffusion import distributed
from guided_diffusion.distributed import Process, Tally, on_main_process
from guided_diffusion.memory import first_fitting, halves, is_out_of_memory


def failing(error: Exception):
    def work() -> None:
        raise error

    return work


def test_where_the_main_process_fails_all_fail(monkeypatch):
    assert on_main_process(lambda: 5) == 5
    outcomes: list = []
    broadcast = distributed.broadcast_from_main
    monkeypatch.setattr(distributed, "broadcast_from_main", lambda value: outcomes.append(value) or broadcast(value))
    for error in (OSError("disk full"), KeyError("lost")):
        with pytest.raises(type(error)):
            on_main_process(failing(error))
    # As another process sees it, which receives what the main one broadcast.
    monkeypatch.setattr(distributed, "this_process", lambda: Process(torch.device("cpu"), rank=1, world_size=2))
    for outcome, kind, message in zip(outcomes, (ValueError, RuntimeError), ("disk full", "lost"), strict=True):
        monkeypatch.setattr(distributed, "broadcast_from_main", lambda value, outcome=outcome: outcome)
        with pytest.raises(kind, match=message):
            on_main_process(failing(AssertionError("is not called")))


def test_sums_of_one_process_are_its_own():
    one, other = Tally(), Tally()
    assert one.total("images") == 0
    one.add("images", 3)
    one.add("images", 4)
    other.add("images", 1)
    assert (one.total("images"), one.total("shards"), other.total("images")) == (7, 0, 1)


def out_of_memory_above(limit: int, tried: list[int]):
    def attempt(size: int) -> None:
        tried.append(size)
        if size > limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    return attempt


@pytest.mark.parametrize(("limit", "tries"), [(100, [100]), (25, [100, 50, 25]), (12, [100, 50, 25, 13, 7])])
def test_the_batch_is_halved_until_it_fits(limit, tries):
    tried: list[int] = []
    assert first_fitting(halves(100), out_of_memory_above(limit, tried)) == tries[-1]
    assert tried == tries


def test_a_network_of_which_not_even_one_image_fits_is_an_error():
    with pytest.raises(torch.OutOfMemoryError):
        first_fitting(halves(8), out_of_memory_above(0, []))


def test_another_failure_is_not_taken_for_a_lack_of_memory():
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        first_fitting(halves(8), lambda size: failing(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))())


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("could not create a primitive"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you .."
        ),
        RuntimeError("std::bad_alloc"),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("can't start new thread"),
        MemoryError("Unable to allocate 8.00 GiB for an array"),
        OSError(12, "Cannot allocate memory"),
    ],
)
def test_what_libraries_say_when_memory_runs_out_is_known(error):
    assert is_out_of_memory(error)


def test_half_the_size_is_tried_where_python_runs_out_of_memory():
    def attempt(size: int) -> None:
        if size > 5:
            raise MemoryError

    assert first_fitting(halves(16), attempt) == 4


@pytest.mark.parametrize("error", [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), OSError(28, "No space")])
def test_other_errors_are_not_out_of_memory(error):
    assert not is_out_of_memory(error)
