"""Sampling runs: the same samples however they are made, refusals, and what guidance does to them.

Over 300 lines because every promise of one function is held here, on the same tiny runs.
"""

import gc
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from tiny import generate
from torch import Tensor

from classifiers.trained_model import Classifier, load_classifier
from guided_diffusion.commands.sample import SampleConfig, sample
from guided_diffusion.commands.train_classifier import train_classifier
from guided_diffusion.commands.train_diffusion import train_diffusion
from guided_diffusion.data.formats.samples import iterate_shards, read_manifest, read_shard
from guided_diffusion.diffusion.images import from_uint8
from guided_diffusion.diffusion.model import DiffusionModel, load_diffusion
from guided_diffusion.diffusion.schedules import ChainConfig
from guided_diffusion.generation.run import SamplingRun
from guided_diffusion.guidance.config import GuidanceConfig
from guided_diffusion.guidance.run import Guidance


def config(out: Path, **changes) -> SampleConfig:
    few = {"num_samples": 10, "batch_size": 4, "shard_size": 4, "steps": 5}
    return tiny.sample_config(out, **(few | changes))


def made(directory: Path) -> tuple[np.ndarray, np.ndarray]:
    shards = list(iterate_shards(directory))
    return np.concatenate([shard.images for shard in shards]), np.concatenate([shard.labels for shard in shards])


def shard_bytes(directory: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(directory.glob("shard-*.npz"))}


def generated(out: Path, model: DiffusionModel, guide: Classifier | None = None, **changes) -> np.ndarray:
    generate(config(out, **changes), model, guide)
    return made(out)[0]


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
@pytest.mark.parametrize(("batch_size", "shard_size"), [(1, 10), (3, 4), (10, 5)])
def test_samples_do_not_depend_on_batch_or_shard_size_but_for_one_grey_level(
    tmp_path, model, guide, sampler, batch_size, shard_size
):
    guidance = GuidanceConfig(scale=2.0)
    reference = generated(tmp_path / "a", model, guide, sampler=sampler, guidance=guidance)
    images = generated(
        tmp_path / "b", model, guide, sampler=sampler, guidance=guidance, batch_size=batch_size, shard_size=shard_size
    )
    assert int(np.abs(images.astype(int) - reference.astype(int)).max()) <= 1
    assert np.array_equal(made(tmp_path / "a")[1], made(tmp_path / "b")[1])
    assert len(np.unique(reference, axis=0)) == 10


def test_memory_does_not_grow_with_the_steps(tmp_path, model, guide):
    held: list[int] = []

    def count(*_) -> None:
        gc.collect()
        tensors = [one.untyped_storage() for one in gc.get_objects() if type(one) is Tensor]
        held.append(sum({storage.data_ptr(): storage.nbytes() for storage in tensors}.values()))

    settings = config(tmp_path, steps=10)
    run = SamplingRun.assemble(model, guide, guidance=GuidanceConfig(scale=2.0), settings=settings)
    gc.freeze()  # objects of the run alone are looked at: all of pytest's would take most of the time
    run.sample(replace(run.plan(settings).batch(range(4), device=run.device), on_step=count))
    # Finite or not, a root mean square, and nats; one image kept, or the graph of a gradient, would be more.
    a_step = 4 + 4 + 4 * 8
    assert max(held[2:]) - held[1] <= 8 * a_step


def test_noise_and_labels_reach_the_network_by_id_whatever_the_batch_size(tmp_path, conditional_run):
    def recorded(**changes) -> dict[int, tuple[bytes, int]]:
        seen: list[tuple[Tensor, Tensor]] = []
        settings = config(tmp_path / str(changes), labels="1,0,0", sampler="ddpm", steps=2, **changes)
        generate(settings, tiny.watched(load_diffusion(conditional_run), lambda x_T, t, y: seen.append((x_T, y))))
        rows = [row for x_T, y in seen[::2] for row in zip(x_T, y.tolist(), strict=True)]
        return {i: (noise.numpy().tobytes(), label) for i, (noise, label) in enumerate(rows)}

    reference = recorded(batch_size=4, shard_size=4)
    assert [label for _, label in reference.values()] == [1, 0, 0, 1, 0, 0, 1, 0, 0, 1]
    assert len({noise for noise, _ in reference.values()}) == 10
    assert recorded(batch_size=7, shard_size=10) == reference
    assert recorded(batch_size=1, shard_size=3) == reference


