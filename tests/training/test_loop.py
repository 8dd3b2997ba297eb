"""The training loop, with a network of two convolutions and an objective that knows nothing of diffusion."""

import os
import signal
from itertools import pairwise

import pytest
import tiny
import torch
from safetensors.torch import load_file
from small_loop import (
    Convolutions,
    CrashError,
    all_tensors,
    assert_same_training,
    crash_at,
    denoise,
    metrics,
    train,
)
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from guided_diffusion.data.batches import Batch
from guided_diffusion.diffusion.noise import SeededNoise
from guided_diffusion.run_directory import checkpoints, latest
from guided_diffusion.training.objective import Losses


# Seven images a batch over twenty images: every checkpoint lies within an epoch.
@pytest.mark.parametrize("settings", [{"batch_size": 7}, {"batch_size": 7, "per_process": 3}])
def test_a_crashed_and_resumed_training_equals_an_uninterrupted_one_to_the_bit(tmp_path, class_folder, settings):
    config = tiny.loop(
        iterations=9, save_every_iterations=3, observe_every_iterations=1, anneal="linear", weight_decay=0.1,
        max_grad_norm=0.5, ema_decays=(0.5, 0.9), ema_widths=(0.1, 0.25), log_every_iterations=1, **settings,
    )  # fmt: skip
    train(tmp_path / "whole", class_folder, config)
    with pytest.raises(CrashError):
        train(tmp_path / "parts", class_folder, config, observe=crash_at(5))
    assert latest(tmp_path / "parts").name == "checkpoint-0000003"
    train(tmp_path / "parts", class_folder, config, resume=True)
    assert_same_training(latest(tmp_path / "parts"), latest(tmp_path / "whole"))


def test_metrics_hold_every_iteration_once_after_a_crash_and_a_resume(tmp_path, class_folder):
    config = tiny.loop(iterations=6, save_every_iterations=2, observe_every_iterations=1, log_every_iterations=1)
    with pytest.raises(CrashError):
        train(tmp_path, class_folder, config, observe=crash_at(5))
    assert [line["iteration"] for line in metrics(tmp_path)] == [1, 2, 3, 4, 5]
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"iteration": 6, "lo')  # cut off by the crash
    train(tmp_path, class_folder, config, resume=True)
    assert [line["iteration"] for line in metrics(tmp_path)] == [1, 2, 3, 4, 5, 6]


def test_logged_numbers_are_means_since_the_last_line(tmp_path, class_folder):
    train(tmp_path / "each", class_folder, tiny.loop(iterations=5, log_every_iterations=1))
    train(tmp_path / "pairs", class_folder, tiny.loop(iterations=5, log_every_iterations=2))
    each, pairs = metrics(tmp_path / "each"), metrics(tmp_path / "pairs")
    assert [line["iteration"] for line in pairs] == [2, 4, 5]
    for name in ("loss", "brightness"):
        means = [(each[0][name] + each[1][name]) / 2, (each[2][name] + each[3][name]) / 2, each[4][name]]
        assert [line[name] for line in pairs] == pytest.approx(means, rel=1e-6)  # float32 sums
    assert all(line["images_per_second"] > 0 for line in each)


def test_the_average_is_decay_times_itself_plus_the_rest_times_the_weights(tmp_path, class_folder):
    torch.manual_seed(0)
    average = {name: value.double() for name, value in Convolutions().state_dict().items()}
    train(tmp_path, class_folder, tiny.loop(iterations=3, save_every_iterations=1, ema_decays=(0.75,)))
    for checkpoint in checkpoints(tmp_path):
        weights = load_file(checkpoint / "network.safetensors")
        average = {name: 0.75 * value + 0.25 * weights[name].double() for name, value in average.items()}
    stored = load_file(checkpoints(tmp_path)[2] / "ema_0.75.safetensors")
    for name, value in average.items():
        assert torch.allclose(stored[name].double(), value, rtol=0, atol=2e-7)  # three float32 roundings below 1
        assert not torch.allclose(weights[name].double(), value, rtol=0, atol=1e-5)


