"""Training from what exists: what of a network's outputs is kept, what its description and its averages say."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from small_loop import assert_same_training
from torch import Tensor

from classifiers.model import ClassifierConfig, NoisyClassifier
from classifiers.trained_model import load_classifier
from guided_diffusion.checkpoint import open_checkpoint, read_tensors, save_checkpoint
from guided_diffusion.commands import sample, train_classifier, train_diffusion, train_upsampler
from guided_diffusion.config import to_plain
from guided_diffusion.data.formats.samples import read_manifest
from guided_diffusion.diffusion.model import DiffusionConfig, UpsamplerModelConfig, load_diffusion, load_upsampler
from guided_diffusion.models.unet import UNet, UNetConfig
from guided_diffusion.models.upsampler import Upsampler, UpsamplerConfig
from guided_diffusion.run_directory import latest
from guided_diffusion.training.adaptation import adapted, colour_map, resized_positions

T = torch.tensor([3.0, 40.0])


def model(channels: int = 3, *, variance: Any = "learned_range", size: int = 8, **network: Any) -> DiffusionConfig:
    out = channels * (2 if variance == "learned_range" else 1)
    config = UNetConfig(
        **vars(tiny.encoder(image_size=size, channel_mult=(1.0, 1.0), attention_sizes=(size,))),
        in_channels=channels, out_channels=out, **network,
    )  # fmt: skip
    count = config.num_classes or 0
    return DiffusionConfig(
        network=config, chain=tiny.CHAIN, variance=variance, class_names=tuple("abcdefgh"[:count]),
    )  # fmt: skip


def network(config: DiffusionConfig) -> UNet:
    torch.manual_seed(0)
    return tiny.awakened(UNet(config.network)).eval()  # type: ignore[return-value]


def turned_into(there: DiffusionConfig, here: DiffusionConfig) -> tuple[UNet, UNet, list[str]]:
    """A network, what it is adapted to, and the changes."""
    before, after = network(there), UNet(here.network).eval()
    weights, changes = adapted(before.state_dict(), to_plain(there), to_plain(here), after.state_dict())
    after.load_state_dict(weights)
    return before, after, changes


def images(channels: int, *, size: int = 8) -> Tensor:
    return torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def outputs(net: UNet, x: Tensor, y: list[int] | None = None) -> Tensor:
    return net(x, T, None if y is None else torch.tensor(y))


def test_an_equal_model_gets_the_weights_to_the_bit():
    there = model(num_classes=3, null_class=True)
    before, after, changes = turned_into(there, there)
    assert changes == []
    assert all(torch.equal(tensor, after.state_dict()[name]) for name, tensor in before.state_dict().items())


def test_classes_of_the_same_name_keep_their_rows_and_new_ones_begin_at_the_mean():
    there = model(num_classes=3, null_class=True)
    here = replace(there, class_names=("c", "new", "a", "b"), network=replace(there.network, num_classes=4))
    before, after, (said,) = turned_into(there, here)
    old, new = before.label.weight, after.label.weight
    assert torch.equal(new[[0, 2, 3, 4]], old[[2, 0, 1, 3]])  # the null class is the last
    assert torch.equal(new[1], old[:3].mean(dim=0))
    assert said == "of 3 classes 3 (c, a, b) keep their rows; 1 (new) begin at the mean row"


def test_an_unconditional_network_that_is_given_classes_computes_the_same_with_any():
    before, after, (said,) = turned_into(model(), model(num_classes=2, null_class=True))
    assert all(torch.equal(outputs(before, images(3)), outputs(after, images(3), [y, 2])) for y in (0, 1))
    assert said == "the network is conditioned on 2 classes, whose rows begin at 0"


@pytest.mark.parametrize("null", [True, False])
def test_a_network_that_loses_its_classes_computes_what_it_did_for_the_null_class_or_the_mean_row(null):
    before, after, (said,) = turned_into(model(num_classes=2, null_class=null), model())
    if not null:
        with torch.no_grad():
            before.label.weight[0] = before.label.weight.mean(dim=0)
    expected = outputs(before, images(3), [2, 2] if null else [0, 0])
    torch.testing.assert_close(outputs(after, images(3)), expected, rtol=1e-4, atol=1e-5)
    assert ("the row of the null class" if null else "the mean row of its 2 classes") in said


@pytest.mark.parametrize(("before", "after"), [(3, 1), (1, 3), (3, 4), (4, 3), (1, 4), (4, 1)])
def test_a_grey_picture_gives_the_same_grey_outputs_in_any_number_of_channels(before, after):
    there, here = model(before), model(after)
    if before == 4:  # of a network that looks at no alpha, since there is none in the other
        old = network(there)
        with torch.no_grad():
            old.encoder.conv_in.weight[:, 3] = 0
        weights = old.state_dict()
    else:
        weights = network(there).state_dict()
    old, new = UNet(there.network).eval(), UNet(here.network).eval()
    old.load_state_dict(weights)
    changed, (said,) = adapted(weights, to_plain(there), to_plain(here), new.state_dict())
    new.load_state_dict(changed)
    grey = images(1)
    mean_before, variance_before = outputs(old, grey.expand(-1, before, -1, -1)).split(before, dim=1)
    mean_after, variance_after = outputs(new, grey.expand(-1, after, -1, -1)).split(after, dim=1)
    for ours, theirs in ((mean_after, mean_before), (variance_after, variance_before)):
        expected, (colours_before, colours_after) = theirs[:, :3], (min(before, 3), min(after, 3))
        if colours_before != colours_after:
            expected = expected.mean(dim=1, keepdim=True).expand(-1, colours_after, -1, -1)
        torch.testing.assert_close(ours[:, :3], expected, rtol=1e-4, atol=1e-5)
    if after == 4:  # nothing is known of alpha: its eps is 0, and its variance like that of the colours
        assert not mean_after[:, 3].any()
        torch.testing.assert_close(variance_after[:, 3], variance_after[:, :3].mean(dim=1), rtol=1e-4, atol=1e-5)
    assert said.startswith(f"images had {before} channels and have {after}: ")


def test_colours_are_means_of_those_before():
    assert colour_map(3, 1).sum() == pytest.approx(1)
    assert torch.equal(colour_map(4, 3), torch.eye(4)[:3])
    assert torch.equal(colour_map(3, 4, alpha=True)[3], torch.full((3,), 1 / 3))


def test_a_learned_variance_begins_in_the_middle_of_its_range_and_can_be_left_out():
    learned, fixed = model(), model(variance="small")
    before, after, said = turned_into(fixed, learned)
    mean, position = outputs(after, images(3)).chunk(2, dim=1)
    torch.testing.assert_close(mean, outputs(before, images(3)), rtol=1e-5, atol=1e-5)
    assert not position.any()
    assert said == ["the learned variance begins in the middle of its range"]
    before, after, _ = turned_into(learned, fixed)
    torch.testing.assert_close(outputs(after, images(3)), outputs(before, images(3))[:, :3], rtol=1e-5, atol=1e-5)


def test_another_image_size_keeps_all_weights_and_says_so():
    before, after, said = turned_into(model(), model(size=16))
    assert torch.equal(outputs(before, images(3, size=16)), outputs(after, images(3, size=16)))
    assert said == ["image_size was 8 and is 16"]


def test_the_positions_of_attention_pooling_are_resized_like_a_picture():
    table = torch.randn(1 + 16, 5)
    torch.testing.assert_close(resized_positions(table, 4), table)
    constant = torch.cat([table[:1], table[1:2].expand(16, -1)])
    torch.testing.assert_close(resized_positions(constant, 7), table[[0] + 49 * [1]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"network": {"blocks_per_level": 2}}, "network.blocks_per_level is 1 in the weights that --from begins with, and "
         "2 was asked for, but their shapes differ; leave --network.blocks_per_level out"),
        ({"network": {"attention_sizes": []}}, "their attention at image_size 8 is at .8.; leave --network.attention"),
        ({"prediction": "v"}, "prediction is eps .* and v was asked for, but their outputs mean something else"),
        ({"variance": "learned"}, "variance is learned_range .* and learned was asked for"),
        ({"network": {"in_channels": 2}}, "only 1, 3 and 4 can follow"),
    ],
)  # fmt: skip
def test_what_weights_cannot_follow_is_refused_naming_both_values(change, message):
    plain = to_plain(model())
    here = plain | change | {"network": plain["network"] | change.get("network", {})}
    with pytest.raises(ValueError, match=message):
        adapted({}, plain, here, {})


def test_weights_that_are_incomplete_are_refused():
    plain, state = to_plain(model()), network(model()).state_dict()
    short = {name: tensor for name, tensor in state.items() if name != "norm_out.bias"}
    with pytest.raises(ValueError, match=r'own description: "norm_out.bias" is None in the file, \(32,\) in the'):
        adapted(short, plain, plain, state)


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
    source = save(tmp_path / "source", "diffusion", described, network(described))
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


def test_a_head_of_another_target_begins_anew():
    def described(**other: Any) -> dict[str, Any]:
        pooling = ClassifierConfig(**vars(tiny.encoder()), num_classes=2, in_channels=1)
        return {"network": to_plain(pooling), "chain": None, **other}

    net = NoisyClassifier(ClassifierConfig(**vars(tiny.encoder()), num_classes=2, in_channels=1))
    state = net.state_dict()
    initial = {name: tensor + 1 for name, tensor in state.items()}
    of_columns = {"target": "attributes", "columns": {"names": ["tall", "thin"]}}
    weights, (said,) = adapted(state, described(class_names=["a", "b"]), described(**of_columns), initial)
    assert torch.equal(weights["head.bias"], initial["head.bias"])
    assert torch.equal(weights["encoder.conv_in.weight"], state["encoder.conv_in.weight"])
    assert said == "the target was classes (a, b) and is attributes (tall, thin): the head begins anew"
    others = {"target": "attributes", "columns": {"names": ["thin", "old"]}}
    weights, _ = adapted(state, described(**of_columns), described(**others), initial)
    assert torch.equal(weights["head.weight"], torch.stack([state["head.weight"][1], torch.zeros(32)]))


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
