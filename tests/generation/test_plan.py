"""The plan of a run: shards that hold every id once, and labels by every rule."""

import json
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from guided_diffusion.commands.sample import SampleConfig
from guided_diffusion.config import parse
from guided_diffusion.data.formats.samples import Shard, open_manifest, write_shard
from guided_diffusion.diffusion.noise import SeededNoise
from guided_diffusion.generation.plan import Drawn, InTurn, Plan, batches_of, label_rule

NAMES = ("ant", "bee", "cat")


def asked(spec: str, *, count: int, seed: int = 0, names: tuple[str, ...] = NAMES) -> list[int]:
    rule = label_rule(spec, names, seed=seed)
    return [rule.label(i) for i in range(count)]


@pytest.mark.parametrize(
    ("spec", "labels"),
    [("all", (0, 1, 2)), ("2", (2,)), ("0,2,0", (0, 2, 0)), ("cat, ant", (2, 0)), ("bee,0", (1, 0))],
)
def test_labels_are_numbers_or_names(spec, labels):
    assert label_rule(spec, NAMES, seed=0) == InTurn(labels)


@pytest.mark.parametrize(
    ("spec", "names", "label"),
    [
        ("2", ("2", "1", "0"), None),  # was 2, whatever the user meant
        ("label:2", ("2", "1", "0"), 2),
        ("1", ("2", "1", "0"), 1),
        ("7", ("7", "9"), 0),
        ("007", ("006", "007"), 1),
        ("0", ("01", "00"), None),
        ("1", ("01", "02"), None),
        ("tench, Tinca", ("tench, Tinca", "ant"), 0),
        ('"tench, Tinca"', ("tench, Tinca", "ant"), 0),
        ("a,b", ("a", "b", "a,b"), None),
        ("cafe\u0301", ("ant", "caf\xe9"), 1),
        ("cat", ("ant", "cat "), 1),
        ("all", ("ant", "all"), None),
        ("label:1", ("ant", "all"), 1),
        ("all", ("all",), 0),
        ("label:x", ("ant", "label:x"), 1),
    ],
)
def test_a_class_has_its_name_and_one_that_is_anothers_number_is_never_guessed(spec, names, label):
    if label is None:
        with pytest.raises(ValueError, match="write label:"):
            label_rule(spec, names, seed=0)
    else:
        assert label_rule(spec, names, seed=0) == InTurn((label,))


@pytest.mark.parametrize("word", ["007", "0x1F", "1_0", "null", "1e3"])
def test_a_name_that_yaml_would_read_as_a_number_reaches_the_rule_as_it_is(word):
    options = ["--diffusion=x", "--out=y", f"--labels={word}"]
    assert parse(SampleConfig, options).labels == word  # 007 was 7, and 0x1F was 31


def test_classes_without_training_images_are_neither_drawn_nor_made():
    assert label_rule("all", NAMES, seed=0, unseen=[0]) == InTurn((1, 2))
    uniform = label_rule("uniform", NAMES, seed=0, unseen=[0])
    assert {uniform.label(i) for i in range(100)} == {1, 2}
    with pytest.raises(ValueError, match=r'labels ask for class 0, "ant", of which the model saw no image'):
        label_rule("bee,0", NAMES, seed=0, unseen=[0])


@pytest.mark.parametrize("spec", ["3", "-1", "dog", "0,dog", "", "0,,1", "Ant", "1.0"])
def test_a_label_that_is_not_there_is_refused_with_those_that_are(spec):
    with pytest.raises(
        ValueError, match=r"there is no label \".*\": the model has 3 classes, labels 0 to 2 \(ant, bee"
    ):
        label_rule(spec, NAMES, seed=0)


def test_of_many_classes_only_some_are_listed():
    with pytest.raises(ValueError, match=r"labels 0 to 999 \(c0, .*, c9, \.\.\)"):
        label_rule("1000", [f"c{i}" for i in range(1000)], seed=0)


@pytest.mark.parametrize("spec", ["all", "balanced"])
def test_all_classes_are_asked_for_in_turn(spec):
    assert asked(spec, count=7) == [0, 1, 2, 0, 1, 2, 0]
    assert label_rule(spec, NAMES, seed=0).record() == [0, 1, 2]


def test_uniform_labels_are_drawn_by_seed_and_id_alone():
    labels = asked("uniform", count=3000)
    assert asked("uniform", count=100) == labels[:100]
    assert asked("uniform", count=100, seed=1) != labels[:100]
    expected = 1000
    assert np.abs(np.bincount(labels) - expected).max() < 5 * (3000 * (1 / 3) * (2 / 3)) ** 0.5
    assert label_rule("uniform", NAMES, seed=0).record() == {"policy": "uniform"}


def test_a_drawn_label_says_nothing_of_the_samples_noise():
    # Drawn under the run's own seed, label and first pixel would come from the same numbers of the same generator.
    noise = [float(SeededNoise(0, [i])(torch.empty(1, 1))) for i in range(2000)]
    labels = asked("uniform", count=2000, names=("a", "b"))
    assert abs(np.corrcoef(noise, labels)[0, 1]) < 5 / 2000**0.5


