"""WebDataset shards: what the webdataset package finds in them we find, and shards that cannot be used are named."""

import gzip
import json
from pathlib import Path

import pytest
import webdataset
from data.storages import LABELS, NAMES, PICTURES, png, samples, write_shards, write_tar

from guided_diffusion.data.config import DataConfig
from guided_diffusion.data.formats import open_stored
from guided_diffusion.data.image_set import ImageSet, open_training_set


def opened(path: Path, **options) -> ImageSet:
    return open_training_set(DataConfig(path=path), image_size=4, **options)


def test_shards_of_the_webdataset_package_hold_for_us_what_they_hold_for_it(tmp_path):
    """Also where keys lie in folders, extensions have dots and other members stand beside."""
    keys = ["000", "sub/001", "sub.dir/002", "003", "004"]
    with webdataset.ShardWriter(str(tmp_path / "a-%03d.tar"), maxcount=2, verbose=0) as writer:
        for key, name, label in zip(keys, NAMES, LABELS, strict=True):
            writer.write({"__key__": key, "JPG.png": PICTURES[name], "cls": label, "txt": "words"})
    shards = sorted(str(path) for path in tmp_path.glob("*.tar"))
    theirs = [
        (next(content for name, content in sample.items() if name.endswith("png")), int(sample["cls"]))
        for sample in webdataset.WebDataset(shards, shardshuffle=False)
    ]
    found = open_stored(tmp_path, None)
    ours = [(found.images.open(i).read(), int(found.labels[i])) for i in range(len(found.labels))]
    assert len(shards) == 3
    assert ours == theirs


def test_one_shard_is_a_dataset(tmp_path):
    dataset = opened(write_tar(tmp_path / "a.tar", samples(3, 0)))
    assert dataset.labels.tolist() == [1, 0]
    assert dataset.class_names == ("0", "1")


def test_labels_are_read_from_json_where_there_is_no_cls(tmp_path):
    files = {"a.png": png(0), "a.json": b'{"label": "wasp", "x": 1}', "b.json": b'{"label": 3}', "b.png": png(1)}
    dataset = opened(write_tar(tmp_path / "a.tar", files))
    assert (dataset.class_names, dataset.labels.tolist()) == (("3", "wasp"), [1, 0])
    files = {"a.json": b'{"label": 0}', "a.cls": b" 1\n", "a.png": png(0)}
    assert opened(write_tar(tmp_path / "b.tar", files)).labels.tolist() == [1]


def test_names_of_the_classes_lie_beside_the_shards(tmp_path):
    write_tar(tmp_path / "a.tar", samples(3, 0))
    (tmp_path / "classes.txt").write_text("ant\nbee\ncow\n")
    for path in (tmp_path, tmp_path / "a.tar"):
        dataset = opened(path)
        assert (dataset.class_names, dataset.labels.tolist()) == (("ant", "bee", "cow"), [1, 0])
    assert opened(tmp_path, class_names=["bee", "ant"]).labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("ant\n", r"has the class number 1, but .*classes\.txt names 1 classes"),
        ("ant\nant\n", r"classes\.txt has a class name twice"),
        ("ant\n\nbee\n", r"classes\.txt must hold a class name a line"),
    ],
)
def test_wrong_names_of_classes_are_refused(tmp_path, content, message):
    (write_shards(tmp_path) / "classes.txt").write_text(content)
    with pytest.raises(ValueError, match=message):
        opened(tmp_path)


def test_names_for_labels_that_are_names_are_refused(tmp_path):
    write_tar(tmp_path / "a.tar", {"a.png": png(0), "a.cls": b"wasp"})
    (tmp_path / "classes.txt").write_text("ant\n")
    with pytest.raises(ValueError, match=r"are names already \('wasp'\), so that .*classes\.txt is not needed"):
        opened(tmp_path)


def test_a_shard_cut_short_anywhere_is_refused_by_name(tmp_path):
    write_shards(tmp_path)
    shard = tmp_path / "shard-000001.tar"
    whole = shard.read_bytes()
    end = len(whole.rstrip(b"\0"))
    boundaries = range(512, end + 512, 512)
    for length in [0, 1, *boundaries, end - 1, end]:
        shard.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"shard-000001\.tar (is|holds|has|of)|of .*shard-000001\.tar"):
            opened(tmp_path)


def test_a_shard_with_a_broken_header_in_its_middle_is_refused(tmp_path):
    write_shards(tmp_path)
    content = bytearray((tmp_path / "shard-000000.tar").read_bytes())
    second = content.index(b"000001.png")
    content[second] ^= 0xFF
    (tmp_path / "shard-000000.tar").write_bytes(content)
    with pytest.raises(
        ValueError, match=rf"shard-000000\.tar is not a whole.*no end of the archive .* at byte {second}"
    ):
        opened(tmp_path)


def test_an_empty_shard_is_refused_by_name(tmp_path):
    write_tar(write_shards(tmp_path) / "shard-000002.tar", {})
    with pytest.raises(ValueError, match=r"shard-000002\.tar is empty; fetch or pack it again, or remove it"):
        opened(tmp_path)


def test_a_compressed_shard_is_refused(tmp_path):
    shard = write_tar(tmp_path / "a.tar", samples(0))
    shard.write_bytes(gzip.compress(shard.read_bytes()))
    with pytest.raises(ValueError, match=r"a\.tar is not a whole, uncompressed tar .*without compression"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.png": b""}, r"the image a\.png of .*a\.tar has no label: expected a\.cls, .* or a\.json"),
        ({"train/ant/a.png": b""}, r"no label: .*if the tar is an ordinary archive of class folders, unpack it"),
        ({"a.png": b"", "a.json": b"{}"}, r"a\.png of .* has no label"),
        ({"a.png": b"", "a.json": b"{"}, r"a\.png of .* has no label"),
        ({"a.png": b"", "a.json": json.dumps({"label": 1.5}).encode()}, r"a\.png of .* has no label"),
        ({"a.png": b"", "a.cls": b" "}, r"a\.png of .* has no label"),
        ({"a.cls": b"0"}, r"sample a of .*a\.tar holds 0 images \(its files: \.cls\)"),
        (
            {"a.png": b"", "a.jpg": b"", "a.cls": b"0"},
            r"sample a of .* holds 2 images \(its files: \.png, \.jpg, \.cls\)",
        ),
        ({"a.png": b"", "a.cls": b"-1"}, r"1 labels of .* are -1"),
    ],
)
def test_a_sample_without_one_image_and_one_label_is_refused(tmp_path, files, message):
    with pytest.raises(ValueError, match=message):
        opened(write_tar(tmp_path / "a.tar", files))


def test_a_damaged_image_in_a_shard_is_named_and_can_be_skipped(tmp_path):
    write_tar(tmp_path / "a.tar", samples(0, 1) | {"000001.png": b"no picture"})
    with pytest.raises(ValueError, match=r"a\.tar/000001\.png is not a readable image .*--data\.on_error skip"):
        opened(tmp_path)
    kept = open_training_set(DataConfig(path=tmp_path, on_error="skip"), image_size=4)
    assert kept.skipped == (tmp_path / "a.tar" / "000001.png",)
