"""The protocol: records of samples, of pictures without a manifest, and of the real images."""

import json
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from evaluation.pixel_extractor import PixelExtractor, noisy_images, save_class_folders, save_samples
from evaluation.reports import MANIFEST, protocol

from classifiers.trained_model import load_classifier
from guided_diffusion.data.formats.samples import read_manifest
from guided_diffusion.data.formats.tree import files_sha256
from guided_diffusion.diffusion.model import load_diffusion
from guided_diffusion.evaluation.config import EvaluationConfig
from guided_diffusion.evaluation.extractors.inception import WEIGHTS as INCEPTION
from guided_diffusion.evaluation.protocol import flat, flat_protocol, sampling_record, versions
from guided_diffusion.evaluation.run import evaluate
from guided_diffusion.files import file_sha256
from guided_diffusion.guidance.config import GuidanceConfig

LABELS = torch.arange(3).repeat_interleave(10)


def test_a_manifest_is_said_in_flat_words() -> None:
    assert sampling_record(MANIFEST) == {
        "seed": 7,
        "labels": "all 3 classes in turn",
        "model": "adm/checkpoint-1",
        "weights": "ema_0.9999",
        "weights_sha256": "d" * 64,
        "sampler": "ddim",
        "steps": 25,
        "eta": 0.0,
        "clip": 1.0,
        "precision": "float32",
        "scale": 2.0,
        "classifier": "guide/checkpoint-2",
        "classifier_sha256": "c" * 64,
    }


def test_what_our_own_samples_say_is_all_known(tmp_path, diffusion_run, classifier_run) -> None:
    config = tiny.sample_config(
        tmp_path / "samples",
        num_samples=2,
        steps=2,
        seed=11,
        guidance=GuidanceConfig(scale=3.0, sigma_max=20.0),
    )
    model, guide = load_diffusion(diffusion_run), load_classifier(classifier_run)
    tiny.generate(config, model, guide)
    record = sampling_record(read_manifest(config.out))
    assert "unknown" not in record.values()
    assert (record["seed"], record["sampler"], record["steps"], record["scale"]) == (11, "ddim", 2, 3.0)
    assert record["guidance.sigma_max"] == 20.0
    assert record["weights"] == model.weights
    assert record["weights_sha256"] == file_sha256(model.checkpoint.weights_file(model.weights))
    assert record["classifier_sha256"] == guide.sha256


def test_no_value_that_pixels_depend_on_is_left_out() -> None:
    guidance = {
        "scale": 2.0,
        "sigma_max": 5.5,
        "class_scales": {"1": 8.25},
        "further": [{"name": "third", "sha256": "3" * 64, "scale": 0.125}],
        "weak": {"name": "small", "weights": "network", "sha256": "9" * 64, "weight": 1.75},
    }
    manifest = MANIFEST | {"guidance": guidance, "inpainting": {"mask_sha256": "5" * 64}, "clip": {"quantile": 0.995}}
    said = " ".join(map(str, sampling_record(manifest).values()))
    told = {name: value for name, value in flat(manifest).items() if not name.startswith(("environments", "labels"))}
    missing = [name for name, value in told.items() if str(value) not in said]
    assert missing == ["num_samples", "shard_size", "class_names"]  # which are of the set, not of a sample
    assert sampling_record(manifest)["guidance.further.0.scale"] == 0.125


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([0, 1, 2], "all 3 classes in turn"),
        ([2, 0], "in turn [2, 0]"),
        (None, "none"),
        ({"policy": "uniform"}, "uniform"),
        ({"policy": "file", "name": "l.txt", "count": 9, "sha256": "ab"}, "file, name l.txt, count 9, sha256 ab"),
        ({"policy": "frequencies", "weights": [3, 4]}, "frequencies, weights [3, 4]"),
    ],
)
def test_the_policy_of_labels_is_said_in_words(labels: Any, words: str) -> None:
    assert sampling_record(MANIFEST | {"labels": labels})["labels"] == words


def test_long_lists_differ_by_their_hashes() -> None:
    first, second = (sampling_record(MANIFEST | {"labels": [*range(1, 999), last]})["labels"] for last in (7, 8))
    assert first.startswith("in turn 999 values, SHA-256 ")
    assert first != second


def test_what_samples_go_without_is_none_and_what_is_not_told_unknown() -> None:
    record = sampling_record({"num_samples": 3, "seed": 1, "guidance": None, "classifier": None})
    assert (record["scale"], record["classifier"], record["classifier_sha256"]) == ("none", "none", "none")
    assert (record["sampler"], record["weights_sha256"], record["labels"]) == ("unknown", "unknown", "unknown")


def test_a_key_that_a_manifest_lacks_is_unknown_and_none_only_where_it_says_so() -> None:
    record = sampling_record({
        "seed": 1,
        "sampler": {"name": "ddim", "steps": None},
        "diffusion": "adm",
        "classifier": {"name": "guide"},
        "guidance": {},
    })  # fmt: skip
    assert (record["sampler"], record["steps"], record["eta"]) == ("ddim", "none", "unknown")
    assert (record["classifier"], record["classifier_sha256"], record["scale"]) == ("guide", "unknown", "unknown")
    assert (record["model"], record["weights_sha256"], record["diffusion"]) == ("unknown", "unknown", "adm")