def test_the_first_samples_of_a_longer_run_are_those_of_a_shorter_one(tmp_path, model):
    short = generated(tmp_path / "short", model, None, num_samples=8)
    assert np.array_equal(generated(tmp_path / "long", model, None, num_samples=16)[:8], short)


def test_another_seed_makes_other_samples(tmp_path, model):
    one, other = (generated(tmp_path / str(seed), model, seed=seed) for seed in (0, 1))
    assert not np.array_equal(one, other)


def test_only_missing_shards_are_made_again_and_to_the_byte(tmp_path, model, guide):
    generate(config(tmp_path), model, guide)
    before = shard_bytes(tmp_path)
    times = {file.name: file.stat().st_mtime_ns for file in tmp_path.glob("shard-*")}
    assert len(before) == 3
    (tmp_path / "shard-00001.npz").unlink()
    (tmp_path / ".shard-00001.npz.123.tmp").write_bytes(b"left by a killed run")
    generate(config(tmp_path), model, guide)
    assert shard_bytes(tmp_path) == before
    remade = [file.name for file in tmp_path.glob("shard-*") if file.stat().st_mtime_ns != times[file.name]]
    assert remade == ["shard-00001.npz"]


@pytest.mark.parametrize("sampler", ["ddpm", "dpmpp_2m_sde"])
def test_particles_of_a_sample_do_not_depend_on_batches_and_their_shards_are_made_again_to_the_byte(
    tmp_path, model, guide, sampler
):
    how = {"sampler": sampler, "guidance": GuidanceConfig(scale=2.0, particles=3), "num_samples": 8}
    images = generated(tmp_path / "a", model, guide, **how, batch_size=12)
    before, manifest = shard_bytes(tmp_path / "a"), read_manifest(tmp_path / "a")
    (tmp_path / "a" / "shard-00001.npz").unlink()
    generate(config(tmp_path / "a", **how, batch_size=12), model, guide)
    assert shard_bytes(tmp_path / "a") == before
    assert read_manifest(tmp_path / "a") == manifest
    one_at_a_time = generated(tmp_path / "b", model, guide, **how, batch_size=2)
    assert np.abs(images.astype(int) - one_at_a_time).max() <= 1
    measured = manifest["measured"]
    assert [len(measured[name]) for name in ("nats_by_timestep", "ess_by_timestep")] == [4, 5]
    assert measured["nats"] == pytest.approx(sum(nats for _, nats in measured["nats_by_timestep"]))
    assert all(1 / 3 < share <= 1 for _, share in measured["ess_by_timestep"])
    assert manifest["guidance"]["particles"] == 3


def test_one_particle_is_guidance_alone_and_its_manifest_has_the_nats(tmp_path, model, guide):
    plain = generated(tmp_path / "a", model, guide, sampler="ddpm", guidance=GuidanceConfig(scale=2.0))
    one = generated(tmp_path / "b", model, guide, sampler="ddpm", guidance=GuidanceConfig(scale=2.0, particles=1))
    assert np.array_equal(plain, one)
    assert read_manifest(tmp_path / "b") == read_manifest(tmp_path / "a")
    assert read_manifest(tmp_path / "a")["measured"]["nats"] > 0
    assert "particles" not in read_manifest(tmp_path / "a")["guidance"]


