"""Ways to spend less memory or time that must not change what is learnt."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import programs
import pytest
import small_loop
import tiny
import torch
from PIL import Image
from torch import Tensor, nn
from torch._dynamo.backends.debugging import aot_eager
from torch.fx import GraphModule

from guided_diffusion.commands.train_diffusion import train_diffusion
from guided_diffusion.compilation import call_cost
from guided_diffusion.diffusion.model import load_diffusion
from guided_diffusion.models.recomputation import Recomputed
from guided_diffusion.models.unet import UNet, UNetConfig, recompute
from guided_diffusion.run_directory import latest
from guided_diffusion.training import capacity, setup
from guided_diffusion.training.capacity import activation_bytes, loss_of_first_image, size_by_trial
from guided_diffusion.training.config import PreviewConfig
from guided_diffusion.training.run import TrainingRun, TrainState

NETWORK = tiny.encoder(channel_mult=(1.0, 2.0), attention_sizes=(4,), blocks_per_level=2)
DROPOUT = replace(NETWORK, dropout=0.2)


def losses(run_dir) -> list[float]:
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def same_function(ours, theirs, *, tolerance: float) -> None:
    ours, theirs = (load_diffusion(path, weights="network") for path in (ours, theirs))
    x = torch.randn(4, *ours.image_shape, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0.0, 10.0, 25.0, 49.0])
    a, b = ours.network(x, t), theirs.network(x, t)
    assert float(b.abs().max()) > 1e-2
    assert torch.allclose(a, b, rtol=0, atol=tolerance * float(b.abs().max()))


def test_what_is_recomputed_learns_to_the_bit_what_is_kept_does_also_with_dropout(tmp_path, class_folder):
    for name, recomputed in (("kept", ()), ("levels", (8, 4)), ("pointwise", "pointwise")):
        train_diffusion(
            tiny.diffusion_config(
                tmp_path / name, class_folder, network=DROPOUT, iterations=3, log_every_iterations=1,
                recompute_sizes=recomputed,
            )
        )  # fmt: skip
    for name in ("levels", "pointwise"):
        assert losses(tmp_path / name) == losses(tmp_path / "kept")
        same_function(tmp_path / name, tmp_path / "kept", tolerance=0)


def test_recomputing_keeps_less_for_the_backward_pass_and_costs_operations_only_where_whole_levels_are():
    network = UNet(UNetConfig(**vars(NETWORK), in_channels=1, out_channels=1))
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([1.0, 2.0])

    def kept(recomputed: Recomputed) -> int:
        recompute(network, recomputed)
        return activation_bytes(network, lambda: network(x, t).sum())

    def flops(recomputed: Recomputed) -> int:
        recompute(network, recomputed)
        return call_cost(lambda: network(x, t).sum().backward()).flops

    nothing, coarse, fine, both = kept(()), kept((4,)), kept((8,)), kept((4, 8))
    assert both < fine < coarse < nothing
    assert both < kept("pointwise") < fine
    assert flops("pointwise") == flops(()) < flops((4,))


def test_a_size_to_recompute_that_the_network_has_not_is_refused(tmp_path, class_folder):
    config = tiny.diffusion_config(
        tmp_path / "run", class_folder, network=NETWORK, iterations=1, recompute_sizes=(16, 8)
    )
    with pytest.raises(
        ValueError, match=r"recompute_sizes \[16\] are no feature-map sides of this network; it has \[8, 4\]"
    ):
        train_diffusion(config)
    assert not (tmp_path / "run").exists()


@pytest.fixture
def compiler(tmp_path, monkeypatch):
    """No compiled code of other tests."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("compiler")
