"""The memory of a training, and the batch that fits into it."""

import resource
from pathlib import Path

import programs
import psutil
import pytest
import tiny
import torch
from small_loop import assert_same_training, denoise, metrics, train
from torch import nn

from guided_diffusion.data.batches import Batch
from guided_diffusion.diffusion.noise import SeededNoise
from guided_diffusion.run_directory import latest
from guided_diffusion.training import capacity
from guided_diffusion.training.capacity import activation_bytes, cpu_limit, evenly_cut, free_bytes
from guided_diffusion.training.objective import Losses
from guided_diffusion.training.run import TrainState


def test_activations_are_counted_once_and_without_the_weights():
    weight = nn.Parameter(torch.randn(1, 100))
    network = nn.Module()
    network.weight = weight
    x = torch.randn(3, 100)
    # x * weight keeps x (1200 bytes) and the weight; exp keeps its result (1200), which the square keeps as well.
    assert activation_bytes(network, lambda: ((x * weight).exp() ** 2).sum()) == 2 * 1200


def test_a_cpu_process_takes_its_part_of_the_free_memory_less_what_its_optimiser_will_need(monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(capacity, "free_bytes", lambda: 4400)
    network = nn.Linear(9, 10)  # 400 bytes
    assert cpu_limit(network, 100) == 7  # 0.7 of (2200 - 3 * 400) bytes, over 100
    assert cpu_limit(network, 10**9) == 1


def test_a_container_has_the_memory_that_its_limit_leaves(tmp_path, monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 5000})())
    assert free_bytes(tmp_path) == 5000
    (tmp_path / "memory.current").write_text("1000\n")
    for limit, free in (("3000\n", 2000), ("9000\n", 5000), ("max\n", 5000)):
        (tmp_path / "memory.max").write_text(limit)
        assert free_bytes(tmp_path) == free


def test_a_limit_of_the_process_is_memory_too(monkeypatch, tmp_path):
    used = psutil.Process().memory_info().vms
    monkeypatch.setattr(resource, "getrlimit", lambda _: (used + 10**6, used + 10**6))
    assert free_bytes(tmp_path) <= 10**6


def test_a_process_whose_memory_is_limited_ends_in_a_sentence_that_names_the_option(tmp_path, class_folder):
    options = (
        "train_diffusion", *tiny.DIFFUSION_OPTIONS, f"--data.path={class_folder}", f"--out={tmp_path / 'run'}",
        "--training.iterations=1", "--training.batch.size=2000", "--training.batch.per_process=2000",
    )  # fmt: skip
    status, output = tiny.finish(programs.start(Path(__file__).with_name("limited_memory.py"), *options, threads=1))
    assert status == 2
    assert "error: out of memory: lower --training.batch.per_process, or free some memory (" in output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("size", "most", "part"), [(64, 61, 32), (64, 64, 64), (64, 99, 64), (7, 3, 3), (7, 2, 2), (5, 1, 1)]
)
def test_a_share_is_cut_into_as_few_and_as_even_parts_as_will_do(size, most, part):
    assert evenly_cut(size, most=most) == part


def test_a_resumed_training_is_cut_as_before_whatever_memory_is_free(tmp_path, class_folder, monkeypatch):
    for run, limits in (("parts", (3, 8)), ("whole", (3,))):
        for number, limit in enumerate(limits):
            monkeypatch.setattr(capacity, "cpu_limit", lambda network, bytes_per_image, limit=limit: limit)
            iterations = 4 if number == len(limits) - 1 else 2
            train(tmp_path / run, class_folder, tiny.loop(iterations=iterations), resume=True)
    assert_same_training(latest(tmp_path / "parts"), latest(tmp_path / "whole"))


def test_a_share_that_does_not_fit_is_computed_in_micro_batches_with_the_same_result(
    tmp_path, class_folder, monkeypatch
):
    sizes: list[int] = []

    def recording(network: nn.Module, batch: Batch, noise: SeededNoise) -> Losses:
        sizes.append(len(batch.y))
        return denoise(network.eval(), batch, noise)

    monkeypatch.setattr(capacity, "cpu_limit", lambda network, bytes_per_image: 3)
    train(tmp_path / "cut", class_folder, tiny.loop(iterations=2, log_every_iterations=1), objective=recording)
    assert sizes == [1, 3, 3, 2, 3, 3, 2]  # one image is measured first
    monkeypatch.undo()
    train(tmp_path / "whole", class_folder, tiny.loop(iterations=2, log_every_iterations=1), objective=recording)
    cut, whole = ([line["loss"] for line in metrics(tmp_path / name)] for name in ("cut", "whole"))
    assert cut == pytest.approx(whole, rel=1e-6)  # float32 sums in another order


def test_looking_for_the_size_that_fits_changes_nothing(tmp_path, class_folder, monkeypatch):
    """The attempt of a GPU, made on the CPU."""
    monkeypatch.setattr(capacity, "cpu_limit", lambda network, bytes_per_image: 8)
    train(tmp_path / "plain", class_folder, tiny.loop(iterations=2))

    def attempted(network: nn.Module, bytes_per_image: int) -> int:
        return capacity.size_by_trial(seen[0], [8])

    seen: list[TrainState] = []
    measure = capacity.bytes_per_image
    monkeypatch.setattr(capacity, "bytes_per_image", lambda state: (seen.append(state), measure(state))[1])
    monkeypatch.setattr(capacity, "cpu_limit", attempted)
    train(tmp_path / "attempted", class_folder, tiny.loop(iterations=2))
    assert len(seen) == 1
    assert_same_training(latest(tmp_path / "attempted"), latest(tmp_path / "plain"))