def test_two_processes_make_the_bytes_that_one_makes_after_any_interruption(tmp_path, diffusion_run, classifier_run):
    def run_here(out: Path) -> None:
        settings = {"num_samples": 20, "sampler": "ddpm", "guidance": GuidanceConfig(scale=2.0)}
        sample(replace(config(out, **settings), diffusion=diffusion_run, classifier=classifier_run))

    process = tiny.start(
        "sample.py", f"--diffusion={diffusion_run}", f"--classifier={classifier_run}", f"--out={tmp_path / 'two'}",
        "--num_samples=20", "--shard_size=4", "--batch_size=4", "--sampler.steps=5", "--sampler.name=ddpm",
        "--guidance.scale=2", processes=2, threads=2,
    )  # fmt: skip
    status, output = tiny.finish(process)
    assert status == 0, output
    assert " 20/20 " in output  # what both make, each image once
    assert "20 images in " in output
    assert "; 5 network and 5 classifier evaluations an image" in output
    assert made(tmp_path / "two")[1].tolist() == [0, 1] * 10
    run_here(tmp_path / "one")
    assert shard_bytes(tmp_path / "one") == shard_bytes(tmp_path / "two")
    for n in (0, 3):
        (tmp_path / "two" / f"shard-{n:05d}.npz").unlink()
    run_here(tmp_path / "two")
    assert shard_bytes(tmp_path / "one") == shard_bytes(tmp_path / "two")


def test_a_directory_of_other_samples_is_refused_naming_every_difference(tmp_path, model, guide):
    generate(config(tmp_path, num_samples=4), model, guide)
    before = shard_bytes(tmp_path)
    changed = config(tmp_path, num_samples=4, seed=1, guidance=GuidanceConfig(scale=3.0), sampler="ddpm")
    with pytest.raises(ValueError, match="already holds samples made with other settings") as refusal:
        generate(changed, model, guide)
    for difference in ("seed: 0 there, 1 now", "guidance.scale: 1.0 there, 3.0 now", 'sampler.name: "ddim" there'):
        assert difference in str(refusal.value)
    assert "sha256" not in str(refusal.value)
    assert shard_bytes(tmp_path) == before


def test_the_manifest_tells_other_weights_apart(tmp_path, diffusion_run):
    generate(config(tmp_path, num_samples=4), load_diffusion(diffusion_run))
    with pytest.raises(
        ValueError, match=r"(?s)diffusion.sha256: .*diffusion.weights: \"ema_0.9\" there, \"network\" now"
    ):
        generate(config(tmp_path, num_samples=4), load_diffusion(diffusion_run, weights="network"))


def test_a_run_that_was_renamed_continues_its_samples(tmp_path, diffusion_run):
    copied = shutil.copytree(diffusion_run, tmp_path / "renamed")
    generate(config(tmp_path / "out", num_samples=4), load_diffusion(diffusion_run))
    generate(config(tmp_path / "out", num_samples=4), load_diffusion(copied))


def test_an_option_given_at_its_published_value_is_the_option_left_out(tmp_path, model):
    few = {"num_samples": 4, "sampler": "predictor_corrector"}
    generate(config(tmp_path, **few), model)
    generate(config(tmp_path, snr=0.16, langevin_steps=1, **few), model)
    with pytest.raises(ValueError, match="sampler.snr: 0.16 there, 0.1 now"):
        generate(config(tmp_path, snr=0.1, **few), model)


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_samples_begun_before_langevin_had_options_are_continued(tmp_path, model, sampler):
    generate(config(tmp_path, sampler=sampler), model)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    for recorded in ({}, {"snr": None, "langevin_steps": None}):  # as once, and for a while after
        old = {"name": sampler, "steps": 5, "eta": 0.0} | recorded
        (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"sampler": old}))
        generate(config(tmp_path, sampler=sampler), model)


def test_the_manifest_says_what_was_made(tmp_path, model, guide):
    generate(config(tmp_path, labels="light", num_samples=4), model, guide)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert (manifest["num_samples"], manifest["shard_size"]) == (4, 4)
    assert manifest["class_names"] == ["dark", "light"]
    assert manifest["labels"] == [1]
    assert manifest["guidance"] == {"scale": 1.0}
    assert manifest["precision"] == "float32"
    assert manifest["classifier"] == {"name": guide.name, "sha256": guide.sha256}


def test_a_shard_holds_nhwc_pixels_labels_and_ids(tmp_path, model, guide):
    generate(config(tmp_path), model, guide)
    shard = read_shard(tmp_path / "shard-00002.npz")
    assert shard.images.shape == (2, 8, 8, 1)
    assert shard.ids.tolist() == [8, 9]
    assert shard.labels.tolist() == [0, 1]


