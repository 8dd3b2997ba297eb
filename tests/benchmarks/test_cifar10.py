"""The recipe of CIFAR-10: its commands are those that the scripts take, at any length."""

import math
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from cifar10 import Cifar10Benchmark, commands, run, stages

from guided_diffusion.commands.diagnose_classifier import DiagnoseConfig
from guided_diffusion.commands.evaluate import EvaluateConfig
from guided_diffusion.commands.prepare_data import PrepareConfig
from guided_diffusion.commands.sweep import SweepConfig
from guided_diffusion.commands.train_classifier import TrainClassifierConfig
from guided_diffusion.commands.train_diffusion import TrainDiffusionConfig
from guided_diffusion.config import parse

CONFIGS: Mapping[str, type[Any]] = {
    "prepare_data": PrepareConfig, "train_diffusion": TrainDiffusionConfig, "evaluate": EvaluateConfig,
    "train_classifier": TrainClassifierConfig, "diagnose_classifier": DiagnoseConfig, "sweep": SweepConfig,
}  # fmt: skip


@pytest.mark.parametrize(("length", "batch", "images", "samples"), [(0.02, 32, 20_000, 320), (1, 128, 10**6, 10_000)])
def test_every_command_of_the_recipe_is_understood_and_follows_the_length(tmp_path, length, batch, images, samples):
    config = Cifar10Benchmark(data=tmp_path / "cifar 10", out=tmp_path, length=length, stages=("data", "train"))
    parsed = {}
    for _, name, command in commands(config):
        words = shlex.split(command)
        script = next(word for word in words if word.endswith(".py"))
        if script.startswith("scripts/"):
            parsed[name] = parse(CONFIGS[Path(script).stem], words[words.index(script) + 1 :])
    training = parsed["diffusion"].training
    assert (training.batch.size, training.images, parsed["sweep"].num_samples) == (batch, images, samples)
    assert parsed["data/train"].data.path == tmp_path / "cifar 10" / "train"
    assert parsed["classifier"].diffusion == tmp_path / "diffusion"


def test_a_training_of_another_length_is_refused_and_samples_follow_their_options(tmp_path):
    (tmp_path / "logs").mkdir()
    short, whole = (Cifar10Benchmark(data=tmp_path, out=tmp_path, length=length) for length in (0.02, 1))
    run(short, "train", "diffusion", "-c pass", until=math.inf)
    with pytest.raises(ValueError, match="diffusion was begun with --length 0.02; give that, or another --out"):
        run(whole, "train", "diffusion", "-c pass", until=math.inf)
    for scales in ("first", "second"):
        run(short, "sample", "sweep", f"-c 'print(\"{scales}\")'", until=math.inf)
    assert (tmp_path / "logs" / "sweep.log").read_text().split() == ["first", "second"]
    assert stages(tmp_path)["sweep"]["done"]