def test_micro_batches_have_the_gradient_of_one_batch_also_when_the_last_is_short(tmp_path, class_folder):
    gradients: list[Tensor] = []

    def record(optimizer: torch.optim.Optimizer, *_: object) -> None:
        parameters = optimizer.param_groups[0]["params"]
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in parameters]))

    def without_dropout(network: nn.Module, batch: Batch, noise: SeededNoise) -> Losses:
        return denoise(network.eval(), batch, noise)

    # Gradients, not weights: Adam divides whatever factor is wrong out of them again.
    hook = register_optimizer_step_pre_hook(record)
    try:
        for per_process in (8, 3):
            config = tiny.loop(iterations=3, batch_size=8, per_process=per_process, log_every_iterations=1)
            train(tmp_path / str(per_process), class_folder, config, objective=without_dropout)
    finally:
        hook.remove()
    for one, two in zip(gradients[:3], gradients[3:], strict=True):
        assert torch.allclose(one, two, rtol=0, atol=1e-5 * float(one.abs().max()))  # float32, summed in another order
    losses = [[line["loss"] for line in metrics(tmp_path / str(n))] for n in (8, 3)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_gradients_longer_than_asked_are_scaled_down(tmp_path, class_folder):
    norms: list[float] = []

    def record(optimizer: torch.optim.Optimizer, *_: object) -> None:
        parameters = optimizer.param_groups[0]["params"]
        norms.append(float(torch.cat([parameter.grad.flatten() for parameter in parameters]).norm()))

    hook = register_optimizer_step_pre_hook(record)
    try:
        for limit in (None, 0.01):
            train(tmp_path / str(limit), class_folder, tiny.loop(iterations=2, max_grad_norm=limit))
    finally:
        hook.remove()
    assert min(norms[:2]) > 0.1
    assert norms[2:] == pytest.approx([0.01, 0.01], rel=1e-3)  # clipping adds 1e-6 to the norm it divides by


def test_weight_decay_shrinks_weights_by_the_learning_rate_times_itself_beside_the_gradient(tmp_path, class_folder):
    torch.manual_seed(0)
    initial = Convolutions().state_dict()
    for decay in (0.0, 0.5):
        config = tiny.loop(iterations=1, learning_rate=0.01, weight_decay=decay)
        train(tmp_path / str(decay), class_folder, config)
    plain, decayed = (load_file(latest(tmp_path / name) / "network.safetensors") for name in ("0.0", "0.5"))
    for name, start in initial.items():
        assert torch.allclose(decayed[name] - plain[name], -0.01 * 0.5 * start, rtol=0, atol=1e-7)  # float32 below 1


def test_the_learning_rate_falls_linearly_to_zero_if_annealed(tmp_path, class_folder):
    sizes: dict[str, list[float]] = {}
    for anneal in ("none", "linear"):
        # A rate too small to change the gradients, so that both trainings differ by the rate alone.
        config = tiny.loop(iterations=4, save_every_iterations=1, keep_checkpoints=9, learning_rate=1e-5, anneal=anneal)
        train(tmp_path / anneal, class_folder, config)
        saved = [all_tensors(path) for path in checkpoints(tmp_path / anneal)]
        key = "network.safetensors/layers.3.weight"
        sizes[anneal] = [float((b[key] - a[key]).norm()) for a, b in pairwise(saved)]
    ratios = [linear / none for linear, none in zip(sizes["linear"], sizes["none"], strict=True)]
    assert ratios == pytest.approx([3 / 4, 2 / 4, 1 / 4], rel=1e-2)


def test_an_images_budget_is_rounded_up_to_whole_iterations(tmp_path, class_folder):
    train(tmp_path, class_folder, tiny.loop(images=17, batch_size=8))
    assert latest(tmp_path).name == "checkpoint-0000003"


@pytest.mark.parametrize("budget", [{}, {"iterations": 3, "images": 30}])
def test_a_budget_is_given_exactly_once(budget):
    with pytest.raises(ValueError, match=r"give exactly one of --training.iterations and --training.images"):
        tiny.loop(**budget)


@pytest.mark.parametrize("budget", [{"iterations": 0}, {"images": -5}])
def test_an_empty_budget_is_refused(budget, tmp_path):
    with pytest.raises(ValueError, match=f"budget must be at least 1, got {next(iter(budget.values()))}"):
        tiny.diffusion_config(tmp_path, tmp_path, **budget)


@pytest.mark.parametrize("name", ["keep_checkpoints", "keep_every_iterations", "save_every_iterations", "max_skipped"])
def test_counts_below_one_are_refused_by_name(name):
    with pytest.raises(ValueError, match=f"training.{name} must be at least 1, got 0"):
        tiny.loop(iterations=1, **{name: 0})


def test_a_decay_outside_zero_and_one_is_refused():
    with pytest.raises(ValueError, match=r"between 0 and 1, such as 0.9999; got 9999"):
        tiny.loop(iterations=1, ema_decays=(0.9, 9999.0))


def test_a_run_that_exists_is_refused_unless_resumed(tmp_path, class_folder):
    train(tmp_path, class_folder, tiny.loop(iterations=1))
    with pytest.raises(ValueError, match=r"checkpoint-0000001 is there already: .*--resume auto"):
        train(tmp_path, class_folder, tiny.loop(iterations=2))


def test_resuming_where_nothing_is_begins_a_run(tmp_path, class_folder):
    train(tmp_path, class_folder, tiny.loop(iterations=1), resume=True)
    assert latest(tmp_path).name == "checkpoint-0000001"


def test_resuming_another_model_is_refused_naming_the_difference(tmp_path, class_folder):
    train(tmp_path, class_folder, tiny.loop(iterations=1))
    with pytest.raises(ValueError, match=r"differs from the one asked for in width: 8 there, 9 now"):
        train(tmp_path, class_folder, tiny.loop(iterations=2), resume=True, model={"width": 9})


def test_resuming_with_an_average_that_was_not_kept_is_refused(tmp_path, class_folder):
    train(tmp_path, class_folder, tiny.loop(iterations=1, ema_decays=(0.9,)))
    with pytest.raises(ValueError, match=r"holds no average of decay 0.99; give --training.ema_decays '\[0.9\]'"):
        train(tmp_path, class_folder, tiny.loop(iterations=2, ema_decays=(0.99,)), resume=True)


def test_resuming_without_the_resume_directory_is_refused(tmp_path, class_folder):
    train(tmp_path, class_folder, tiny.loop(iterations=1))
    for file in (latest(tmp_path) / "resume").iterdir():
        file.unlink()
    (latest(tmp_path) / "resume").rmdir()
    with pytest.raises(FileNotFoundError, match=r"resume is gone: .* can be sampled from, but .* cannot be continued"):
        train(tmp_path, class_folder, tiny.loop(iterations=2), resume=True)


@pytest.fixture
def terminal():
    """The signal of a closed terminal is heard, also where the tests were started by nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_request_to_stop_saves_where_the_training_is_and_it_continues_to_the_bit(tmp_path, class_folder, number):
    def stop_at_3(network: nn.Module, now: int) -> dict[str, float]:
        if now == 3:
            os.kill(os.getpid(), number)
        return {}

    before = signal.getsignal(number)
    config = tiny.loop(iterations=6, observe_every_iterations=1)
    train(tmp_path / "parts", class_folder, config, observe=stop_at_3)
    assert [path.name for path in checkpoints(tmp_path / "parts")] == ["checkpoint-0000003"]
    assert signal.getsignal(number) == before
    train(tmp_path / "parts", class_folder, config, resume=True)
    train(tmp_path / "whole", class_folder, config)
    assert_same_training(latest(tmp_path / "parts"), latest(tmp_path / "whole"))


def test_under_nohup_a_closed_terminal_stops_nothing(tmp_path, class_folder):
    def hang_up(network: nn.Module, now: int) -> dict[str, float]:
        os.kill(os.getpid(), signal.SIGHUP)
        return {}

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        train(tmp_path, class_folder, tiny.loop(iterations=2, observe_every_iterations=1), observe=hang_up)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-0000002"]


def test_only_the_newest_checkpoints_are_kept(tmp_path, class_folder):
    train(tmp_path, class_folder, tiny.loop(iterations=5, save_every_iterations=1, keep_checkpoints=2))
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-0000004", "checkpoint-0000005"]


def test_observers_see_the_slowest_average_in_evaluation_mode_and_their_numbers_are_logged(tmp_path, class_folder):
    seen: dict[int, Tensor] = {}

    def observe(network: nn.Module, now: int) -> dict[str, float]:
        assert not network.training
        seen[now] = network.layers[0].weight.detach().clone()
        return {"watched": float(now)}

    config = tiny.loop(
        iterations=4, ema_decays=(0.5, 0.9), observe_every_iterations=2, save_every_iterations=2, log_every_iterations=3
    )
    train(tmp_path, class_folder, config, observe=observe)
    assert [line["watched"] for line in metrics(tmp_path) if "watched" in line] == [2.0, 4.0]
    for path, now in zip(checkpoints(tmp_path), (2, 4), strict=True):
        assert torch.equal(seen[now], load_file(path / "ema_0.9.safetensors")["layers.0.weight"])


def test_observing_changes_nothing_in_the_training(tmp_path, class_folder):
    def observe(network: nn.Module, now: int) -> dict[str, float]:
        torch.rand(3)
        return {}

    train(tmp_path / "seen", class_folder, tiny.loop(iterations=4, observe_every_iterations=1), observe=observe)
    train(tmp_path / "unseen", class_folder, tiny.loop(iterations=4))
    assert_same_training(latest(tmp_path / "seen"), latest(tmp_path / "unseen"))


def test_without_averages_the_network_itself_is_saved_and_observed(tmp_path, class_folder):
    train(tmp_path, class_folder, tiny.loop(iterations=1, ema_decays=()), observe=lambda network, now: {})
    assert [file.name for file in latest(tmp_path).glob("*.safetensors")] == ["network.safetensors"]
