import gc
import multiprocessing
import os
import signal
import time
from itertools import islice
from pathlib import Path

import numpy as np
import programs
import pytest
import torch
from data.storages import augmented
from PIL import Image

from guided_diffusion.data.batches import Batch, EndlessBatches, epoch_permutation
from guided_diffusion.data.config import DataConfig
from guided_diffusion.data.image_set import open_training_set

SIZE = 4


@pytest.fixture
def dataset(tmp_path):
    """Seven images in two classes, augmented, so that a sample's pixels depend on its counter."""
    rng = np.random.default_rng(0)
    for index in range(7):
        path = tmp_path / ("ant" if index < 3 else "bee") / f"{index}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 9, 3), dtype=np.uint8)).save(path)
    config = DataConfig(path=tmp_path, crop="random", flip=True)
    return open_training_set(config, image_size=SIZE)


def endless(dataset, *, batch_size, seed=1, num_workers=0):
    return EndlessBatches(dataset, batch_size=batch_size, seed=seed, num_workers=num_workers)


def first(count, batches, **kwargs):
    return list(islice(batches.micro_batches(**kwargs), count))


def joined(batches):
    return Batch(*(torch.cat([getattr(b, name) for b in batches]) for name in ("x0", "y", "counter")))


def assert_same(actual, expected):
    assert torch.equal(actual.counter, expected.counter)
    assert torch.equal(actual.y, expected.y)
    assert torch.equal(actual.x0, expected.x0)


def test_iteration_n_holds_stream_positions_nB_to_nB_plus_B(dataset):
    for n, batch in enumerate(first(4, endless(dataset, batch_size=3))):
        assert batch.counter.tolist() == [3 * n, 3 * n + 1, 3 * n + 2]
        assert batch.x0.shape == (3, 3, SIZE, SIZE)
        assert batch.x0.dtype == torch.float32
        assert batch.y.dtype == batch.counter.dtype == torch.int64


def test_a_sample_is_the_permutations_element_at_its_counter(dataset):
    for batch in first(6, endless(dataset, batch_size=4, seed=9)):
        for x0, y, counter in zip(batch.x0, batch.y.tolist(), batch.counter.tolist(), strict=True):
            epoch, position = divmod(counter, 7)
            index = int(epoch_permutation(7, seed=9, epoch=epoch)[position])
            assert torch.equal(x0, augmented(dataset, index, counter, seed=9))
            assert y == dataset[index][1]


