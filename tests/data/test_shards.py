import json
from pathlib import Path

import numpy as np
import pytest

from guided_diffusion.data.formats.samples import (
    Shard,
    iterate_shards,
    merged_npz,
    missing_shards,
    open_manifest,
    read_labels,
    read_manifest,
    read_shard,
    shard_path,
    write_shard,
)
from guided_diffusion.files import atomic_write, write_json

MANIFEST = {
    "num_samples": 10,
    "shard_size": 4,
    "sampler": {"name": "ddim", "steps": "ddim25"},
    "class_names": ("a", "b"),
}


def make_shard(start: int, stop: int, *, label: int | None = None) -> Shard:
    ids = np.arange(start, stop)
    images = np.broadcast_to(ids.astype(np.uint8)[:, None, None, None], (len(ids), 4, 5, 3)).copy()
    return Shard(images=images, labels=ids % 2 if label is None else np.full_like(ids, label), ids=ids)


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    open_manifest(tmp_path, MANIFEST)
    for n, (start, stop) in enumerate([(0, 4), (4, 8), (8, 10)]):
        write_shard(tmp_path, n, make_shard(start, stop))
    return tmp_path


def test_a_shard_comes_back_as_it_was_written(tmp_path: Path) -> None:
    shard = make_shard(8, 12)
    path = write_shard(tmp_path, 42, shard)
    assert path == shard_path(tmp_path, 42) == tmp_path / "shard-00042.npz"
    found = read_shard(path)
    for name in ("images", "labels", "ids"):
        np.testing.assert_array_equal(getattr(found, name), getattr(shard, name), strict=True)


def test_the_same_shard_gives_the_same_bytes(tmp_path: Path) -> None:
    first = write_shard(tmp_path, 0, make_shard(0, 4)).read_bytes()
    assert write_shard(tmp_path, 1, make_shard(0, 4)).read_bytes() == first


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": np.zeros((3, 4, 5, 3), np.float32)}, "images must be uint8 of shape"),
        ({"images": np.zeros((3, 4, 5), np.uint8)}, "images must be uint8 of shape"),
        ({"labels": np.zeros(2, np.int64)}, r"labels must be int64 of shape \(3,\)"),
        ({"ids": np.arange(3, dtype=np.int32)}, r"ids must be int64 of shape \(3,\)"),
        ({"labels": np.array([0, -2, 1])}, "labels must be class indices, or -1 for none, got -2"),
        ({"ids": np.array([0, 2, 3])}, "ids must ascend by one"),
    ],
)
def test_a_shard_of_wrong_arrays_is_refused(change: dict[str, np.ndarray], message: str) -> None:
    good = make_shard(0, 3)
    arrays = {"images": good.images, "labels": good.labels, "ids": good.ids} | change
    with pytest.raises(ValueError, match=message):
        Shard(**arrays)