def test_a_compiled_network_learns_the_same_is_observed_uncompiled_and_resumed(
    tmp_path, class_folder, capsys, monkeypatch
):
    """Without the compiler's last stage, machine code, which takes half a minute."""
    compile = nn.Module.compile
    shapes: list[torch.Size] = []

    def traced(network: nn.Module, **options: Any) -> None:
        def backend(graph: GraphModule, inputs: Sequence[Tensor]) -> Any:
            shapes.append(next(tensor.shape for tensor in inputs if tensor.ndim == 4 and tensor.shape[1] == 1))
            return aot_eager(graph, inputs)

        compile(network, backend=backend, dynamic=options["dynamic"])

    def observe(network: nn.Module, iteration: int) -> dict[str, float]:
        return {"mean": float(network(torch.ones(iteration, 1, 8, 8)).detach().mean())}

    monkeypatch.setattr(nn.Module, "compile", traced)
    loop = {"log_every_iterations": 1, "observe_every_iterations": 1}
    for name, asked, budgets in (("plain", "off", (4,)), ("compiled", True, (2, 4))):
        for iterations in budgets:
            config = tiny.loop(iterations=iterations, compile=asked, **loop)
            small_loop.train(tmp_path / name, class_folder, config, observe=observe, resume=True)
    plain, compiled = (small_loop.metrics(tmp_path / name) for name in ("plain", "compiled"))
    for name in ("loss", "grad_norm", "mean"):
        found = [line[name] for line in compiled if name in line]
        assert found == pytest.approx([line[name] for line in plain if name in line], rel=1e-5)
        assert len(found) == 4
    assert [shape[0] for shape in shapes] == [8, 8]  # once in each run, and not for what is observed
    assert capsys.readouterr().err.count("compiled the network in") == 2


@pytest.mark.usefixtures("compiler")
def test_a_network_that_cannot_be_compiled_is_trained_as_it_is(tmp_path, class_folder, caplog, monkeypatch):
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("/nonexistent",))
    for name, compile in (("plain", False), ("failed", "on")):
        small_loop.train(tmp_path / name, class_folder, tiny.loop(iterations=2, compile=compile))
    warnings = [record.getMessage() for record in caplog.records if record.name.startswith("guided_diffusion")]
    assert len(warnings) == 1
    assert warnings[0].startswith("the network could not be compiled and runs uncompiled, more slowly: InvalidCxx")
    small_loop.assert_same_training(latest(tmp_path / "failed"), latest(tmp_path / "plain"))


@pytest.mark.usefixtures("compiler")
def test_a_compiled_network_without_memory_is_trained_uncompiled(tmp_path, class_folder, caplog, monkeypatch):
    def without_memory(state: TrainState, size: int) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(setup, "try_size", without_memory)
    for name, compile in (("plain", "off"), ("failed", "on")):
        small_loop.train(tmp_path / name, class_folder, tiny.loop(iterations=2, compile=compile))
    warnings = [record.getMessage() for record in caplog.records if record.name.startswith("guided_diffusion")]
    assert warnings == ["there is no memory for the compiled network, which runs uncompiled, more slowly"]
    small_loop.assert_same_training(latest(tmp_path / "failed"), latest(tmp_path / "plain"))


@pytest.mark.usefixtures("compiler")
def test_the_cost_of_compiling_is_found_with_as_little_memory_as_a_level_needs(tmp_path, class_folder, monkeypatch):
    seen: list[str] = []

    def observed(run: TrainingRun, device: torch.device) -> Tensor:
        seen.extend({block.recomputed for level in run.network.levels for block in level.blocks})
        return loss_of_first_image(run, device)

    monkeypatch.setattr(setup, "loss_of_first_image", observed)
    monkeypatch.setattr(setup, "compile_or_warn", lambda network, trial: False)
    options = {"compile": "on", "recompute_sizes": "auto"}
    train_diffusion(tiny.diffusion_config(tmp_path, class_folder, network=NETWORK, iterations=1, **options))
    assert seen == ["everything"]


def test_a_cpu_recomputes_what_one_image_needs_at_the_start_and_when_resumed(
    tmp_path, class_folder, capsys, monkeypatch
):
    def measured(state: TrainState) -> int:
        return 1 if state.run.network.levels[0].blocks[0].recomputed == "everything" else 1 << 60

    monkeypatch.setattr(capacity, "bytes_per_image", measured)
    for iterations in (1, 2):
        train_diffusion(
            tiny.diffusion_config(tmp_path, class_folder, network=NETWORK, iterations=iterations, resume="auto")
        )
        message = "memory is short: training goes on as with --training.recompute_sizes '[8, 4]'\n"
        assert message in capsys.readouterr().err


