"""Ways to spend less memory or time that must not change what is learnt."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import programs
import pytest
import tiny
import torch
from PIL import Image

from guided_diffusion.commands.train_diffusion import train_diffusion
from guided_diffusion.diffusion.model import load_diffusion
from guided_diffusion.models.unet import UNet, UNetConfig, recompute
from guided_diffusion.run_directory import latest
from guided_diffusion.training.config import PreviewConfig
from guided_diffusion.training.setup import activation_bytes

NETWORK = tiny.encoder(channel_mult=(1.0, 2.0), attention_sizes=(4,), blocks_per_level=2)
DROPOUT = replace(NETWORK, dropout=0.2)


def losses(run_dir) -> list[float]:
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


@pytest.fixture(scope="module")
def plain(tmp_path_factory, class_folder):
    out = tmp_path_factory.mktemp("plain")
    train_diffusion(tiny.diffusion_config(out, class_folder, network=NETWORK, iterations=3, log_every_iterations=1))
    return out


def same_function(ours, theirs, *, tolerance: float) -> None:
    ours, theirs = (load_diffusion(path, weights="network") for path in (ours, theirs))
    x = torch.randn(4, *ours.image_shape, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0.0, 10.0, 25.0, 49.0])
    a, b = ours.network(x, t), theirs.network(x, t)
    assert float(b.abs().max()) > 1e-2
    assert torch.allclose(a, b, rtol=0, atol=tolerance * float(b.abs().max()))


def test_recomputed_levels_learn_to_the_bit_what_kept_ones_do_also_with_dropout(tmp_path, class_folder):
    for name, sizes in (("kept", ()), ("recomputed", (8, 4))):
        config = tiny.diffusion_config(
            tmp_path / name, class_folder, network=DROPOUT, iterations=3, log_every_iterations=1, recompute_sizes=sizes
        )
        train_diffusion(config)
    assert losses(tmp_path / "recomputed") == losses(tmp_path / "kept")
    same_function(tmp_path / "recomputed", tmp_path / "kept", tolerance=0)


def test_recomputing_a_level_keeps_less_for_the_backward_pass():
    network = UNet(UNetConfig(**vars(NETWORK), in_channels=1, out_channels=1))
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([1.0, 2.0])

    def kept(*sizes: int) -> int:
        recompute(network, sizes)
        return activation_bytes(network, lambda: network(x, t).sum())

    nothing, coarse, fine, both = kept(), kept(4), kept(8), kept(4, 8)
    assert both < fine < coarse < nothing


def test_a_size_to_recompute_that_the_network_has_not_is_refused(tmp_path, class_folder):
    config = tiny.diffusion_config(
        tmp_path / "run", class_folder, network=NETWORK, iterations=1, recompute_sizes=(16, 8)
    )
    with pytest.raises(
        ValueError, match=r"recompute_sizes \[16\] are no feature-map sides of this network; it has \[8, 4\]"
    ):
        train_diffusion(config)
    assert not (tmp_path / "run").exists()


def test_channels_last_learns_the_same_and_is_resumed_to_the_bit(tmp_path, class_folder, plain):
    def config(name: str, iterations: int):
        return tiny.diffusion_config(
            tmp_path / name, class_folder, network=NETWORK, iterations=iterations, log_every_iterations=1,
            channels_last=True, resume="auto",
        )  # fmt: skip

    train_diffusion(config("whole", 3))
    assert losses(tmp_path / "whole") == pytest.approx(losses(plain), rel=1e-4)  # kernels that add in another order
    for iterations in (1, 3):
        train_diffusion(config("parts", iterations))
    same_function(tmp_path / "parts", tmp_path / "whole", tolerance=0)
    assert latest(tmp_path / "parts").name == "checkpoint-0000003"


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
