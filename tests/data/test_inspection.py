"""The inspection of a data set: problems that were put into it are named, and none of them ends the report."""

import errno
import shutil
from pathlib import Path
from typing import IO

import numpy as np
import pytest
import tiny
from PIL import Image

from guided_diffusion.commands.inspect_data import InspectConfig, InspectedConfig, inspect_data
from guided_diffusion.data.inspection import file_facts


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five "dark" and five "light" grey pictures of 8x8, no two alike."""
    return tiny.write_class_folder(tmp_path / "data", per_class=5)


def report(folder: Path, capsys: pytest.CaptureFixture[str], **options: object) -> str:
    data = InspectedConfig(path=folder, num_workers=0)
    inspect_data(InspectConfig(data=data, **options))
    return capsys.readouterr().out


def test_a_sound_folder_is_described(folder, capsys):
    assert report(folder, capsys).splitlines() == [
        f"{folder}: 10 images in 2 classes",
        "classes     dark, light: balanced, 5 images each",
        "width       8 to 8 pixels, median 8",
        "height      8 to 8 pixels, median 8",
        "shorter     8 to 8 pixels, median 8",
        "means       126.7; dark 48.9; light 204.5, of 255",
        "formats     PNG 10",
        "modes       L 10",
        "broken      no files",
        "duplicates  no files",
    ]


def test_float_files_name_the_option_that_they_need(tmp_path, capsys):
    (tmp_path / "a").mkdir()
    Image.fromarray(np.array([[0.25, 0.75]], np.float32)).save(tmp_path / "a" / "0.tif")
    expected = "0.tif: has values from 0.25 to 0.75, of no known range; needs --data.window BLACK WHITE"
    assert expected in report(tmp_path, capsys)


def test_classes_of_different_sizes_are_named_with_their_ratio(folder, capsys):
    for name in ("000.png", "001.png"):
        (folder / "dark" / name).unlink()
    assert "classes     dark, light: from 3 images (dark) to 5 (light), 1.67 times as many" in report(folder, capsys)


def test_files_left_out_images_turned_and_doubts_are_told(folder, capsys):
    (folder / "dark" / "notes.txt").touch()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("L", (8, 8), 50).save(folder / "dark" / "turned.jpg", exif=exif)
    text = report(folder, capsys)
    assert "left out    1 .txt (dark/notes.txt)\n" in text
    assert "turned      1 image, by the EXIF orientation\n" in text
    assert "doubt " not in text
    for file in [*folder.rglob("*.png")]:
        file.unlink()
    Image.new("L", (8, 8), 60).save(folder / "light" / "even.png")
    text = report(folder, capsys)
    assert "constant    2 images of one value each:\n" in text
    assert "doubt       nearly all values of" in text
    assert "means       " in text


def test_files_smaller_than_the_training_size_are_counted(folder, capsys):
    Image.new("L", (40, 16), 7).save(folder / "dark" / "wide.png")
    text = report(folder, capsys, size=16)
    assert "width       8 to 40 pixels, median 8" in text
    assert "height      8 to 16 pixels, median 8" in text
    assert "below 16    10 images (90.9%), which training would enlarge" in text
    assert "below 8     0 images\n" in report(folder, capsys, size=8)


def test_mixed_modes_and_formats_are_counted_and_the_remedy_is_named(folder, capsys):
    Image.new("RGB", (8, 8), "red").save(folder / "dark" / "red.jpg")
    Image.new("CMYK", (8, 8)).save(folder / "dark" / "cmyk.jpg")
    text = report(folder, capsys)
    assert "formats     PNG 10, JPEG 2" in text
    assert "modes       L 10, CMYK 1, RGB 1; training needs --data.mode RGB (or L), which converts them" in text


def test_broken_files_are_named_with_their_faults_wherever_in_the_file_these_lie(folder, capsys):
    whole = (folder / "dark" / "000.png").read_bytes()
    (folder / "dark" / "cut.png").write_bytes(whole[:-40])  # a sound header, and pixels that end too early
    (folder / "dark" / "text.jpg").write_text("no picture")
    (folder / "light" / "empty.png").touch()
    text = report(folder, capsys)
    assert "broken      3 files:\n" in text
    unknown = "its content is of no known image format"
    for line in ("dark/cut.png: ", f"dark/text.jpg: {unknown}", f"light/empty.png: {unknown}"):
        assert f"  {folder}/{line}" in text


class Failing:
    """A storage whose disk fails."""

    def path(self, index: int) -> Path:
        return Path("a.png")

    def open(self, index: int) -> IO[bytes]:
        raise PermissionError(errno.EACCES, "Permission denied", "a.png")


def test_a_file_that_may_not_be_read_counts_as_broken_and_equals_no_other():
    facts = file_facts(Failing(), 0)
    assert facts.damage == "could not read an image: Permission denied"
    assert facts.digest == b""


def test_a_link_to_nowhere_is_a_broken_file(folder, capsys):
    (folder / "dark" / "lost.png").symlink_to(folder / "nowhere.png")
    assert f"  {folder}/dark/lost.png: " in report(folder, capsys)


def test_all_broken_files_are_named(folder, capsys):
    for i in range(25):
        (folder / "dark" / f"x{i:02d}.png").write_text(f"{i}")
    text = report(folder, capsys)
    assert "broken      25 files:\n" in text
    assert all(f"x{i:02d}.png: its content is" in text for i in range(25))


def test_duplicates_are_found_by_content_within_classes_and_across_them(folder, capsys):
    (folder / "dark" / "again.png").write_bytes((folder / "dark" / "000.png").read_bytes())
    (folder / "dark" / "of_light.png").write_bytes((folder / "light" / "000.png").read_bytes())
    text = report(folder, capsys)
    assert "duplicates  4 files in 2 sets of equal ones, 1 of them across classes:\n" in text
    assert f"  {folder}/dark/000.png = {folder}/dark/again.png\n" in text
    assert f"  {folder}/dark/of_light.png = {folder}/light/000.png\n" in text


def test_a_folder_that_a_training_refuses_is_looked_through_all_the_same(folder, capsys):
    Image.new("L", (8, 8)).save(folder / "loose.png")
    text = report(folder, capsys)
    assert "11 images in 3 classes" in text
    assert "refused     a training would end with: " in text
    assert "holds images beside its class folders ('loose.png'" in text


def test_nothing_at_the_path_and_no_images_in_it_are_refused(tmp_path, capsys):
    with pytest.raises(FileNotFoundError, match="there is nothing at .*nowhere"):
        report(tmp_path / "nowhere", capsys)
    with pytest.raises(ValueError, match="no images in"):
        report(tmp_path, capsys)


def test_a_zip_is_described_as_its_folder_is(folder, tmp_path, capsys):
    (folder / "dark" / "text.jpg").write_text("no picture")
    of_folder = report(folder, capsys)
    archive = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", folder))
    assert report(archive, capsys).replace(str(archive), str(folder)) == of_folder


@pytest.mark.parametrize(
    ("options", "message"),
    [({"size": 0}, "size must be at least 1, got 0"), ({"out": Path("page.jpg")}, "ends in .png, not")],
)
def test_wrong_options_are_refused_before_anything_is_read(options, message):
    with pytest.raises(ValueError, match=message):
        InspectConfig(data=InspectedConfig(path=Path("nowhere")), **options)


def test_the_report_is_the_same_for_any_number_of_processes(folder, tmp_path, capsys):
    (folder / "dark" / "text.jpg").write_text("no picture")
    texts = []
    for num_workers in (0, 2):
        data = InspectedConfig(path=folder, num_workers=num_workers)
        inspect_data(InspectConfig(data=data))
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]


def test_the_page_shows_crops_of_every_class_and_leaves_broken_files_out(tmp_path, capsys):
    folder = tmp_path / "data"
    for name, colour, sizes in (("blue", (0, 0, 255), [(300, 100)] * 12), ("red", (255, 0, 0), [(8, 8)])):
        (folder / name).mkdir(parents=True)
        for i, size in enumerate(sizes):
            Image.new("RGB", size, colour).save(folder / name / f"{i:02d}.png")
    (folder / "red" / "text.png").write_text("no picture")
    text = report(folder, capsys, out=tmp_path / "page.png")
    assert f"thumbnails  {tmp_path / 'page.png'}" in text
    with Image.open(tmp_path / "page.png") as page:
        pixels = np.asarray(page)
    assert (pixels == (0, 0, 255)).all(axis=-1).sum() == 10 * 96 * 96  # ten of twelve
    assert (pixels == (255, 0, 0)).all(axis=-1).sum() == 96 * 96  # 8 pixels, each 12 times


def test_the_page_of_many_classes_shows_30_of_them(tmp_path, capsys):
    folder = tiny.write_class_folder(
        tmp_path / "data", classes=[f"a long name {i:040d}" for i in range(40)], per_class=1
    )
    report(folder, capsys, out=tmp_path / "page.png")
    with Image.open(tmp_path / "page.png") as page:
        assert page.height == 30 * 100 + 52