def test_every_epoch_holds_every_image_once(dataset):
    indices = [int(epoch_permutation(7, seed=1, epoch=c // 7)[c % 7]) for c in range(70)]
    assert all(sorted(indices[start : start + 7]) == list(range(7)) for start in range(0, 70, 7))
    labels = joined(first(7, endless(dataset, batch_size=10))).y.tolist()
    assert labels == [int(dataset.labels[index]) for index in indices]


def test_epochs_and_seeds_have_different_permutations():
    orders = {tuple(epoch_permutation(50, seed=seed, epoch=epoch).tolist()) for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25


def test_the_permutation_is_uniform():
    # 6 orders of 3 elements, 1200 draws: 200 each, standard deviation 12.9; 65 is five of them.
    counts = {}
    for epoch in range(1200):
        order = tuple(epoch_permutation(3, seed=0, epoch=epoch).tolist())
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == 6
    assert all(abs(count - 200) < 65 for count in counts.values())


@pytest.mark.parametrize(
    ("world_size", "micro_size", "sizes"),
    [(1, None, [6]), (1, 2, [2, 2, 2]), (1, 4, [4, 2]), (2, None, [3]), (2, 2, [2, 1]), (3, 9, [2]), (6, 1, [1])],
)
def test_the_global_batch_does_not_depend_on_how_it_is_cut(dataset, world_size, micro_size, sizes):
    batches = endless(dataset, batch_size=6)
    whole = first(3, batches)
    count = len(sizes)
    cut = [
        first(3 * count, batches, rank=rank, world_size=world_size, micro_size=micro_size) for rank in range(world_size)
    ]
    for iteration in range(3):
        pieces = [batch for rank in cut for batch in rank[iteration * count : (iteration + 1) * count]]
        assert [len(piece.y) for piece in pieces] == sizes * world_size
        assert_same(joined(pieces), whole[iteration])


def test_resuming_at_iteration_n_equals_never_having_stopped(dataset):
    batches = endless(dataset, batch_size=4)
    uninterrupted = first(10, batches, micro_size=2)
    resumed = first(4, endless(dataset, batch_size=4), start_iteration=3, micro_size=2)
    for actual, expected in zip(resumed, uninterrupted[6:], strict=True):
        assert_same(actual, expected)


def test_a_batch_larger_than_the_dataset_crosses_epochs(dataset):
    (batch,) = first(1, endless(dataset, batch_size=20))
    counts = torch.bincount(batch.y, minlength=2)
    assert batch.counter.tolist() == list(range(20))
    assert 6 <= counts[0] <= 9  # two whole epochs hold 6 of the first class, six more samples at most 3


def test_worker_processes_change_nothing(dataset):
    alone = first(5, endless(dataset, batch_size=3))
    helped = first(5, endless(dataset, batch_size=3, num_workers=2))
    for actual, expected in zip(helped, alone, strict=True):
        assert_same(actual, expected)


def test_dropping_the_iterator_ends_the_workers(dataset):
    stream = endless(dataset, batch_size=3, num_workers=2).micro_batches()
    next(stream)
    workers = multiprocessing.active_children()
    assert len(workers) == 2
    stream.close()
    gc.collect()
    assert not any(worker.is_alive() for worker in workers)


def test_the_global_generator_is_left_alone(dataset):
    before = torch.get_rng_state()
    first(3, endless(dataset, batch_size=3))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_damaged_image_stops_with_our_message_alone(dataset, num_workers):
    path = dataset.paths[4]
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"^/.*bee/4\.png is not a readable image .*--data\.on_error skip") as caught:
        first(3, endless(dataset, batch_size=7, num_workers=num_workers))
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_vanished_file_keeps_its_error_type(dataset, num_workers):
    dataset.paths[4].unlink()
    with pytest.raises(FileNotFoundError, match=r"could not read an image: .*bee/4\.png"):
        first(3, endless(dataset, batch_size=7, num_workers=num_workers))


RUN = """
import os, signal, sys, time
from pathlib import Path
from guided_diffusion.data.batches import EndlessBatches
from guided_diffusion.data.config import DataConfig
from guided_diffusion.data.image_set import open_training_set

if __name__ == "__main__":
    os.setsid()
    dataset = open_training_set(DataConfig(path=Path(sys.argv[1])), image_size=4)
    stream = EndlessBatches(dataset, batch_size=2, seed=0, num_workers=1).micro_batches()
    stopped = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
    next(stream)
    print("started", flush=True)
    while not stopped:
        time.sleep(0.01)
    for _ in range(20):
        next(stream)
    print("done", flush=True)
"""


@pytest.fixture
def run(tmp_path_factory, dataset):
    """`RUN` as a program that has read its first batch."""
    script = tmp_path_factory.mktemp("run") / "run.py"
    script.write_text(RUN)
    program = programs.start(script, str(dataset.path))
    while program.output.read_text() != "started\n":
        assert program.poll() is None, program.finish()
        time.sleep(0.01)
    yield program
    program.finish()


@pytest.mark.skipif(os.name != "posix", reason="process groups")
def test_a_signal_to_the_process_group_leaves_the_workers_alive(run):
    os.killpg(run.pid, signal.SIGTERM)
    assert run.finish() == (0, "started\ndone\n")


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds the workers in /proc")
def test_workers_do_not_outlive_a_killed_run(run):
    workers = [int(pid) for pid in Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()]
    assert workers
    run.send_signal(signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL
    deadline = time.monotonic() + 30
    while any(is_running(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(is_running(pid) for pid in workers)


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_moving_a_batch_keeps_its_fields(dataset):
    (batch,) = first(1, endless(dataset, batch_size=3))
    assert_same(batch.to("cpu"), batch)
    assert batch.to("meta").x0.device.type == "meta"


@pytest.mark.parametrize(("batch_size", "world_size", "nearest"), [(7, 2, "6 or 8"), (10, 4, "8 or 12"), (3, 4, "4")])
def test_a_batch_that_does_not_divide_is_refused_with_the_nearest_that_do(dataset, batch_size, world_size, nearest):
    expected = f"batch of {batch_size} does not divide over {world_size} processes; the nearest that does: {nearest} "
    with pytest.raises(ValueError, match=expected):
        endless(dataset, batch_size=batch_size).micro_batches(world_size=world_size)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"start_iteration": -1}, "start_iteration=-1"),
        ({"rank": 2, "world_size": 2}, "rank=2, world_size=2"),
        ({"rank": -1}, "rank=-1"),
        ({"world_size": 0}, "world_size=0"),
        ({"micro_size": 0}, "a micro-batch is at least 1 sample, not 0"),
    ],
)
def test_arguments_out_of_range_are_refused_at_once(dataset, arguments, message):
    with pytest.raises(ValueError, match=message):
        endless(dataset, batch_size=4).micro_batches(**arguments)


def test_sizes_out_of_range_are_refused(dataset):
    with pytest.raises(ValueError, match="at least 1 sample, not 0"):
        endless(dataset, batch_size=0)
    with pytest.raises(ValueError, match="0 or more, not -1"):
        endless(dataset, batch_size=1, num_workers=-1)