def test_guidance_without_a_classifier_has_no_scale() -> None:
    record = sampling_record(MANIFEST | {"classifier": None, "guidance": {"free_weight": 1.5}})
    assert (record["scale"], record["guidance.free_weight"]) == ("none", 1.5)


def test_enlarged_samples_say_how_their_base_was_made_as_well() -> None:
    own = {"name": "up/checkpoint-3", "weights": "ema_0.9999", "sha256": "9" * 64}
    enlarged = {name: MANIFEST[name] for name in ("num_samples", "class_names", "sampler", "clip", "precision")}
    manifest = enlarged | {"seed": 8, "upsampler": own, "base": {"manifest": MANIFEST}}
    record = sampling_record(manifest)
    assert (record["seed"], record["weights_sha256"], record["labels"]) == (8, "9" * 64, "the base's")
    assert (record["base.seed"], record["base.weights_sha256"], record["base.scale"]) == (7, "d" * 64, 2.0)
    assert "unknown" not in record.values()
    of_pictures = sampling_record(manifest | {"base": {"sha256": "8" * 64}})
    assert of_pictures["base.sha256"] == "8" * 64


def protocol_of(generated: Path, real: Path) -> dict[str, Any]:
    config = EvaluationConfig(kid_subset_size=5)
    found = evaluate(
        generated=generated, real=real, extractor=PixelExtractor(), config=config, out=generated.parent / "report.json"
    )
    assert json.loads(json.dumps(found.protocol)) == found.protocol
    return dict(found.protocol)


@pytest.fixture
def real(tmp_path: Path) -> Path:
    return save_class_folders(tmp_path / "real", noisy_images(LABELS, seed=1), LABELS)


def test_samples_are_told_from_pictures_that_say_nothing_of_their_making(tmp_path, real) -> None:
    images = noisy_images(LABELS, seed=0)
    samples = save_samples(tmp_path / "samples", images, LABELS, **{"sampler": {"name": "ddpm"}})
    told = protocol_of(samples, real)["generated"]
    assert (told["sampling"]["seed"], told["sampling"]["sampler"]) == (7, "ddpm")
    np.savez(tmp_path / "batch.npz", arr_0=images.numpy())
    told = protocol_of(tmp_path / "batch.npz", real)["generated"]
    assert set(told["sampling"].values()) == {told["made_on"]} == {"unknown"}
    assert told["sha256"] == file_sha256(tmp_path / "batch.npz")


def test_published_statistics_say_no_more_than_their_hash(tmp_path, real) -> None:
    np.savez(tmp_path / "published.npz", mu=np.zeros(5), sigma=np.eye(5))
    network = PixelExtractor(published=INCEPTION)
    found = evaluate(
        generated=real, real=tmp_path / "published.npz", extractor=network, out=tmp_path / "report.json"
    ).protocol["real"]
    assert found["sha256"] == file_sha256(tmp_path / "published.npz")
    assert {found[name] for name in ("num_images", "image_size", "channels", "resize", "record")} == {"unknown"}


def test_pictures_are_told_by_their_files_and_both_sides_by_their_features(tmp_path, real) -> None:
    told = protocol_of(real, real)
    generated, compared_with = told["generated"], told["real"]
    assert generated["files_sha256"] == compared_with["files_sha256"] == files_sha256(real)
    assert generated["features"] == compared_with["features"]
    assert generated["features"]["mean_norm"] > 0
    samples = save_samples(tmp_path / "samples", noisy_images(LABELS, seed=0), LABELS)
    other = protocol_of(samples, real)["generated"]
    assert other["features"] != generated["features"]
    assert "files_sha256" not in other  # a manifest tells them, however they are dated


def test_as_many_samples_are_recorded_as_neighbours_are_looked_for_among(tmp_path, real) -> None:
    config = EvaluationConfig(generated_manifold=10, kid_subset_size=5, bootstrap=2)  # which keeps all features
    found = evaluate(generated=real, real=real, extractor=PixelExtractor(), config=config, out=tmp_path / "report.json")
    assert found.protocol["generated"]["num_manifold_images"] == 10


def test_the_order_of_the_splits_is_recorded(tmp_path, real) -> None:
    images, in_turn = noisy_images(LABELS, seed=0), torch.arange(3).repeat(10)
    samples = save_samples(tmp_path / "samples", images, in_turn)
    assert protocol_of(samples, real)["generated"]["order"] == "as stored"
    assert protocol_of(real, real)["generated"]["order"] == "shuffled"  # folders list class by class


def test_versions_name_the_packages_that_have_a_hand_in_the_numbers() -> None:
    found = versions()
    for package in ("torch", "accelerate", "timm"):
        assert found[package] == metadata.version(package)


def test_a_flat_protocol_leaves_manifests_to_the_record_of_sampling() -> None:
    told = flat_protocol(protocol())
    assert not [name for name in told if "manifest" in name.split(".")]
    assert told["generated.sampling.scale"] == 2.0
    assert told["settings.image_size"] is None
    old = protocol()
    del old["generated"]["sampling"]
    assert flat_protocol(old)["generated.sampling.weights"] == "ema_0.9999"
