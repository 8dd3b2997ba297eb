"""Labels from file names and tables, in folders and zips, and every way in which a table can be wrong."""

import json
from pathlib import Path

import numpy as np
import pytest
from data.storages import NAMES, PICTURES, png, write_folder, write_shards, write_zip

from guided_diffusion.config import from_plain, parse, to_plain
from guided_diffusion.data.config import DataConfig
from guided_diffusion.data.formats import open_stored
from guided_diffusion.data.formats.tree import archive_tree, folder_tree
from guided_diffusion.data.image_set import ImageSet, open_training_set
from guided_diffusion.data.labels import numbered

LISTING = json.loads((Path(__file__).parent.parent / "golden" / "data.json").read_text())["listing"]
SOURCE = Path("labels.csv")


def opened(path: Path, labels: Path | str, **options) -> ImageSet:
    return open_training_set(DataConfig(path=path, labels=labels), image_size=4, **options)


@pytest.fixture(params=[write_folder, write_zip], ids=["folder", "zip"])
def write(request):
    return request.param


def table(rows: str) -> bytes:
    return b"file,label\n" + rows.encode()


# The published convention


def test_file_names_give_the_published_classes_in_the_published_order(tmp_path):
    for name in LISTING["created"]:
        if not name.endswith(".webp"):  # of which the published list knows nothing
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
    found = open_stored(tmp_path, "filenames")
    names = [found.images.path(index).relative_to(tmp_path).as_posix() for index in range(len(found.labels))]
    assert names == LISTING["found_in_order"]
    assert found.labels.tolist() == LISTING["class_index"]
    assert list(found.class_names) == LISTING["class_names"]