def test_lines_of_a_file_are_taken_in_turn(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_text("cat\n0\n bee \n")
    assert asked(f"file:{path}", count=5) == [2, 0, 1, 2, 0]
    record = label_rule(f"file:{path}", NAMES, seed=0).record()
    assert (record["policy"], record["name"], record["count"]) == ("file", "labels.txt", 3)
    assert len(record["sha256"]) == 64
    json.dumps(record)


def test_a_file_of_labels_may_come_from_windows(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_bytes(b"\xef\xbb\xbfcat\r\nant\r\n\r\n")
    assert asked(f"file:{path}", count=3) == [2, 0, 2]
    path.write_text("cat", encoding="utf-16")
    with pytest.raises(ValueError, match=r"labels.txt is not UTF-8 text"):
        label_rule(f"file:{path}", NAMES, seed=0)


def save_samples(path: Path, labels: list[int], names: tuple[str, ...]) -> Path:
    open_manifest(path, {"num_samples": len(labels), "shard_size": len(labels), "class_names": names})
    images, ids = np.zeros((len(labels), 2, 2, 1), np.uint8), np.arange(len(labels))
    write_shard(path, 0, Shard(images=images, labels=np.array(labels), ids=ids))
    return path


def save_npz(path: Path, labels: list[int]) -> Path:
    np.savez(path, arr_0=np.full((len(labels), 2, 2, 1), 9, np.uint8), arr_1=np.array(labels))
    return path


@pytest.mark.parametrize("source", ["npz", "samples", "class folder"])
def test_classes_are_drawn_as_often_as_data_have_them(tmp_path, source):
    if source == "npz":
        path = save_npz(tmp_path / "x.npz", [2, 2, 2, 0])
    elif source == "samples":
        path = save_samples(tmp_path / "x", [0, 1, 1, 1], ("ant", "cat"))  # matched by name, not by number
    else:
        path = tiny.write_class_folder(tmp_path / "x", classes=("ant", "cat"), per_class=1)
        for i in range(2):
            (path / "cat" / f"more{i}.png").write_bytes((path / "cat" / "000.png").read_bytes())
    spec = f"frequencies:{path}"
    assert label_rule(spec, NAMES, seed=0).record() == {"policy": "frequencies", "weights": [1, 0, 3]}
    counts = np.bincount(asked(spec, count=2000), minlength=3)
    assert counts[1] == 0
    assert abs(counts[0] - 500) < 5 * (2000 * 0.25 * 0.75) ** 0.5
    assert asked(spec, count=50) == asked(spec, count=2000)[:50]


def test_the_record_tells_apart_weights_that_draw_other_labels():
    small, large = (Drawn(weights, 0, policy="frequencies") for weights in ((1, 1), (10, 10)))
    assert [small.label(i) for i in range(50)] != [large.label(i) for i in range(50)]
    assert small.record() != large.record()  # at first both were recorded without weights, being equal ones


def test_files_and_data_that_do_not_serve_are_refused(tmp_path):
    bad, empty = tmp_path / "bad.txt", tmp_path / "empty.txt"
    bad.write_text("cat\n\ndog\n")
    empty.write_text("")
    unlabelled = tmp_path / "plain.npz"
    np.savez(unlabelled, arr_0=np.full((2, 2, 2, 1), 9, np.uint8))
    refused = {
        f"file:{bad}": 'line 2 of .*bad.txt: there is no label ""',
        f"file:{empty}": "empty.txt is empty; expected one label",
        f"frequencies:{unlabelled}": "has no labels to count; give class folders",
        f"frequencies:{save_npz(tmp_path / 'y.npz', [1, 3])}": 'has 1 images of class "3", which is none of the',
        f"frequencies:{save_samples(tmp_path / 'z', [0, 0], ('dog',))}": 'has 2 images of class "dog", which is none',
        "file:": 'there is no label "file:"',
    }
    for spec, message in refused.items():
        with pytest.raises(ValueError, match=message):
            label_rule(spec, NAMES, seed=0)
    for spec in (f"file:{tmp_path / 'absent'}", f"frequencies:{tmp_path / 'absent'}"):
        with pytest.raises(FileNotFoundError, match="there is (no file of labels|nothing at) .*absent"):
            label_rule(spec, NAMES, seed=0)


def test_a_list_given_on_the_command_line_is_recorded_as_it_is():
    assert InTurn((1, 0, 0)).record() == [1, 0, 0]


@pytest.mark.parametrize("shard_size", [1, 3, 10, 17])
def test_shards_hold_every_id_once_in_order(shard_size):
    plan = Plan(num_samples=10, shard_size=shard_size, labels=None, seed=0)
    shards = [plan.ids(n) for n in range(-(-10 // shard_size))]
    assert [i for shard in shards for i in shard] == list(range(10))


def test_a_label_follows_from_the_id_alone():
    one, other = (Plan(num_samples=n, shard_size=s, labels=InTurn((2, 0)), seed=0) for n, s in ((10, 3), (1000, 7)))
    assert [one.label(i) for i in range(6)] == [2, 0, 2, 0, 2, 0]
    assert [one.label(i) for i in range(10)] == [other.label(i) for i in range(10)]


def test_samples_of_no_class_have_label_minus_one():
    assert Plan(num_samples=1, shard_size=1, labels=None, seed=0).label(0) == -1


@pytest.mark.parametrize("name", ["num_samples", "shard_size"])
def test_counts_below_one_are_refused_by_name(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        Plan(**({"num_samples": 1, "shard_size": 1, "labels": None, "seed": 0} | {name: 0}))


def test_batches_hold_every_id_once_in_order():
    assert list(batches_of(range(3, 10), 3)) == [range(3, 6), range(6, 9), range(9, 10)]


def test_more_samples_than_seeds_or_more_files_than_a_directory_holds_are_refused():
    with pytest.raises(ValueError, match=r"num_samples is at most 4,294,967,296, one for each seed; got 1,000,000,"):
        Plan(num_samples=10**12, shard_size=1000, labels=None, seed=0)
    with pytest.raises(ValueError, match="shard_size 1 cuts 2,000,000 samples into 2,000,000 files, .*; raise it"):
        Plan(num_samples=2_000_000, shard_size=1, labels=None, seed=0)
