"""Enlarging base samples: from any source the same, whoever makes them, labels carried, misfits refused.

Over 300 lines because every promise of one command is held here, on the same tiny runs.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from oracles.published import as_command_line
from PIL import Image
from torch import Tensor

from classifiers.trained_model import load_classifier
from guided_diffusion.commands.import_openai import ImportConfig, import_openai
from guided_diffusion.commands.sample import SampleConfig, sample, write_cascade
from guided_diffusion.commands.train_diffusion import train_diffusion
from guided_diffusion.commands.train_upsampler import train_upsampler
from guided_diffusion.commands.upsample import UpsampleConfig, upsample
from guided_diffusion.config import to_plain
from guided_diffusion.data.formats.samples import Shard, iterate_shards, open_manifest, write_shard
from guided_diffusion.data.image_set import open_image_set
from guided_diffusion.diffusion.denoiser import NetworkDenoiser
from guided_diffusion.diffusion.images import from_uint8, to_uint8
from guided_diffusion.diffusion.model import UpsamplerModelConfig, load_diffusion, load_upsampler
from guided_diffusion.diffusion.noise import SeededNoise
from guided_diffusion.files import file_sha256
from guided_diffusion.generation.cascade import UpsamplingRun, stage_seed, stored_base
from guided_diffusion.generation.config import SamplingConfig
from guided_diffusion.models.upsampler import Upsampler, UpsamplerConfig
from guided_diffusion.openai import Converted, revert
from guided_diffusion.samplers import SamplerConfig, ddim

COUNT = 10
LABELS = np.repeat([0, 1], 5)  # in the order of class folders, so that every source has them


@pytest.fixture(scope="module")
def told(shared: Path, class_folder: Path) -> Path:
    """Run directory of an upsampler from 4 to 8 pixels that is told the class."""

    def make(out: Path) -> None:
        train_upsampler(tiny.upsampler_config(out, class_folder, class_conditional=True, iterations=2))

    return tiny.made_once(shared / "told_upsampler", make)


@pytest.fixture(scope="module")
def untold(shared: Path, class_folder: Path) -> Path:
    """Run directory of one that is not, trained for long enough to look at what it enlarges."""

    def make(out: Path) -> None:
        tried = tiny.upsampler_config(out, class_folder, iterations=150, learning_rate=3e-3)
        train_upsampler(replace(tried, prediction="x0"))  # which learns sooner than eps to look at the low-res image

    return tiny.made_once(shared / "untold_upsampler", make)


@pytest.fixture(scope="module")
def small_diffusion(shared: Path, class_folder: Path) -> Path:
    """Run directory of a class-conditional diffusion model of 4 pixels."""

    def make(out: Path) -> None:
        network = tiny.encoder(image_size=4)
        train_diffusion(tiny.diffusion_config(out, class_folder, network=network, class_conditional=True, iterations=2))

    return tiny.made_once(shared / "small_diffusion", make)


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (COUNT, 4, 4, 1), dtype=np.uint8)


def save_shards(
    path: Path, pixels: np.ndarray, labels: np.ndarray = LABELS, *, names: tuple[str, ...] = ("dark", "light"), **made
) -> Path:
    open_manifest(path, {"num_samples": len(pixels), "shard_size": 3, "class_names": names, **made})
    for n, start in enumerate(range(0, len(pixels), 3)):
        ids = np.arange(len(pixels))[start : start + 3]
        write_shard(path, n, Shard(images=pixels[ids], labels=labels[ids], ids=ids))
    return path


def save_npz(path: Path, pixels: np.ndarray, **labels: np.ndarray) -> Path:
    np.savez(path, arr_0=pixels, **labels)
    return path


def save_folder(path: Path, pixels: np.ndarray, labels: np.ndarray | None) -> Path:
    for n, image in enumerate(pixels):
        parent = path if labels is None else path / ("dark", "light")[labels[n]]
        parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.squeeze()).save(parent / f"{n:03d}.png")
    return path


@pytest.fixture
def base(tmp_path: Path, pixels: np.ndarray) -> Path:
    return save_shards(tmp_path / "base", pixels, seed=0)


def config(upsampler: Path, base: Path, out: Path, **changes) -> UpsampleConfig:
    few = {"batch_size": 4, "shard_size": 4, "steps": 5}
    return UpsampleConfig(upsampler=upsampler, base=base, out=out, **tiny.sampling(**(few | changes)))


def enlarged(upsampler: Path, base: Path, out: Path, **changes) -> tuple[np.ndarray, np.ndarray]:
    upsample(config(upsampler, base, out, **changes))
    shards = list(iterate_shards(out))
    return np.concatenate([shard.images for shard in shards]), np.concatenate([shard.labels for shard in shards])


def shard_bytes(directory: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(directory.glob("shard-*.npz"))}


def manifest(directory: Path) -> dict:
    return json.loads((directory / "manifest.json").read_text())


SOURCES: dict[str, Callable[[Path, np.ndarray], Path]] = {
    "npz": lambda path, pixels: save_npz(path / "x.npz", pixels, arr_1=LABELS),
    "class folder": lambda path, pixels: save_folder(path / "x", pixels, LABELS),
}


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_is_enlarged_to_the_bytes_that_shards_are(tmp_path, told, base, pixels, source):
    other = SOURCES[source](tmp_path, pixels)
    images, labels = enlarged(told, base, tmp_path / "a")
    enlarged(told, other, tmp_path / "b")
    assert shard_bytes(tmp_path / "a") == shard_bytes(tmp_path / "b")
    assert images.shape == (COUNT, 8, 8, 1)
    assert len(np.unique(images, axis=0)) == COUNT
    assert labels.tolist() == LABELS.tolist()
    assert (tmp_path / "a" / "grid.png").exists()


@pytest.mark.parametrize("source", ["npz", "folder"])
def test_an_upsampler_without_classes_takes_images_without_labels(tmp_path, untold, base, pixels, source):
    plain = tmp_path / "plain.npz"
    plain = save_npz(plain, pixels) if source == "npz" else save_folder(tmp_path / "plain", pixels, None)
    images, labels = enlarged(untold, plain, tmp_path / "a")
    assert set(labels.tolist()) == {-1}
    carried, carried_labels = enlarged(untold, base, tmp_path / "b")
    assert np.array_equal(images, carried)
    assert carried_labels.tolist() == LABELS.tolist()
    assert manifest(tmp_path / "b")["class_names"] == ["dark", "light"]


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_enlargements_are_as_dark_or_light_as_what_they_enlarge(tmp_path, untold, sampler):
    levels = np.where(np.arange(COUNT) % 3 == 0, 205, 50).astype(np.uint8)  # of the two classes in training
    flat = np.broadcast_to(levels[:, None, None, None], (COUNT, 4, 4, 1))
    images, _ = enlarged(untold, save_npz(tmp_path / "x.npz", flat), tmp_path / "out", sampler=sampler, steps=25)
    means = images.reshape(COUNT, -1).mean(axis=1)
    assert np.abs(means - levels).max() < 30  # the classes are 155 apart


def test_the_network_sees_the_base_image_its_label_and_noise_of_its_id_whatever_the_batch_size(
    tmp_path, told, base, pixels, monkeypatch
):
    def recorded(**changes) -> dict[int, tuple[list, int, bytes]]:
        seen: list[tuple[list, int, bytes]] = []

        def forward(self: Upsampler, x_t: Tensor, t: Tensor, y: Tensor, *, low_res: Tensor) -> Tensor:
            rows = zip(low_res, y.tolist(), x_t, strict=True)
            first = [(image.tolist(), label, x_T.numpy().tobytes()) for image, label, x_T in rows]
            seen.extend(first if t[0] > 0 else [])
            return x_t.repeat(1, 2, 1, 1)

        monkeypatch.setattr(Upsampler, "forward", forward)
        upsample(config(told, base, tmp_path / str(changes), sampler="ddpm", steps=2, **changes))
        return dict(enumerate(seen))

    reference = recorded(batch_size=4, shard_size=4)
    low_res = np.array([image for image, _, _ in reference.values()], dtype=np.float32)
    assert np.array_equal(low_res, np.moveaxis(pixels.astype(np.float32) / 127.5 - 1, 3, 1))
    assert [label for _, label, _ in reference.values()] == LABELS.tolist()
    assert len({noise for _, _, noise in reference.values()}) == COUNT
    assert recorded(batch_size=7, shard_size=10) == reference
    assert recorded(batch_size=1, shard_size=3) == reference


def test_labels_reach_the_network(tmp_path, told, pixels):
    def with_labels(label: int) -> np.ndarray:
        labels = np.full(COUNT, label)
        source = save_npz(tmp_path / f"{label}.npz", pixels, arr_1=labels)
        return enlarged(told, source, tmp_path / str(label))[0]

    assert not np.array_equal(with_labels(0), with_labels(1))


def test_a_sample_its_enlargement_and_that_ones_own_share_no_noise():
    # One seed for all stages would begin the enlargement's noise with the very numbers that the base sample began with.
    configs = [
        UpsamplerModelConfig(
            network=UpsamplerConfig(**vars(tiny.encoder(image_size=size)), low_res_size=4), chain=tiny.CHAIN
        )
        for size in (8, 16)
    ]
    for seed in (0, 7, -1, 8 << 32):
        seeds = [seed, *(stage_seed(seed, config) for config in configs)]
        draws = [SeededNoise(each, [3])(torch.empty(1, 4)) for each in seeds]
        assert len({tuple(draw.flatten().tolist()) for draw in draws}) == 3


def test_only_missing_shards_are_made_again_and_to_the_byte(tmp_path, told, base):
    out = tmp_path / "out"
    upsample(config(told, base, out))
    before, times = shard_bytes(out), {file.name: file.stat().st_mtime_ns for file in out.glob("shard-*")}
    assert len(before) == 3
    (out / "shard-00001.npz").unlink()
    upsample(config(told, base, out))
    assert shard_bytes(out) == before
    remade = [file.name for file in out.glob("shard-*") if file.stat().st_mtime_ns != times[file.name]]
    assert remade == ["shard-00001.npz"]


def test_two_processes_make_the_bytes_that_one_makes_after_any_interruption(tmp_path, told, base):
    process = tiny.start(
        "upsample.py", f"--upsampler={told}", f"--base={base}", f"--out={tmp_path / 'two'}", "--shard_size=2",
        "--batch_size=2", "--sampler.steps=5", "--sampler.name=ddpm", "--seed=3", processes=2, threads=2,
    )  # fmt: skip
    status, output = tiny.finish(process)
    assert status == 0, output
    assert " 10/10 " in output  # what both make, each image once
    assert "; 5 network evaluations an image" in output
    settings = {"shard_size": 2, "batch_size": 2, "sampler": "ddpm", "seed": 3}
    upsample(config(told, base, tmp_path / "one", **settings))
    assert shard_bytes(tmp_path / "one") == shard_bytes(tmp_path / "two")
    for n in (0, 3):
        (tmp_path / "two" / f"shard-{n:05d}.npz").unlink()
    upsample(config(told, base, tmp_path / "two", **settings))
    assert shard_bytes(tmp_path / "one") == shard_bytes(tmp_path / "two")


def test_the_manifest_says_what_was_enlarged_and_by_what(tmp_path, told, base, pixels):
    enlarged(told, base, tmp_path / "a", seed=5)
    found, model = manifest(tmp_path / "a"), load_upsampler(told)
    assert (found["num_samples"], found["shard_size"], found["seed"]) == (COUNT, 4, 5)
    assert found["class_names"] == ["dark", "light"]
    assert found["sampler"] == {"name": "ddim", "steps": 5, "eta": 0.0}
    assert found["base"] == {"manifest": manifest(base)}
    assert found["upsampler"] == {
        "name": f"told_upsampler/{model.checkpoint.path.name}",
        "weights": "ema_0.9",
        "sha256": file_sha256(model.checkpoint.weights_file("ema_0.9")),
    }
    sources = {
        "as an array": save_npz(tmp_path / "x.npz", pixels, arr_1=LABELS),
        "as pictures": save_folder(tmp_path / "x", pixels, LABELS),
        "other labels": save_npz(tmp_path / "y.npz", pixels, arr_1=1 - LABELS),
        "other pixels": save_npz(tmp_path / "z.npz", 255 - pixels, arr_1=LABELS),
    }
    hashes = {}
    for name, source in sources.items():
        enlarged(told, source, tmp_path / name)
        assert manifest(tmp_path / name)["class_names"] == ["dark", "light"]
        hashes[name] = manifest(tmp_path / name)["base"]["sha256"]
    assert hashes["as an array"] == hashes["as pictures"]
    assert len(set(hashes.values())) == 3


def test_a_directory_of_other_enlargements_is_refused_naming_every_difference(tmp_path, told, base, pixels):
    enlarged(told, base, tmp_path / "out")
    before = shard_bytes(tmp_path / "out")
    other = save_shards(tmp_path / "other", pixels, seed=1)
    with pytest.raises(ValueError, match="already holds samples made with other settings") as refusal:
        upsample(config(told, other, tmp_path / "out", weights="network", clip=2.0))
    for difference in ("base.manifest.seed: 0 there, 1 now", "clip: 1.0 there, 2.0 now", "upsampler.sha256: "):
        assert difference in str(refusal.value)
    assert shard_bytes(tmp_path / "out") == before


REFUSED: dict[str, Callable[[Path, np.ndarray], Path]] = {
    r"x\.npz holds images \(channels, height, width\) \(1, 2, 2\), but .* enlarges \(1, 4, 4\)": (
        lambda path, pixels: save_npz(path / "x.npz", pixels[:, :2, :2], arr_1=LABELS)
    ),
    r"folder holds images \(channels, height, width\) \(1, 8, 8\), but .* enlarges \(1, 4, 4\)": (
        lambda path, pixels: save_folder(path / "folder", pixels.repeat(2, axis=1).repeat(2, axis=2), LABELS)
    ),
    r"x\.npz holds images \(channels, height, width\) \(3, 4, 4\), but .* enlarges \(1, 4, 4\)": (
        lambda path, pixels: save_npz(path / "x.npz", pixels.repeat(3, axis=3), arr_1=LABELS)
    ),
    r"is conditioned on the class of each image, but .*x\.npz has no labels; give samples with labels": (
        lambda path, pixels: save_npz(path / "x.npz", pixels)
    ),
    r"is conditioned on the class of each image, but .*folder has no labels": (
        lambda path, pixels: save_folder(path / "folder", pixels, None)
    ),
    r"x has images of label -1 \(none\), but .* knows labels 0 to 1": (
        lambda path, pixels: save_shards(path / "x", pixels, np.where(np.arange(COUNT) == 7, -1, LABELS))
    ),
    r"x\.npz has images of label 2, but .* knows labels 0 to 1": (
        lambda path, pixels: save_npz(path / "x.npz", pixels, arr_1=LABELS + 1)
    ),
    'cannot enlarge .*x: label 1 is "bright" to the base, but "light" to the upsampler': (
        lambda path, pixels: save_shards(path / "x", pixels, names=("dark", "bright"))
    ),
    "cannot enlarge .*x: the base knows 3 classes, the upsampler's data had 2": (
        lambda path, pixels: save_shards(path / "x", pixels, names=("dark", "light", "lighter"))
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_a_base_that_does_not_fit_is_refused_naming_the_difference(tmp_path, told, pixels, message):
    source = REFUSED[message](tmp_path, pixels)
    with pytest.raises(ValueError, match=message):
        upsample(config(told, source, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_classes_do_not_matter_to_an_upsampler_that_is_told_none(tmp_path, untold, pixels):
    source = save_shards(tmp_path / "x", pixels, LABELS + 5, names=tuple("abcdefg"))
    assert enlarged(untold, source, tmp_path / "out")[1].tolist() == (LABELS + 5).tolist()
    assert manifest(tmp_path / "out")["class_names"] == list("abcdefg")


def test_a_missing_base_or_upsampler_is_refused(tmp_path, told, base, diffusion_run):
    with pytest.raises(FileNotFoundError, match="there is nothing at .*absent"):
        upsample(config(told, tmp_path / "absent", tmp_path / "out"))
    with pytest.raises(FileNotFoundError, match="no checkpoint at .*absent"):
        upsample(config(tmp_path / "absent", base, tmp_path / "out"))
    with pytest.raises(ValueError, match='kind "diffusion", but kind "upsampler" is needed'):
        upsample(config(diffusion_run, base, tmp_path / "out"))


def sample_config(small_diffusion: Path, told: Path, out: Path, **changes) -> SampleConfig:
    few = {"num_samples": 6, "batch_size": 3, "shard_size": 4, "steps": 5, "seed": 2, "labels": "1,0"}
    return tiny.sample_config(out, diffusion=small_diffusion, upsampler=told, **(few | changes))


def write_upsampled(config: SampleConfig, model, classifier=None) -> None:
    write_cascade(tiny.sampling_run(config, model, classifier), config)


def test_sampling_with_an_upsampler_makes_what_the_two_commands_make(tmp_path, small_diffusion, told):
    process = tiny.start(
        "sample.py", f"--diffusion={small_diffusion}", f"--upsampler={told}", f"--out={tmp_path / 'one'}",
        "--num_samples=6", "--batch_size=3", "--shard_size=4", "--sampler.steps=5", "--seed=2", "--labels=1,0",
    )  # fmt: skip
    status, output = tiny.finish(process)
    assert status == 0, output
    settings = sample_config(small_diffusion, told, tmp_path / "base")
    tiny.generate(settings, load_diffusion(small_diffusion))
    _, labels = enlarged(told, tmp_path / "base", tmp_path / "two", seed=2, batch_size=3)
    assert shard_bytes(tmp_path / "one" / "base") == shard_bytes(tmp_path / "base")
    assert shard_bytes(tmp_path / "one") == shard_bytes(tmp_path / "two")
    assert manifest(tmp_path / "one") == manifest(tmp_path / "two")
    assert labels.tolist() == [1, 0] * 3
    before = shard_bytes(tmp_path / "one")
    (tmp_path / "one" / "shard-00001.npz").unlink()
    (tmp_path / "one" / "base" / "shard-00000.npz").unlink()
    sample(replace(settings, out=tmp_path / "one"))
    assert shard_bytes(tmp_path / "one") == before


def test_an_upsampler_that_does_not_fit_is_refused_before_anything_is_sampled(
    tmp_path, class_folder, small_diffusion, diffusion_run, classifier_run, told
):
    out, model = tmp_path / "out", load_diffusion(small_diffusion)
    guided = load_diffusion(diffusion_run), load_classifier(classifier_run)
    with pytest.raises(ValueError, match=r"\(1, 8, 8\), but .* enlarges \(1, 4, 4\)"):
        write_upsampled(sample_config(diffusion_run, told, out, labels="all"), *guided)
    with pytest.raises(ValueError, match="asked for 99 sampling steps of a chain of 50"):
        write_upsampled(sample_config(small_diffusion, told, out, steps=99), model)
    renamed = replace(model, config=replace(model.config, class_names=("dark", "bright")))
    with pytest.raises(ValueError, match='label 1 is "bright" to the base'):
        write_upsampled(sample_config(small_diffusion, told, out), renamed, None)
    short = tiny.upsampler_config(tmp_path / "short", class_folder, iterations=1)
    train_upsampler(replace(short, chain=replace(tiny.CHAIN, num_steps=10)))
    with pytest.raises(ValueError, match="asked for 25 sampling steps of a chain of 10"):
        write_upsampled(sample_config(small_diffusion, tmp_path / "short", out, steps=25), model)
    assert not out.exists()
    plain = sample_config(small_diffusion, told, out)
    tiny.generate(replace(plain, upsampler=None), model)
    with pytest.raises(ValueError, match="already holds samples made with other settings"):
        write_upsampled(plain, model)
    assert not (out / "base").exists()


def test_an_upsampler_in_the_published_layout_enlarges_as_it_did_before_it_was_exported(tmp_path):
    network = UpsamplerConfig(
        image_size=8, low_res_size=4, base_channels=32, channel_mult=(1.0, 2.0), attention_sizes=(4,), head_channels=32,
        blocks_per_level=1, num_classes=3,
    )  # fmt: skip
    torch.manual_seed(0)
    ours = tiny.awakened(Upsampler(network)).eval().requires_grad_(False)
    described = UpsamplerModelConfig(network=network, chain=tiny.CHAIN)
    published = revert(Converted("upsampler", to_plain(described), ours.state_dict()))
    torch.save(dict(published.weights), tmp_path / "published.pt")
    flags = as_command_line(published.flags)
    import_openai(ImportConfig(file=tmp_path / "published.pt", out=tmp_path / "run", flags=flags))

    pixels = np.random.default_rng(1).integers(0, 256, (4, 4, 4, 3), dtype=np.uint8)
    labels = np.array([2, 0, 1, 2])
    source = save_npz(tmp_path / "x.npz", pixels, arr_1=labels)
    images, carried = enlarged(tmp_path / "run", source, tmp_path / "out", batch_size=4)

    chain = SamplerConfig(steps=5).levels(tiny.CHAIN)
    noise = SeededNoise(stage_seed(0, described), range(4))
    low_res = from_uint8(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    denoiser = NetworkDenoiser(
        lambda x_t, t: ours(x_t, t, torch.from_numpy(labels), low_res=low_res), "eps", "learned_range"
    )
    expected = to_uint8(ddim(denoiser, chain, noise(torch.empty(4, 3, 8, 8)), noise))
    assert np.array_equal(np.moveaxis(images, 3, 1), expected)
    assert len(np.unique(images)) > 50  # the random network does something
    assert carried.tolist() == labels.tolist()


@pytest.fixture(scope="module")
def told_noise(shared: Path, class_folder: Path) -> Path:
    """Run directory of an upsampler that is told the noise of what it enlarges, up to a rate of 0.5."""

    def make(out: Path) -> None:
        plain = tiny.upsampler_config(out, class_folder, class_conditional=True, iterations=30, learning_rate=3e-3)
        train_upsampler(replace(plain, conditioning_noise=0.5))

    return tiny.made_once(shared / "noise_upsampler", make)


def test_the_base_is_noised_by_each_samples_own_generator_and_the_network_told(tmp_path, told_noise, base):
    clean, _ = enlarged(told_noise, base, tmp_path / "clean")
    noised, _ = enlarged(told_noise, base, tmp_path / "noised", conditioning_noise=0.3)
    assert not np.array_equal(clean, noised)
    for name, changes in (("one by one", {"batch_size": 1, "shard_size": 3}), ("all", {"batch_size": 10})):
        again, _ = enlarged(told_noise, base, tmp_path / name, conditioning_noise=0.3, **changes)
        assert np.abs(again.astype(int) - noised).max() <= 1  # another batch size may move a pixel by one level
    assert manifest(tmp_path / "noised")["conditioning_noise"] == 0.3
    assert "conditioning_noise" not in manifest(tmp_path / "clean")
    with pytest.raises(ValueError, match="conditioning_noise: 0.3 there, absent now"):
        upsample(config(told_noise, base, tmp_path / "noised"))


def test_what_the_network_sees_is_the_base_noised_after_x_T_was_drawn(told_noise, base, pixels):
    seen = []
    upsampler = tiny.watched(load_upsampler(told_noise), lambda *given, **named: seen.append((given, named)))
    run = UpsamplingRun(
        settings=SamplingConfig(seed=3, sampler=SamplerConfig(steps=5)), upsampler=upsampler,
        base=stored_base(open_image_set(base)), conditioning_noise=0.3,
    )  # fmt: skip
    low_res = from_uint8(torch.from_numpy(pixels[:2]).permute(0, 3, 1, 2))
    run.x0(run.plan(shard_size=4).batch(range(2), device=torch.device("cpu")), low_res)
    again = SeededNoise(stage_seed(3, upsampler.config), range(2))
    x_T, eps = again(torch.empty(2, 1, 8, 8)), again(low_res)
    (x_t, _), named = seen[0]
    assert torch.equal(x_t, x_T)
    torch.testing.assert_close(named["low_res"], (1 - 0.3**2) ** 0.5 * low_res + 0.3 * eps, rtol=0, atol=1e-6)
    assert torch.equal(named["conditioning_noise"], torch.tensor([0.3, 0.3]))


def test_noise_that_an_upsampler_was_not_trained_on_is_refused_before_anything_is_made(
    tmp_path, told, told_noise, small_diffusion, base
):
    out, model = tmp_path / "out", load_diffusion(small_diffusion)
    for rate in (0.6, -0.1):
        with pytest.raises(ValueError, match=f"{rate} was asked for, but .* was trained on rates from 0 to 0.5"):
            upsample(config(told_noise, base, out, conditioning_noise=rate))
    for refused in (
        lambda: upsample(config(told, base, out, conditioning_noise=0.1)),
        lambda: write_upsampled(sample_config(small_diffusion, told, out, conditioning_noise=0.1), model),
    ):
        with pytest.raises(ValueError, match="0.1 was asked for, but .* on clean low-resolution images alone, rate 0"):
            refused()
    assert not out.exists()
    with pytest.raises(ValueError, match="conditioning_noise 0.1 is for images to be enlarged; add --upsampler RUN"):
        tiny.sample_config(out, conditioning_noise=0.1)


def test_sampling_with_an_upsampler_noises_between_the_two(tmp_path, small_diffusion, told_noise):
    settings = sample_config(small_diffusion, told_noise, tmp_path / "one", conditioning_noise=0.2)
    write_upsampled(settings, load_diffusion(small_diffusion))
    changes = {"seed": 2, "batch_size": 3, "conditioning_noise": 0.2}
    enlarged(told_noise, tmp_path / "one" / "base", tmp_path / "two", **changes)
    assert shard_bytes(tmp_path / "one") == shard_bytes(tmp_path / "two")