def test_members_of_a_zip_come_in_the_published_order_however_they_were_packed(tmp_path):
    for name in LISTING["created"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    packed = archive_tree(Path("data.zip"), [*LISTING["created"][::-1], "a/", "empty/"])
    assert (packed.images, packed.others) == (folder_tree(tmp_path).images, folder_tree(tmp_path).others)
    assert packed.directories == ("a", "deep", "empty")


def test_file_names_label_trees_of_any_shape(tmp_path, write):
    files = {"bee_1.png": png(0), "x/ant_2.png": png(1), "x/y/bee_3.png": png(2)}
    dataset = opened(write(tmp_path / "data.zip", files), "filenames")
    assert (dataset.class_names, dataset.labels.tolist()) == (("ant", "bee"), [1, 0, 1])


def test_a_tree_without_images_is_refused_with_what_it_holds(tmp_path, write):
    path = write(tmp_path / "data.zip", {"a.xcf": b"", "b.xcf": b"", "c.txt": b""})
    with pytest.raises(ValueError, match=r"no images in .* \(\.jpg, .*\), but 2 \.xcf files, the first a\.xcf"):
        opened(path, "filenames")


@pytest.mark.parametrize("labels", ["folders", "filenames", Path("labels.csv")])
def test_labels_survive_the_command_line_and_a_checkpoint(tmp_path, labels):
    config = parse(DataConfig, [f"--path={tmp_path}", f"--labels={labels}"])
    assert config.labels == labels
    assert from_plain(DataConfig, to_plain(config), source="here") == config


def test_a_prefix_that_seems_to_hold_several_classes_is_doubted(tmp_path, caplog):
    names = ("golden_retriever_1.png", "golden_retriever_2.png", "golden_eagle_1.png", "cat_1.png", "cat_2.png")
    files = {name: png(i) for i, name in enumerate(names)}
    assert opened(write_folder(tmp_path / "a", files), "filenames").class_names == ("cat", "golden")
    assert '"golden" holds golden_eagle (1), golden_retriever (2)' in caplog.text
    caplog.clear()
    published = {f"{name}_{i:05d}.png": png(i) for name in ("n01440764", "n01443537") for i in range(3)}
    opened(write_folder(tmp_path / "b", published | {"cat_ab1f.png": png(1), "cat_77c.png": png(2)}), "filenames")
    assert not caplog.records


# Folders that are no classes


@pytest.mark.parametrize(
    ("names", "likely"),
    [
        (("train/a/0.png", "val/a/0.png", "test/a/0.png"), "train"),
        (("Training/a/0.png", "Validation/0.png"), "Training"),
        (("train/a/0.png",), "train"),
        (("test/a/0.png", "val/a/0.png"), "test"),
        (("train/a/0.png", "annotations/a.xml", "test/a/0.png"), "train"),
    ],
)
def test_the_parent_of_splits_is_refused_with_the_likely_path(tmp_path, write, names, likely):
    path = write(tmp_path / "data.zip", {name: png(i) for i, name in enumerate(names)})
    with pytest.raises(ValueError, match=rf"are splits of a data set, not classes; give one of them, .*/{likely}$"):
        opened(path, "folders")


@pytest.mark.parametrize("names", [("train/0.png", "test/0.png"), ("train/a/0.png", "bus/a/0.png")])
def test_classes_of_trains_and_tests_are_classes(tmp_path, write, names):
    path = write(tmp_path / "data.zip", {name: png(i) for i, name in enumerate(names)})
    assert len(opened(path, "folders").class_names) == 2


def test_loose_images_are_refused_with_the_option_that_takes_them(tmp_path, write):
    with pytest.raises(ValueError, match=r'give --data.labels filenames, where a name begins with its class and a "_"'):
        opened(write(tmp_path / "data.zip", {"ant_0.png": png(0)}), "folders")


def test_accents_have_one_form_and_blanks_at_the_ends_no_meaning(tmp_path, write, caplog):
    composed, decomposed = "caf\xe9", "cafe\u0301"  # of Linux and Windows, and of macOS
    of_mac = opened(write(tmp_path / "mac.zip", {f"{decomposed}/0.png": png(0), "d /0.png": png(1)}), "folders")
    assert of_mac.class_names == (composed, "d")
    again = opened(write(tmp_path / "x.zip", {f"{composed}/0.png": png(0)}), "folders", class_names=("d ", decomposed))
    assert again.labels.tolist() == [1]
    assert not caplog.records
    both = opened(write(tmp_path / "y.zip", {f"{composed}/0.png": png(0), f"{decomposed}/1.png": png(1)}), "folders")
    assert both.labels.tolist() == [0, 0]
    assert f'are one: "{composed}"' in caplog.text


# Tables


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("labels.csv", table("".join(f"{name},{label}\n" for name, label in zip(NAMES, "vuvuw", strict=True)))),
        ("labels.json", json.dumps(dict(zip(NAMES, "vuvuw", strict=True))).encode()),
        ("dataset.json", json.dumps({"labels": [*zip(NAMES, "vuvuw", strict=True)], "other": 1}).encode()),
        ("excel.CSV", b"\xef\xbb\xbf" + table("".join(f'"{n}",{c}\r\n' for n, c in zip(NAMES, "vuvuw", strict=True)))),
    ],
)
def test_a_table_beside_the_images_or_elsewhere_gives_their_classes(tmp_path, write, name, content):
    inside = opened(write(tmp_path / "inside.zip", PICTURES | {name: content}), Path(name))
    (tmp_path / name).write_bytes(content)
    outside = opened(write(tmp_path / "outside.zip"), tmp_path / name)
    for dataset in (inside, outside):
        assert (dataset.class_names, dataset.labels.tolist()) == (("u", "v", "w"), [1, 0, 1, 0, 2])


def test_a_table_names_files_of_macos_and_stray_blanks_are_no_labels(tmp_path, write):
    rows = table("caf\xe9.png,1 \nb.png, 0\n")
    path = write(tmp_path / "data.zip", {"cafe\u0301.png": png(0), "b.png": png(1), "l.csv": rows})
    dataset = opened(path, Path("l.csv"))
    assert (dataset.class_names, dataset.labels.tolist()) == (("0", "1"), [0, 1])


def test_a_table_overrules_the_folders_and_reaches_loose_images(tmp_path, write):
    path = write(
        tmp_path / "data.zip", {"0.png": png(0), "ant/1.png": png(1), "l.json": b'{"0.png": 1, "ant/1.png": 0}'}
    )
    dataset = opened(path, Path("l.json"))
    assert (dataset.class_names, dataset.labels.tolist()) == (("0", "1"), [1, 0])


def test_whole_numbers_are_class_numbers_and_anything_else_is_a_name():
    for labels in ([10, 2, 0], ["10", "2", "0"]):  # sorted as names, "10" would come before "2"
        numbers, names = numbered(labels, source=SOURCE)
        assert names == tuple(str(number) for number in range(11))
        assert numbers.tolist() == [10, 2, 0]
        assert numbers.dtype == np.int64
    for labels, expected in ((["7", "x"], ("7", "x")), (["007", "010"], ("007", "010")), (["1.0", "0"], ("0", "1.0"))):
        assert numbered(labels, source=SOURCE)[1] == expected