def test_memory_that_is_short_has_pointwise_operations_recomputed_before_the_batch_is_cut(
    tmp_path, class_folder, monkeypatch
):
    tried: list[tuple[int, str]] = []
    fits: list[tuple[int, str]] = [(4, "pointwise")]

    def trial(state: TrainState, size: int) -> None:
        tried.append((size, state.run.network.levels[0].blocks[0].recomputed))
        if tried[-1] not in fits:
            raise torch.OutOfMemoryError("CUDA out of memory")

    found, sizes = list[int](), [8, 4, 2]
    monkeypatch.setattr(capacity, "try_size", trial)
    monkeypatch.setattr(capacity, "bytes_per_image", lambda state: found.append(size_by_trial(state, sizes)) or 1)
    train_diffusion(tiny.diffusion_config(tmp_path / "cut", class_folder, network=NETWORK, iterations=1))
    assert tried == [(8, "nothing"), (8, "pointwise"), (4, "nothing"), (4, "pointwise")]
    tried.clear()
    fits[:], sizes[:] = [(1, "everything")], [1]
    train_diffusion(tiny.diffusion_config(tmp_path / "levels", class_folder, network=NETWORK, iterations=1))
    # Of the decoder's coarsest level, after the finest has not sufficed.
    assert tried == [(1, "nothing"), (1, "pointwise"), (1, "nothing"), (1, "everything")]
    assert found == [4, 1]


def test_half_precision_without_a_gpu_and_sharding_without_processes_are_refused(tmp_path, class_folder):
    for option, message in (
        ({"precision": "float16"}, "precision float16 needs a GPU; take float32 here"),
        ({"shard": True}, "shard spreads a network over processes, but there is one"),
    ):
        with pytest.raises(ValueError, match=message):
            train_diffusion(tiny.diffusion_config(tmp_path / "run", class_folder, iterations=1, **option))
    with pytest.raises(ValueError, match="shard takes float32 or bfloat16"):
        tiny.loop(iterations=1, shard=True, precision="float16")


SCRIPT = tiny.REPOSITORY / "scripts" / "train_diffusion.py"


def spread(out, folder, *options: str, script=SCRIPT) -> str:
    """Output of a training of one network over two processes."""
    paths = (f"--data.path={folder}", f"--out={out}")
    given = ("--training.log_every_iterations=1", "--training.shard=true", *options)
    status, output = programs.start(script, *paths, *tiny.DIFFUSION_OPTIONS, *given, processes=2).finish()
    assert status == 0, output
    return output


def test_a_network_spread_over_two_processes_learns_what_one_learns_and_either_resumes_the_other(
    tmp_path, class_folder
):
    # Previews every iteration: a network that is spread is also looked at.
    every_iteration = {"log_every_iterations": 1, "observe_every_iterations": 1}
    preview = PreviewConfig(images=4, steps=3)

    def alone(name: str, iterations: int) -> None:
        options = {"iterations": iterations, "max_grad_norm": 1.0, "preview": preview, "resume": "auto"}
        train_diffusion(tiny.diffusion_config(tmp_path / name, class_folder, **options, **every_iteration))

    options = ["--resume=auto", "--training.max_grad_norm=1", "--preview.images=4", "--preview.steps=3"]
    options += ["--training.observe_every_iterations=1"]
    spread(tmp_path / "spread", class_folder, *options, "--training.iterations=2")
    alone("spread", 3)
    spread(tmp_path / "spread", class_folder, *options, "--training.iterations=4", "--training.batch.per_process=2")
    alone("one", 4)
    pictures = {name: sorted((tmp_path / name / "previews").glob("*.png")) for name in ("spread", "one")}
    assert [picture.name for picture in pictures["spread"]] == [f"{i:07d}.png" for i in (1, 2, 3, 4)]
    for ours, theirs in zip(pictures["spread"], pictures["one"], strict=True):
        difference = np.asarray(Image.open(ours)).astype(int) - np.asarray(Image.open(theirs))
        assert np.abs(difference).max() <= 1
    assert losses(tmp_path / "spread") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)
    same_function(tmp_path / "spread", tmp_path / "one", tolerance=1e-4)


def test_a_dry_run_of_a_network_spread_over_two_processes_says_what_it_costs_and_ends(tmp_path, class_folder):
    script = Path(__file__).with_name("short_dry_run.py")
    output = spread(tmp_path / "run", class_folder, "--training.iterations=2", "--dry_run=true", script=script)
    assert "8 images an iteration = 2 processes x 1 micro-batch of at most 4" in output
    assert not (tmp_path / "run").exists()