def test_samples_of_an_unconditional_unguided_model_have_no_label(tmp_path, model):
    generate(config(tmp_path), model)
    assert set(made(tmp_path)[1].tolist()) == {-1}


def test_a_conditional_model_is_told_the_labels(tmp_path, conditional_run):
    seen: list[Tensor] = []
    model = tiny.watched(load_diffusion(conditional_run), lambda x_t, t, y: seen.append(y))
    generate(config(tmp_path, labels="1,0", num_samples=4), model)
    assert all(y.tolist() == [1, 0, 1, 0] for y in seen)
    assert made(tmp_path)[1].tolist() == [1, 0, 1, 0]


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_scale_zero_equals_unguided(tmp_path, model, guide, sampler):
    unguided = generated(tmp_path / "unguided", model, None, sampler=sampler)
    guided = generated(tmp_path / "guided", model, guide, sampler=sampler, guidance=GuidanceConfig(scale=0.0))
    assert np.array_equal(unguided, guided)


def test_outside_its_interval_of_noise_guidance_does_nothing(tmp_path, model, guide):
    called = []

    unguided = generated(tmp_path / "unguided", model)
    watched = tiny.watched(guide, lambda x_t, t: called.append(float(t[0])))
    first = GuidanceConfig(scale=9.0, sigma_min=3.4)  # of levels up to 3.47
    assert not np.array_equal(generated(tmp_path / "first", model, watched, guidance=first), unguided)
    assert len(set(called)) == 1
    generated(tmp_path / "more", model, watched, guidance=replace(first, sigma_min=1.0))
    assert len(set(called)) > 1
    assert 0.0 not in called
    with pytest.raises(ValueError, match="nothing would be guided"):
        generated(tmp_path / "nowhere", model, watched, guidance=replace(first, sigma_min=1e9))


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_guidance_raises_the_classifiers_probability_of_the_class_asked_for(tmp_path, model, guide, sampler):
    log_p: list[float] = []
    for scale in (0.0, 2.0, 10.0):
        generate(
            config(
                tmp_path / str(scale), sampler=sampler, num_samples=32, batch_size=32, shard_size=32, steps=10,
                guidance=GuidanceConfig(scale=scale),
            ),
            model,
            guide,
        )  # fmt: skip
        images, labels = made(tmp_path / str(scale))
        x0 = from_uint8(torch.from_numpy(images).permute(0, 3, 1, 2))
        all_log_p = guide.log_prob(x0, torch.zeros(len(x0)))
        log_p.append(float(all_log_p.gather(1, torch.from_numpy(labels)[:, None]).mean()))
    assert log_p[0] < log_p[1] < log_p[2]
    assert log_p[2] > log_p[0] + 0.1


TILE = 9 * 8  # a pixel of the grid between images, and each pixel 8 times enlarged


@pytest.mark.parametrize(
    ("changes", "mode_size"),
    [({"labels": "all"}, (2, 5)), ({"labels": "1,0", "num_samples": 1}, (1, 1)), ({"labels": "1"}, (1, 10))],
)
def test_the_grid_has_a_row_for_each_class_that_was_made_under_its_name(tmp_path, model, guide, changes, mode_size):
    generate(config(tmp_path, **changes), model, guide)
    rows, columns = mode_size
    with Image.open(tmp_path / "grid.png") as picture:
        assert picture.height == TILE * rows + 8  # tiles have one size, however many there are
        caption = np.asarray(picture)[:, : picture.width - TILE * columns - 8]
    assert caption.shape[1] > 20
    for row in range(rows):
        assert caption[TILE * row : TILE * (row + 1)].min() < 100


def test_the_grid_shows_the_first_samples_of_a_model_without_classes(tmp_path, model):
    images = generated(tmp_path, model)
    with Image.open(tmp_path / "grid.png") as picture:
        pixels = np.asarray(picture)
    assert pixels.shape == (TILE + 8, 10 * TILE + 8)
    assert np.array_equal(pixels[::8, ::8][1:9, 1:9], images[0, :, :, 0])


