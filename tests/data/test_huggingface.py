"""Hugging Face datasets from disk: splits, columns, and what is said where something is missing. No network."""

import sys
from pathlib import Path

import datasets
import huggingface_hub.constants
import pytest
from data.storages import LABELS, hugging_face_dataset

from guided_diffusion.data.config import DataConfig
from guided_diffusion.data.image_set import ImageSet, open_training_set


def opened(path: Path | str, **config) -> ImageSet:
    return open_training_set(DataConfig(path=Path(path), **config), image_size=4)


@pytest.fixture(autouse=True)
def _offline(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


@pytest.fixture
def parquet(tmp_path: Path) -> Path:
    """Two splits, of five rows and of two."""
    whole = hugging_face_dataset()
    (tmp_path / "parquet").mkdir()
    whole.to_parquet(tmp_path / "parquet" / "train-00000.parquet")
    whole.select([4, 0]).to_parquet(tmp_path / "parquet" / "test-00000.parquet")
    return tmp_path / "parquet"


def test_a_split_is_chosen_behind_the_name(parquet):
    assert opened(f"hf:{parquet}:train").labels.tolist() == list(LABELS)
    held_out = opened(f"hf:{parquet}:test")
    assert (held_out.labels.tolist(), held_out.class_names) == ([1, 0], ("ant", "bee"))
    assert held_out.paths[1] == Path(f"hf:{parquet}:test/1")


def test_a_split_must_be_chosen_where_there_are_several(parquet):
    with pytest.raises(
        ValueError, match=r"it has the splits train, test; give one, as --data\.path hf:.*parquet:train"
    ):
        opened(parquet)


def test_a_missing_split_is_refused_with_those_there_are(parquet):
    with pytest.raises(ValueError, match=r"parquet:valid cannot be loaded .*\"valid\".*'train', 'test'"):
        opened(f"hf:{parquet}:valid")


def test_the_only_split_needs_no_name(parquet):
    (parquet / "test-00000.parquet").unlink()
    assert len(opened(parquet)) == 5


def test_a_saved_dictionary_of_splits_is_refused_with_the_path_of_one(tmp_path):
    datasets.DatasetDict(train=hugging_face_dataset(), test=hugging_face_dataset()).save_to_disk(tmp_path / "both")
    with pytest.raises(ValueError, match=r"holds the splits test, train; give one, as --data\.path .*both/test"):
        opened(tmp_path / "both")
    assert len(opened(tmp_path / "both" / "train")) == 5
    with pytest.raises(ValueError, match=r"without splits, as save_to_disk wrote it; leave out ':test'"):
        opened(f"hf:{tmp_path / 'both' / 'train'}:test")


def test_rows_selected_before_saving_keep_their_labels(tmp_path):
    hugging_face_dataset().select([4, 0, 2]).with_format("numpy").save_to_disk(tmp_path / "some")
    assert opened(tmp_path / "some").labels.tolist() == [1, 0, 1]


def test_one_of_several_columns_of_labels_is_chosen_by_name(tmp_path):
    hugging_face_dataset(coarse=[0, 0, 0, 0, 1]).save_to_disk(tmp_path / "two")
    with pytest.raises(
        ValueError, match=r"2 columns of type ClassLabel, label, coarse; choose one with --data\.labels"
    ):
        opened(tmp_path / "two")
    assert opened(tmp_path / "two", labels=Path("coarse")).labels.tolist() == [0, 0, 0, 0, 1]
    with pytest.raises(ValueError, match=r"no column 'fine' of type ClassLabel; its columns: img \(Image\), label"):
        opened(tmp_path / "two", labels=Path("fine"))


@pytest.mark.parametrize(("removed", "kind"), [("img", "Image"), ("label", "ClassLabel")])
def test_a_dataset_without_images_or_labels_is_refused_with_its_columns(tmp_path, removed, kind):
    dataset = hugging_face_dataset().add_column("number", [1, 2, 3, 4, 5])
    dataset.remove_columns(removed).save_to_disk(tmp_path / "part")
    with pytest.raises(ValueError, match=rf"no column of type {kind}; its columns: .*number \(Value\).*cast_column"):
        opened(tmp_path / "part")


def test_two_columns_of_images_are_refused(tmp_path):
    dataset = hugging_face_dataset()
    dataset.add_column("other", dataset["label"]).map(lambda row: {"mask": row["img"]}).save_to_disk(tmp_path / "two")
    with pytest.raises(ValueError, match=r"2 columns of type Image, img, mask; remove all but one"):
        opened(tmp_path / "two")


def test_rows_without_a_label_are_counted(tmp_path):
    hugging_face_dataset(label=[0, None, -1, 1, 1]).save_to_disk(tmp_path / "part")
    with pytest.raises(ValueError, match=r"2 rows of .* have no label in 'label', the first 1; filter them out"):
        opened(tmp_path / "part")


def test_a_dataset_without_rows_is_refused(tmp_path):
    hugging_face_dataset().select([]).save_to_disk(tmp_path / "none")
    with pytest.raises(ValueError, match="none has no rows"):
        opened(tmp_path / "none")


def test_damaged_files_are_refused_with_the_librarys_reason(parquet):
    whole = (parquet / "train-00000.parquet").read_bytes()
    (parquet / "train-00000.parquet").write_bytes(whole[:-50])
    with pytest.raises(ValueError, match=r"parquet:train cannot be loaded as a Hugging Face dataset: .*Parquet magic"):
        opened(f"hf:{parquet}:train")


def test_a_row_without_an_image_is_damage_by_its_number(tmp_path):
    dataset = hugging_face_dataset()
    rows = dataset.cast_column("img", datasets.Image(decode=False)).to_dict()
    rows["img"][3] = None
    datasets.Dataset.from_dict(rows, features=dataset.features).save_to_disk(tmp_path / "gap")
    with pytest.raises(ValueError, match=r"gap/3 is not a readable image \(the row holds no image\)"):
        opened(tmp_path / "gap")
    assert opened(tmp_path / "gap", on_error="skip").labels.tolist() == [0, 0, 1, 1]


def test_a_name_that_cannot_be_fetched_is_an_error_with_a_way_out():
    with pytest.raises(ConnectionError, match=r"hf:cifar10:train cannot be fetched: .* save_to_disk wrote elsewhere"):
        opened("hf:cifar10:train")


def test_the_library_is_asked_for_when_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r"pip install guided-diffusion\[hf\]"):
        opened("hf:cifar10:train")
