"""Averages of weights: their profiles over the iterations, read off weights that are the unit vectors in turn."""

from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file
from small_loop import CrashError, crash_at, train
from torch import Tensor, nn

from guided_diffusion.checkpoint import open_checkpoint, read_weights, verify
from guided_diffusion.commands.average_weights import AveragingConfig, average_weights
from guided_diffusion.run_directory import checkpoints
from guided_diffusion.training.config import LoopConfig
from guided_diffusion.training.ema import EMA
from guided_diffusion.training.reconstruction import Fit, fit
from guided_diffusion.weight_averages import WIDEST, exponent, initial_share

LENGTH = 1000


def profiles(names: list[str], length: int = LENGTH) -> dict[str, Tensor]:
    """(length + 1,) float64 each: the shares of the weights of every iteration, the initial ones first."""
    network = nn.ParameterList([nn.Parameter(torch.eye(length + 1, dtype=torch.float64)[0])])
    ema = EMA(network, names)
    for iteration in range(1, length + 1):
        with torch.no_grad():
            network[0][iteration - 1 : iteration + 1] = torch.tensor([0.0, 1.0])
        ema.update(iteration)
    return {name: averages[0] for name, averages in ema.averages.items()}


@pytest.mark.parametrize(("width", "gamma"), [(0.05, 16.97), (0.1, 6.94), (WIDEST, 0.0)])
def test_the_exponent_of_a_width_is_the_published_one(width, gamma):
    """The first two are in 2312.02696 section 3.2; the standard deviation of a uniform variable is 12^-1/2."""
    assert exponent(width) == pytest.approx(gamma, abs=5e-3)


def test_a_power_average_has_the_profile_of_its_width():
    widths = (0.02, 0.1, 0.25)
    iterations = torch.arange(LENGTH + 1, dtype=torch.float64)
    for name, shares in profiles([f"ema_power_{width}" for width in widths]).items():
        width = float(name.removeprefix("ema_power_"))
        assert float(shares.sum()) == pytest.approx(1, abs=1e-12)
        assert float(shares[0]) == 0  # the initial weights
        mean = (shares * iterations).sum()
        deviation = (shares * (iterations - mean) ** 2).sum().sqrt()
        assert float(deviation / LENGTH) == pytest.approx(width, abs=1e-3)
        primitive = (iterations / LENGTH) ** (exponent(width) + 1)
        torch.testing.assert_close(shares[1:], primitive.diff(), rtol=1e-9, atol=1e-15)  # the function, integrated


def test_initial_weights_have_the_share_that_previews_tell():
    for name, shares in profiles(["ema_0.9", "ema_power_0.1"], length=10).items():
        assert initial_share(name, 0) == 1
        assert float(shares[0]) == pytest.approx(initial_share(name, 10), rel=1e-12)


def test_the_first_update_is_the_whole_power_average(tmp_path, class_folder):
    train(tmp_path, class_folder, tiny.loop(iterations=1, ema_widths=(0.1,)))
    network, average = (
        load_file(tmp_path / "checkpoint-0000001" / f"{name}.safetensors") for name in ("network", "ema_power_0.1")
    )
    assert all(torch.equal(network[key], average[key]) for key in network)


@pytest.mark.parametrize("width", [0.05, 0.1])
def test_a_stored_width_is_reconstructed_by_itself(width):
    stored = [(iteration, stored_width) for iteration in (250, 500, 750, 1000) for stored_width in (0.05, 0.1)]
    found = fit(stored, iteration=1000, width=width)
    expected = [float(one == (1000, width)) for one in stored]
    assert found.coefficients.tolist() == pytest.approx(expected, abs=1e-9)
    assert found.error < 1e-6  # the root of a rounding error


@pytest.fixture(scope="module")
def walk() -> tuple[Tensor, dict[int, dict[str, Tensor]]]:
    """A random walk of 64 weights: those at its end, and their averages at each hundredth of 2,000 iterations."""
    generator = torch.Generator().manual_seed(0)
    network = nn.ParameterList([nn.Parameter(torch.zeros(64, dtype=torch.float64))])
    ema, kept = EMA(network, [f"ema_power_{width}" for width in (0.05, 0.1, 0.03, 0.15, 0.2)]), {}
    for iteration in range(1, 2001):
        with torch.no_grad():
            network[0] += torch.randn(64, generator=generator, dtype=torch.float64)
        ema.update(iteration)
        if iteration % 20 == 0:
            kept[iteration] = {name: averages[0].clone() for name, averages in ema.averages.items()}
    return network[0].detach(), kept