@pytest.mark.parametrize(
    "damage", [lambda b: b[: len(b) // 2], lambda b: b"not a zip", lambda b: b[:90] + b"\xff" + b[91:]]
)
def test_a_damaged_shard_is_named_with_what_to_do(samples: Path, damage) -> None:
    path = shard_path(samples, 1)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"shard-00001\.npz is damaged .*delete it and run the sampling command again"):
        read_shard(path)


def test_an_absent_shard_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no shard at .*shard-00007\.npz"):
        read_shard(shard_path(tmp_path, 7))


def test_missing_shards_are_those_absent_or_cut_short(samples: Path) -> None:
    assert missing_shards(samples, num_samples=10, shard_size=4) == []
    assert missing_shards(samples, num_samples=17, shard_size=4) == [3, 4]
    shard_path(samples, 0).unlink()
    cut = shard_path(samples, 2)
    cut.write_bytes(cut.read_bytes()[:-40])
    assert missing_shards(samples, num_samples=10, shard_size=4) == [0, 2]


def test_a_manifest_of_any_size_answers_at_once(samples: Path) -> None:
    path = samples / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_samples": 10**15, "shard_size": 4}))
    lacks = r"lacks 249999999999997 of its 250000000000000 shards \(3, 4, .*, 12, \.\.\.\); run the sampling"
    with pytest.raises(ValueError, match=lacks):
        read_labels(samples)


def test_shards_without_a_manifest_are_not_taken_for_those_of_a_run(samples: Path) -> None:
    (samples / "manifest.json").unlink()
    with pytest.raises(ValueError, match=r"holds shards without a manifest.json, made with unknown settings; make"):
        open_manifest(samples, MANIFEST)


@pytest.mark.parametrize(
    ("field", "value"), [("shard_size", 4.0), ("num_samples", "10"), ("num_samples", True), ("environments", {}),
                         ("class_names", "dark")],
)  # fmt: skip
def test_a_damaged_manifest_is_named_with_its_field(samples: Path, field: str, value: object) -> None:
    path = samples / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(ValueError, match=rf"manifest.json is damaged: {field} is .*; make the samples again"):
        read_manifest(samples)


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def write_half() -> None:
        with atomic_write(path) as file:
            file.write(b"half")
            raise RuntimeError("midway")

    with pytest.raises(RuntimeError, match="midway"):
        write_half()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_json_that_json_does_not_know_is_refused_before_writing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"fid": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_the_same_manifest_opens_a_directory_again(samples: Path) -> None:
    before = (samples / "manifest.json").read_bytes()
    open_manifest(samples, json.loads(json.dumps(MANIFEST)))
    open_manifest(samples, MANIFEST)
    assert (samples / "manifest.json").read_bytes() == before


def test_a_manifest_that_differs_is_refused_naming_every_field(samples: Path) -> None:
    other = MANIFEST | {"sampler": {"name": "ddpm", "steps": "ddim25", "eta": 0.5}, "shard_size": 5}
    with pytest.raises(ValueError, match="another --out, or the same settings") as caught:
        open_manifest(samples, other)
    for line in (
        'sampler.name: "ddim" there, "ddpm" now',
        "sampler.eta: absent there, 0.5 now",
        "shard_size: 4 there, 5 now",
    ):
        assert line in str(caught.value)
    assert "steps" not in str(caught.value)
    assert read_manifest(samples)["shard_size"] == 4


def test_what_a_hash_identifies_may_be_renamed(tmp_path: Path) -> None:
    def weights(name: str, sha256: str) -> dict[str, object]:
        guide = {"name": name, "sha256": sha256, "scale": 1.0}
        return {"diffusion": {"name": name, "weights": "ema", "sha256": sha256}, "guidance": {"further": [guide]}}

    open_manifest(tmp_path / "new", MANIFEST | weights("run/checkpoint-1", "aa"))
    open_manifest(tmp_path / "new", MANIFEST | weights("renamed/checkpoint-1", "aa"))
    assert read_manifest(tmp_path / "new")["diffusion"]["name"] == "run/checkpoint-1"
    with pytest.raises(ValueError, match='diffusion.sha256: "aa" there, "bb" now\n  guidance.further: ') as caught:
        open_manifest(tmp_path / "new", MANIFEST | weights("run/checkpoint-1", "bb"))
    assert "name:" not in str(caught.value)


def test_an_option_that_is_null_is_one_that_was_not_there(tmp_path: Path) -> None:
    sampler = {"name": "ddim", "steps": 5}
    open_manifest(tmp_path, MANIFEST | {"sampler": sampler | {"snr": None}})
    open_manifest(tmp_path, MANIFEST | {"sampler": sampler})
    with pytest.raises(ValueError, match="sampler.snr: absent there, 0.1 now"):
        open_manifest(tmp_path, MANIFEST | {"sampler": sampler | {"snr": 0.1}})


def test_true_and_one_are_different_settings(tmp_path: Path) -> None:
    open_manifest(tmp_path, MANIFEST | {"seed": 1})
    with pytest.raises(ValueError, match="seed: 1 there, true now"):
        open_manifest(tmp_path, MANIFEST | {"seed": True})


def test_a_manifest_without_counts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs an integer shard_size, got None"):
        open_manifest(tmp_path, {"num_samples": 3})


def test_an_unreadable_or_absent_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no manifest\.json"):
        read_manifest(tmp_path)
    (tmp_path / "manifest.json").write_text('{"num_samples": 3')
    with pytest.raises(ValueError, match=r"manifest\.json is damaged"):
        read_manifest(tmp_path)


def test_any_range_of_ids_can_be_read(samples: Path) -> None:
    for start, stop in [(0, 10), (3, 5), (4, 8), (9, 10), (0, 4)]:
        ids = np.concatenate([shard.ids for shard in iterate_shards(samples, start=start, stop=stop)])
        np.testing.assert_array_equal(ids, np.arange(start, stop))


def test_a_shard_under_the_wrong_number_is_refused(samples: Path) -> None:
    shard_path(samples, 0).replace(shard_path(samples, 1))
    write_shard(samples, 0, make_shard(0, 4))
    with pytest.raises(ValueError, match=r"shard-00001\.npz does not hold the ids 4\.\.7"):
        list(iterate_shards(samples))


def test_labels_are_read_in_the_order_of_ids(samples: Path) -> None:
    np.testing.assert_array_equal(read_labels(samples), np.arange(10) % 2, strict=True)


def test_labels_of_too_few_or_damaged_samples_are_refused(samples: Path) -> None:
    write_shard(samples, 2, make_shard(8, 9))
    with pytest.raises(ValueError, match="holds 9 labels of 10 samples"):
        read_labels(samples)
    np.savez(shard_path(samples, 2), images=make_shard(8, 10).images)
    with pytest.raises(ValueError, match=r"shard-00002\.npz is damaged .*delete it and run the sampling command again"):
        read_labels(samples)


def test_the_merged_file_is_what_numpy_would_have_saved(samples: Path, tmp_path: Path) -> None:
    out = tmp_path / "merged.npz"
    assert merged_npz(samples, out) == 10
    with np.load(out) as merged:
        assert set(merged) == {"arr_0", "arr_1"}
        np.testing.assert_array_equal(merged["arr_0"], make_shard(0, 10).images, strict=True)
        np.testing.assert_array_equal(merged["arr_1"], make_shard(0, 10).labels, strict=True)


def test_unlabelled_samples_merge_without_labels(tmp_path: Path) -> None:
    open_manifest(tmp_path, {"num_samples": 3, "shard_size": 4})
    write_shard(tmp_path, 0, make_shard(0, 3, label=-1))
    merged_npz(tmp_path, tmp_path / "merged.npz")
    with np.load(tmp_path / "merged.npz") as merged:
        assert set(merged) == {"arr_0"}


def test_merging_refuses_missing_shards_and_writes_nothing(samples: Path) -> None:
    shard_path(samples, 1).unlink()
    with pytest.raises(ValueError, match=r"lacks 1 of its 3 shards \(1\); run the sampling command again"):
        merged_npz(samples, samples / "merged.npz")
    assert not list(samples.glob("*merged*"))