@pytest.mark.parametrize(
    ("labels", "doubted"),
    [
        (("10", "2", "unknown"), '2 of the 3 labels of labels.csv look like numbers ("10"), beside others such as "un'),
        (("0.0", "10.0", "2.0"), '3 of the 3 labels of labels.csv look like numbers ("0.0"); all are taken for names'),
        (("007", "010"), ""),
        (("ant", "bee"), ""),
        (("0", "1"), ""),
    ],
)
def test_names_that_look_like_numbers_are_doubted(labels, doubted, caplog):
    numbered(labels, source=SOURCE)
    assert doubted in caplog.text
    assert bool(doubted) == bool(caplog.records)


def test_imposed_names_renumber_a_table(tmp_path):
    write_folder(tmp_path, {"0.png": png(0), "1.png": png(1), "l.csv": table("0.png,ant\n1.png,bee\n")})
    dataset = opened(tmp_path, Path("l.csv"), class_names=["bee", "wasp", "ant"])
    assert dataset.labels.tolist() == [2, 0]


def test_class_numbers_below_zero_or_beyond_reason_are_refused():
    with pytest.raises(ValueError, match=r"2 labels of labels\.csv are -1; class numbers begin at 0"):
        numbered([3, -1, -1], source=SOURCE)
    with pytest.raises(ValueError, match=r"a label of labels\.csv is 1000000; class numbers end below 1,000,000"):
        numbered([1_000_000], source=SOURCE)


WRONG = {
    "labels.csv": [
        (b"", r"first line of .*labels\.csv is ''; expected file,label"),
        (b"0.png,ant\n", r"first line of .* is '0\.png,ant'; expected file,label"),
        (table("0.png\n"), r"line 2 of .* is '0\.png'; expected a file and its label"),
        (table("0.png,\n"), r"line 2 of .* is '0\.png,'; expected a file and its label"),
        (table("0.png, \n"), r"line 2 of .* is '0\.png, '; expected a file and its label"),
        (table("0.png,a\n1.png,b\n0.png,a\n"), r"has 1 files more than once, the first 0\.png; give each one label"),
        (table("0.png,a\n1.png,b\n2.png,c\n3.png,c\n"), r"labels 2 files that are no images of .*, the first 2\.png; "),
        (table("1.png,a\n"), r"no label for 1 of the 2 images in .*, the first 0\.png; add"),
        (b"\xff\xfe", r"labels\.csv is not UTF-8 text"),
    ],
    "labels.json": [
        (b"{", r"labels\.json is not JSON \("),
        (b"[1]", r"labels\.json is no table of labels; expected CSV .* JSON"),
        (b'{"labels": null}', r'holds \["labels", null\] where a file and its label were expected'),
        (b'{"labels": [["0.png", 1], ["1.png", true]]}', r'holds \["1\.png", true\] where'),
        (b'{"0.png": "a", "1.png": 1.5}', r'holds \["1\.png", 1\.5\] where'),
        (b'{"0.png": "a", "1.png": "b", "0.png": "b"}', r"has 1 files more than once, the first 0\.png"),
        (b'{"0.png": -1, "1.png": 0}', r"1 labels of .*labels\.json are -1"),
    ],
    "labels.txt": [(b"0.png a", r"labels\.txt is no table of labels; expected CSV with the columns file,label, JSON")],
}


@pytest.mark.parametrize(
    ("name", "content", "message"), [(name, *case) for name, cases in WRONG.items() for case in cases]
)
def test_a_wrong_table_is_refused_with_what_is_wrong(tmp_path, name, content, message):
    write_folder(tmp_path, {"0.png": png(0), "1.png": png(1), name: content})
    with pytest.raises(ValueError, match=message):
        opened(tmp_path, Path(name))


def test_a_missing_table_or_a_misspelt_word_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder, neither in .* nor from here; .*folders, filenames or a"):
        opened(write_folder(tmp_path), Path("folder"))


def test_labels_of_storages_that_have_their_own_are_refused(tmp_path):
    with pytest.raises(ValueError, match="holds WebDataset shards, whose labels are their own; leave out data.labels"):
        opened(write_shards(tmp_path), "filenames")
    with pytest.raises(
        ValueError, match="Hugging Face dataset, whose images have no file names; leave out data.labels"
    ):
        opened(Path("hf:cifar10"), "filenames")