@pytest.mark.parametrize(
    ("width", "errors"), [(0.03, (6e-2, 2.5e-2, 1e-3)), (0.15, (1e-2, 2e-3, 2e-4)), (0.2, (2e-2, 4e-3, 3e-4))]
)
def test_another_width_agrees_with_the_average_of_a_random_walk_the_better_the_more_are_stored(walk, width, errors):
    """Relative to the distance of the average from the last weights, with 10, 20 and 100 iterations stored."""
    last, kept = walk
    direct, found = kept[2000][f"ema_power_{width}"], list[tuple[float, Fit]]()
    for count in (10, 20, 100):
        stored = [(n, one) for n in range(2000 // count, 2001, 2000 // count) for one in (0.05, 0.1)]
        one = fit(stored, iteration=2000, width=width)
        averages = [kept[iteration][f"ema_power_{stored_width}"] for iteration, stored_width in stored]
        made = torch.einsum("k,kw->w", torch.from_numpy(one.coefficients), torch.stack(averages))
        found.append((float((made - direct).norm() / (last - direct).norm()), one))
    assert [error for error, _ in found] == sorted((error for error, _ in found), reverse=True)
    assert all(error < most for (error, _), most in zip(found, errors, strict=True)), found
    assert [one.error for _, one in found] == sorted((one.error for _, one in found), reverse=True)


def snapshot_bytes(run_dir: Path) -> dict[str, bytes]:
    """Content of the weights of all snapshots, by snapshot and name."""
    files = (run_dir / "snapshots").glob("checkpoint-*/*.safetensors")
    return {f"{file.parent.name}/{file.name}": file.read_bytes() for file in files}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, class_folder: Path) -> Path:
    """A small training with snapshots."""
    directory = tmp_path_factory.mktemp("averages") / "run"
    train(directory, class_folder, kept_every_second(), kind="diffusion")
    return directory


def kept_every_second(**changes: int) -> LoopConfig:
    return tiny.loop(
        iterations=20, save_every_iterations=5, keep_checkpoints=2, ema_widths=(0.05, 0.1), learning_rate=0.01,
        snapshot_every_iterations=2, **changes,
    )  # fmt: skip


def test_snapshots_are_kept_for_good_beside_the_checkpoints(run):
    assert [int(path.name[-7:]) for path in checkpoints(run)] == [15, 20]
    kept = checkpoints(run / "snapshots")
    assert [int(path.name[-7:]) for path in kept] == [*range(2, 21, 2)]
    at_end, snapshot = (load_file(path / "ema_power_0.1.safetensors") for path in (checkpoints(run)[-1], kept[-1]))
    for key, tensor in snapshot.items():
        assert tensor.dtype == torch.float16
        assert torch.equal(tensor, at_end[key].half())


def test_a_killed_and_resumed_training_has_the_snapshots_of_an_undisturbed_one(run, tmp_path, class_folder):
    config = kept_every_second(observe_every_iterations=1)
    with pytest.raises(CrashError):
        train(tmp_path, class_folder, config, observe=crash_at(13), kind="diffusion")
    kept = tmp_path / "snapshots"
    partial = kept / ".partial-checkpoint-0000014.1"
    partial.mkdir()  # as kill -9 leaves it
    (kept / "checkpoint-0000012").rename(kept / "checkpoint-0000011")  # as of another interval; made again otherwise
    train(tmp_path, class_folder, config, resume=True, kind="diffusion")  # from iteration 10
    assert not partial.exists()
    assert snapshot_bytes(tmp_path) == snapshot_bytes(run)


def test_averages_are_reconstructed_into_a_checkpoint_of_their_own(run, tmp_path, capsys):
    config = AveragingConfig(run=run, widths=(0.07, 0.1), out=tmp_path / "averages")
    made = open_checkpoint(average_weights(config), "diffusion")
    said = capsys.readouterr().out
    assert f"{run.name}/checkpoint-0000020: 20 averages of 10 iterations" in said
    assert "width 0.07: relative error of the profile 9.1e-03\n" in said
    verify(made)
    assert (made.iteration, made.weight_names) == (20, ("ema_power_0.07", "ema_power_0.1"))
    own, rebuilt = (read_weights(one, "ema_power_0.1") for one in (open_checkpoint(run, "diffusion"), made))
    assert all(torch.equal(own[key], rebuilt[key]) for key in own)
    average_weights(config)
    assert "holds these averages, whole already" in capsys.readouterr().out


def test_a_reconstructed_average_is_the_one_that_training_tracks(run, tmp_path, class_folder):
    """To a tenth of its distance from the nearest stored one; snapshots of ten iterations, in float16."""
    train(tmp_path / "run", class_folder, tiny.loop(iterations=20, ema_widths=(0.07,), learning_rate=0.01))
    direct = load_file(checkpoints(tmp_path / "run")[-1] / "ema_power_0.07.safetensors")
    made = load_file(
        average_weights(AveragingConfig(run=run, widths=(0.07,), out=tmp_path / "made")) / "ema_power_0.07.safetensors"
    )
    stored = load_file(checkpoints(run)[-1] / "ema_power_0.05.safetensors")
    for key, tensor in direct.items():
        assert float((made[key] - tensor).norm()) < 0.1 * float((stored[key] - tensor).norm())


def test_a_width_far_from_those_stored_is_refused_and_one_less_far_called_doubtful(run, tmp_path, capsys):
    with pytest.raises(
        ValueError, match=r"cannot give width 0.01: .* ask for widths nearer to 0.05, 0.1, or train with"
    ):
        average_weights(AveragingConfig(run=run, widths=(0.02, 0.01), out=tmp_path / "averages"))
    assert "width 0.02: relative error of the profile 2.0e-01  (doubtful" in capsys.readouterr().out
    assert not (tmp_path / "averages").exists()


def test_an_out_that_holds_other_averages_is_refused(run, tmp_path):
    average_weights(AveragingConfig(run=run, widths=(0.1,), out=tmp_path))
    with pytest.raises(ValueError, match="holds .*checkpoint-0000020 already; give --out a new run directory"):
        average_weights(AveragingConfig(run=run, widths=(0.05,), out=tmp_path))


def test_a_run_without_power_averages_is_refused_with_the_options_that_keep_them(tmp_path, class_folder):
    train(tmp_path / "run", class_folder, tiny.loop(iterations=1), kind="diffusion")
    with pytest.raises(ValueError, match="holds no power-function average; train with --training.ema_widths"):
        average_weights(AveragingConfig(run=tmp_path / "run", widths=(0.1,), out=tmp_path / "averages"))


def test_snapshots_without_averages_are_refused():
    with pytest.raises(
        ValueError, match="keeps power-function averages, and there are none; add --training.ema_widths"
    ):
        tiny.loop(iterations=1, snapshot_every_iterations=1)
