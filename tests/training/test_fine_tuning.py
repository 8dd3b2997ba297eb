"""Training from what exists: settings, lineage and averages, frozen parts, and resuming without the source."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from small_loop import assert_same_training
from small_unet import T, images, model, network, outputs

from classifiers.trained_model import load_classifier
from guided_diffusion import GuidedDiffusion
from guided_diffusion.checkpoint import open_checkpoint, read_tensors, save_checkpoint
from guided_diffusion.commands import sample, train_classifier, train_diffusion, train_upsampler
from guided_diffusion.config import to_plain
from guided_diffusion.data.formats.samples import read_manifest
from guided_diffusion.diffusion.model import UpsamplerModelConfig, load_diffusion, load_upsampler
from guided_diffusion.models.upsampler import Upsampler, UpsamplerConfig
from guided_diffusion.run_directory import latest
from guided_diffusion.training.source import UNKNOWN_RATE, inherited_options


def save(out: Path, kind: str, model: Any, net: torch.nn.Module, run: Any = None) -> Path:
    weights = {"network": {name: 2 * tensor for name, tensor in net.state_dict().items()}, "ema_0.9": net.state_dict()}
    save_checkpoint(out, kind=kind, iteration=7, model=to_plain(model), run=run or {}, weights=weights)
    return out


def options(source: Path, folder: Path, out: Path, *more: str) -> list[str]:
    return [f"--from={source}", f"--data.path={folder}", "--data.num_workers=0", f"--out={out}",
            "--training.precision=float32", *more]  # fmt: skip


NO_ITERATIONS = ("--training.iterations=0", "--preview.images=0")


def test_without_iterations_the_outputs_are_the_sources_and_its_settings_need_no_repeating(tmp_path, class_folder):
    described = replace(model(1, num_classes=2), class_names=("light", "dark"), prediction="v")
    trained_with = {"training": {"learning_rate": 1e-3}}
    source = save(tmp_path / "source", "diffusion", described, network(described), trained_with)
    train_diffusion.main(options(source, class_folder, tmp_path / "out", *NO_ITERATIONS))
    before, after = load_diffusion(source), load_diffusion(tmp_path / "out")
    assert after.weights == "ema_power_0.1"
    assert after.config == before.config  # the order of the classes too
    assert torch.equal(outputs(after.network, images(1), [0, 1]), outputs(before.network, images(1), [0, 1]))
    (parent,) = after.checkpoint.lineage
    assert (parent["name"], parent["weights"], parent["iteration"]) == ("source/checkpoint-0000007", "ema_0.9", 7)
    assert parent["changes"] == []

    train_diffusion.main(options(tmp_path / "out", class_folder, tmp_path / "next", *NO_ITERATIONS))
    assert [one["name"] for one in open_checkpoint(tmp_path / "next", "diffusion").lineage] == [
        "source/checkpoint-0000007", "out/checkpoint-0000000",
    ]  # fmt: skip
    rates = [load_diffusion(tmp_path / run).checkpoint.run["training"]["learning_rate"] for run in ("out", "next")]
    assert rates == [5e-4, 5e-4]  # the second source was fine-tuned itself
    sample.main([f"--diffusion={tmp_path / 'next'}", f"--out={tmp_path / 'samples'}", "--num_samples=2",
                 "--sampler.steps=2"])  # fmt: skip
    assert len(read_manifest(tmp_path / "samples")["diffusion"]["lineage"]) == 2


def test_an_upsampler_follows_to_another_size(tmp_path, class_folder):
    own = UpsamplerConfig(**vars(model(1).network), low_res_size=4)
    torch.manual_seed(0)
    net = tiny.awakened(Upsampler(own))
    described = UpsamplerModelConfig(network=own, chain=tiny.CHAIN)
    source = save(tmp_path / "source", "upsampler", described, net)
    wanted = ("--network.image_size=16", "--conditioning_noise=0.5", *NO_ITERATIONS)
    train_upsampler.main(options(source, class_folder, tmp_path / "out", *wanted))
    before, after = load_upsampler(source), load_upsampler(tmp_path / "out")
    assert (after.config.network.low_res_size, after.config.network.attention_sizes) == (8, (16,))
    x, low_res = images(1), images(1, size=4)
    with torch.no_grad():
        assert torch.equal(before.network(x, T, low_res=low_res), after.network(x, T, low_res=low_res))
    assert after.checkpoint.lineage[0]["changes"] == [
        "image_size was 8 and is 16", "low_res_size was 4 and is 8", "conditioning_noise was None and is 0.5"
    ]  # fmt: skip


def test_a_classifier_keeps_noise_encoder_and_rows_of_known_classes(tmp_path, class_folder, classifier_run):
    known = tmp_path / "classes"
    tiny.write_class_folder(known, classes=("dim", "light"), per_class=2)
    train_classifier.main(options(classifier_run, known, tmp_path / "out", "--training.iterations=0"))
    before, after = load_classifier(classifier_run), load_classifier(tmp_path / "out")
    assert after.config.chain == before.config.chain
    with torch.no_grad():
        old, new = before.network(images(1), T), after.network(images(1), T)
    torch.testing.assert_close(new[:, 1], old[:, 1], rtol=0, atol=1e-6)
    torch.testing.assert_close(new[:, 0], old.mean(dim=1), rtol=0, atol=1e-5)


FROZEN = ("--training.train_only", "label", "*.attention", "--training.batch.size=4", "--preview.images=0")


def test_frozen_parts_stay_have_no_moments_and_are_their_own_averages(tmp_path, class_folder, conditional_run):
    train_diffusion.main(options(conditional_run, class_folder, tmp_path / "out", *FROZEN, "--training.iterations=2"))
    found, source = open_checkpoint(tmp_path / "out", "diffusion"), open_checkpoint(conditional_run, "diffusion")
    before = read_tensors(source.weights_file())
    for weights in ("network", "ema_power_0.1"):
        after = read_tensors(found.weights_file(weights))
        moved = {name for name in before if not torch.equal(before[name], after[name])}
        assert {name.split(".")[-2] for name in moved} <= {"label", "norm", "to_qkv", "proj"}
        assert "label.weight" in moved
    trained = [name for name in before if name.startswith("label") or ".attention." in name]
    moments = read_tensors(found.path / "resume" / "optimizer.safetensors")
    assert len({name.split(".")[0] for name in moments}) == len(trained)
    next_options = inherited_options({"from": str(tmp_path / "out")}, kind="diffusion")
    assert next_options["training.learning_rate"] == UNKNOWN_RATE  # that of a few parts suits no others


def test_parts_that_are_not_there_are_refused_with_those_that_are(tmp_path, class_folder, diffusion_run):
    command = options(diffusion_run, class_folder, tmp_path / "out", *FROZEN, "--training.iterations=1")
    with pytest.raises(SystemExit):
        train_diffusion.main(command)
    assert not (tmp_path / "out").exists()


def test_a_resumed_run_needs_no_source_and_ends_with_the_same_bits(tmp_path, class_folder, conditional_run, capsys):
    source = tmp_path / "source"
    shutil.copytree(conditional_run, source)
    schedule = ("--training.batch.size=4", "--preview.images=0", "--training.warmup_iterations=3")
    whole = options(source, class_folder, tmp_path / "whole", *schedule, "--training.iterations=3")
    train_diffusion.main(whole)
    stopped = options(source, class_folder, tmp_path / "stopped", *schedule)
    train_diffusion.main([*stopped, "--training.iterations=1"])
    shutil.rmtree(source)
    capsys.readouterr()
    train_diffusion.main([*stopped, "--training.iterations=3", "--resume=auto"])
    assert_same_training(latest(tmp_path / "stopped"), latest(tmp_path / "whole"))
    lineages = [open_checkpoint(tmp_path / run, "diffusion").lineage for run in ("stopped", "whole")]
    assert lineages[0] == lineages[1] != ()
    assert "begins from" not in capsys.readouterr().err


def test_an_unconditional_model_takes_a_classifier_of_ones_own_classes_with_a_warning(tmp_path, diffusion_run, caplog):
    others = tiny.write_class_folder(tmp_path / "others", classes=("light", "purple"), per_class=2)
    train_classifier.train_classifier(
        tiny.classifier_config(tmp_path / "run", others, diffusion=diffusion_run, iterations=1)
    )
    assert load_classifier(tmp_path / "run").class_names == ("light", "purple")
    assert '1 of the 2 classes asked for, such as "purple", are none of the diffusion model' in caplog.text
    model = GuidedDiffusion.load(diffusion_run, classifier=tmp_path / "run", device="cpu")
    images = model.sample(["purple"], num_samples=1, steps=2)
    assert model.class_names == ("light", "purple")
    assert images.shape == (1, 8, 8, 1)