MISMATCHES = {
    "was trained on clean images only and cannot guide": {"chain": None},
    "cannot guide .*: chain.num_steps is 50 to the diffusion model, but 99 to the classifier, so they mean .* --diff": {
        "chain": ChainConfig(schedule="cosine", num_steps=99)
    },
    r"takes images \(channels, height, width\) \(3, 8, 8\), but .* makes \(1, 8, 8\)": {"in_channels": 3},
    r"\(1, 16, 16\), but .* makes \(1, 8, 8\)": {"image_size": 16},
    'label 1 is "bright" to .*, but "light" to': {"class_names": ("dark", "bright")},
    "knows 3 classes, the diffusion model's data had 2": {"class_names": ("dark", "light", "lighter")},
    'knows one class only, "dark": its gradient is 0': {"class_names": ("dark",)},
}


@pytest.mark.parametrize("message", MISMATCHES)
def test_a_classifier_that_does_not_fit_is_refused_naming_the_difference(tmp_path, model, guide, message):
    changes = dict(MISMATCHES[message])
    if "class_names" in changes:  # of a model that is conditioned on its classes; another one takes any
        conditional = replace(model.config.network, num_classes=len(model.config.class_names))
        model = replace(model, config=replace(model.config, network=conditional))
        changes |= {"network": replace(guide.config.network, num_classes=len(changes["class_names"]))}
    elif "chain" not in changes:
        changes = {"network": replace(guide.config.network, **changes)}
    with pytest.raises(ValueError, match=message):
        generate(config(tmp_path / "out"), model, replace(guide, config=replace(guide.config, **changes)))
    assert not (tmp_path / "out").exists()


def test_a_classifier_that_fits_is_accepted(model, guide):
    Guidance(model=model, classifier=guide, config=GuidanceConfig(scale=2.0))


def test_a_judge_of_clean_images_is_refused_as_a_guide(tmp_path, model, judge_run):
    with pytest.raises(ValueError, match="clean images only and cannot guide; train one with --diffusion"):
        generate(config(tmp_path), model, load_classifier(judge_run))


def test_a_classifier_of_another_chain_on_disk_is_refused(tmp_path, class_folder, diffusion_run):
    longer = tiny.diffusion_config(tmp_path / "longer", class_folder, iterations=1)
    train_diffusion(replace(longer, chain=replace(tiny.CHAIN, num_steps=60)))
    train_classifier(
        tiny.classifier_config(tmp_path / "guide", class_folder, diffusion=tmp_path / "longer", iterations=1)
    )
    with pytest.raises(ValueError, match="chain.num_steps is 50 to the diffusion model, but 60 to the classifier"):
        Guidance(model=load_diffusion(diffusion_run), classifier=load_classifier(tmp_path / "guide"))


def test_a_scale_without_a_classifier_is_refused(tmp_path, model):
    with pytest.raises(ValueError, match=r"without a classifier \(guidance.scale 4\); add"):
        generate(config(tmp_path, guidance=GuidanceConfig(scale=4.0)), model)


def test_labels_without_anyone_to_be_told_are_refused(tmp_path, model):
    with pytest.raises(ValueError, match="labels 1 were asked for, but .* is not conditioned on the class and"):
        generate(config(tmp_path, labels=1), model)


REFUSED = {
    'there is no label "7": the model has 2 classes': {"labels": 7},
    "batch_size must be at least 1, got 0": {"batch_size": 0},
    "shard_size must be at least 1, got 0": {"shard_size": 0},
    "num_samples must be at least 1, got -3": {"num_samples": -3},
    "eta is the share of ancestral noise, between 0 and 1; got 1.5": {"eta": 1.5},
    "eta 0.5 was given to ddpm": {"sampler": "ddpm", "eta": 0.5},
    "asked for 51 sampling steps from a section of 50": {"sampler": "ddpm", "steps": 51},
    'cannot read the timesteps "some"': {"steps": "some"},
}


@pytest.mark.parametrize("message", REFUSED)
def test_settings_that_cannot_be_are_refused_before_anything_is_written(tmp_path, model, guide, message):
    with pytest.raises(ValueError, match=message):
        generate(config(tmp_path / "out", **REFUSED[message]), model, guide)
    assert not (tmp_path / "out").exists()
