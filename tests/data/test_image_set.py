"""Class folders: crops to the last bit, order and labels, and every kind of bad folder by its message.

Over 300 lines because the ways in which a folder can be wrong are many, and each is a test.
"""

import logging
import os
import random

import numpy as np
import pytest
import torch
from data.storages import augmented
from oracles.golden import arrays, digest, sidecar
from PIL import Image

from guided_diffusion.data.config import DataConfig
from guided_diffusion.data.crops import center_crop, damage_named, decoded, random_crop
from guided_diffusion.data.formats.tree import folder_tree
from guided_diffusion.data.image_set import open_training_set

golden, described = arrays("data"), sidecar("data")


class ScriptedRandom(random.Random):
    """Gives the stored draws, and checks that each was asked for in its stored range."""

    def __init__(self, draws):
        super().__init__()
        self.draws = list(draws)

    def randrange(self, start, stop=None, step=1):
        (low, high), value = self.draws.pop(0)
        assert (start, stop) == ((low, high) if stop is not None else (high, None))
        return value


def write_image(path, *, size=(9, 7), mode="RGB", fill=None, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    if fill is not None:
        image = Image.new(mode, size, fill)
    else:
        channels = {"L": (), "LA": (2,), "RGB": (3,), "RGBA": (4,), "CMYK": (4,)}[mode]
        pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], *channels), dtype=np.uint8)
        image = Image.fromarray(pixels, mode=mode) if mode in ("LA", "CMYK") else Image.fromarray(pixels)
    image.save(path)
    return path


def read_image(path, *, mode):
    with damage_named(path), path.open("rb") as file:
        return decoded(file, mode=mode)


def break_header(path):
    path.write_bytes(b"this is no image")


def break_pixels(path):
    """Leaves the header as it is."""
    path.write_bytes(path.read_bytes()[:-60])


def opened(path, *, image_size=4, class_names=None, **config):
    return open_training_set(DataConfig(path=path, **config), image_size=image_size, class_names=class_names)


@pytest.fixture
def folder(tmp_path):
    """Two classes, three images each."""
    for label, name in enumerate(["ant", "bee"]):
        for number in range(3):
            write_image(tmp_path / name / f"{number}.png", seed=3 * label + number)
    return tmp_path


# The published crops, bit for bit


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("image", range(6))
def test_center_crop_is_the_published_one(image, size):
    crop = center_crop(Image.fromarray(golden[f"image{image}"].numpy()), size)
    assert crop.dtype == np.uint8
    assert digest(crop).equal(golden[f"center{image}_{size}"])


@pytest.mark.parametrize("drawn", described["random_crops"], ids=lambda d: f"{d['image']}-{d['size']}-{d['seed']}")
def test_random_crop_is_the_published_one_given_the_published_draws(drawn):
    size, (height, width) = drawn["size"], drawn["resized_hw"]
    largest_side = {32: 40, 64: 80}[size]
    draws = [
        ((size, largest_side + 1), drawn["shorter_side"]),
        ((0, height - size + 1), drawn["crop_y"]),
        ((0, width - size + 1), drawn["crop_x"]),
    ]
    rng = ScriptedRandom(draws)
    crop = random_crop(Image.fromarray(golden[f"image{drawn['image']}"].numpy()), size, rng=rng)
    assert digest(crop).equal(golden[f"random{drawn['image']}_{size}_seed{drawn['seed']}"])
    assert not rng.draws


@pytest.mark.parametrize("crop", ["center", "random"])
def test_items_are_the_published_ones_given_the_published_draws(tmp_path, monkeypatch, crop):
    for item in range(4):
        pixels = golden["gray_image" if item == 3 else f"image{item}"].numpy()
        (tmp_path / "all").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "all" / f"{item}.png")
    folder = opened(tmp_path, image_size=32, mode="RGB", crop=crop, flip=True)
    # The published items were drawn from one stream each; how a stream is seeded is ours, so that alone is replaced.
    stream = random.Random
    for item in range(4):
        monkeypatch.setattr("guided_diffusion.data.batches.random.Random", lambda _, item=item: stream(100 + item))
        x0 = augmented(folder, item, 0)
        assert x0.dtype == torch.float32
        assert digest(x0.numpy()).equal(golden[f"dataset_{crop}{item}"])


def test_listing_has_the_published_order(tmp_path):
    for name in described["listing"]["created"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    images = folder_tree(tmp_path).images
    assert [name for name in images if not name.endswith(".webp")] == described["listing"]["found_in_order"]


def test_grey_crops_have_one_channel_and_equal_the_colour_ones():
    grey = Image.fromarray(golden["gray_image"].numpy())
    crop = center_crop(grey, 32)
    assert crop.shape == (32, 32, 1)
    np.testing.assert_array_equal(crop.repeat(3, axis=2), center_crop(grey.convert("RGB"), 32))


def test_a_random_crop_always_fits():
    image = Image.fromarray(golden["image4"].numpy())
    assert all(random_crop(image, 32, rng=random.Random(seed)).shape == (32, 32, 3) for seed in range(50))


def test_crops_refuse_modes_that_are_not_converted():
    with pytest.raises(ValueError, match="mode L, RGB or RGBA, not CMYK"):
        center_crop(Image.new("CMYK", (8, 8)), 4)


# Decoding and conversion


def test_transparent_pixels_become_white_and_opaque_ones_keep_their_colour(tmp_path):
    pixels = np.zeros((1, 2, 4), dtype=np.uint8)
    pixels[0, 0] = (10, 20, 30, 255)
    pixels[0, 1] = (10, 20, 30, 0)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    image = read_image(tmp_path / "x.png", mode="RGB")
    assert [image.getpixel((0, 0)), image.getpixel((1, 0))] == [(10, 20, 30), (255, 255, 255)]
    np.testing.assert_array_equal(np.asarray(read_image(tmp_path / "x.png", mode="RGBA")), pixels)


def test_opaque_alpha_changes_nothing(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 4), dtype=np.uint8)
    pixels[..., 3] = 255
    Image.fromarray(pixels).save(tmp_path / "x.png")
    np.testing.assert_array_equal(np.asarray(read_image(tmp_path / "x.png", mode="RGB")), pixels[..., :3])


def test_a_transparent_palette_entry_becomes_white(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "x.gif", transparency=1)
    image = read_image(tmp_path / "x.gif", mode="RGB")
    assert [image.getpixel((0, 0)), image.getpixel((1, 0))] == [(10, 20, 30), (255, 255, 255)]


def test_16_bit_grey_keeps_its_high_byte(tmp_path):
    Image.fromarray(np.array([[0, 0x12FF, 0xFFFF]], dtype=np.uint16)).save(tmp_path / "x.png")
    assert np.asarray(read_image(tmp_path / "x.png", mode="L")).tolist() == [[0, 0x12, 0xFF]]
    assert read_image(tmp_path / "x.png", mode="RGB").getpixel((1, 0)) == (0x12, 0x12, 0x12)


def test_cmyk_and_bilevel_convert(tmp_path):
    Image.new("CMYK", (2, 2), (0, 255, 255, 0)).save(tmp_path / "x.jpg", quality=100)
    red, green, blue = read_image(tmp_path / "x.jpg", mode="RGB").getpixel((0, 0))
    assert red > 250
    assert green < 5
    assert blue < 5
    Image.new("1", (2, 2), 1).save(tmp_path / "x.png")
    assert read_image(tmp_path / "x.png", mode="L").getpixel((0, 0)) == 255


def test_float_pixels_are_refused_without_a_window(tmp_path):
    Image.new("F", (2, 2), 0.5).save(tmp_path / "x.tiff")
    (tmp_path / "x.tiff").rename(tmp_path / "x.png")
    with pytest.raises(ValueError, match=r"x\.png has values from 0\.5 to 0\.5, of no known range; .*--data\.window"):
        read_image(tmp_path / "x.png", mode="RGB")


# What is in the folder


def test_directories_are_the_classes_in_sorted_order(tmp_path):
    write_image(tmp_path / "bee" / "2.PNG")
    write_image(tmp_path / "bee" / "10.jpg")
    write_image(tmp_path / "ant" / "deep" / "er" / "a.JPEG")
    write_image(tmp_path / "Cow" / "b.webp")
    write_image(tmp_path / "Cow" / "a.bmp")
    (tmp_path / "bee" / "notes.txt").write_text("no image")
    break_header(write_image(tmp_path / "bee" / "._10.jpg"))
    break_header(write_image(tmp_path / ".thumbnails" / "a.png"))
    folder = opened(tmp_path)
    assert folder.class_names == ("Cow", "ant", "bee")
    names = [path.relative_to(tmp_path).as_posix() for path in folder.paths]
    assert names == ["Cow/a.bmp", "Cow/b.webp", "ant/deep/er/a.JPEG", "bee/10.jpg", "bee/2.PNG"]
    assert folder.labels.tolist() == [0, 0, 1, 2, 2]
    assert folder.labels.dtype == torch.int64
    assert (len(folder), folder.channels, folder.skipped) == (5, 3, ())


def test_grey_files_make_one_channel(tmp_path):
    write_image(tmp_path / "a" / "0.png", mode="L")
    folder = opened(tmp_path)
    x0, label = folder[0]
    assert (folder.channels, x0.shape, label) == (1, (1, 4, 4), 0)


def test_pixel_range_is_minus_one_to_one(tmp_path):
    write_image(tmp_path / "a" / "0.png", fill=(0, 255, 51))
    x0, _ = opened(tmp_path)[0]
    assert torch.equal(x0, torch.tensor([-1.0, 1.0, 51 / 127.5 - 1]).reshape(3, 1, 1).expand(3, 4, 4))


def test_an_image_smaller_than_the_network_is_enlarged(tmp_path):
    write_image(tmp_path / "a" / "0.png", size=(3, 2))
    assert opened(tmp_path, image_size=16)[0][0].shape == (3, 16, 16)


def test_names_outside_ascii_are_read(tmp_path):
    write_image(tmp_path / "été 猫" / "œuf 1.png")
    folder = opened(tmp_path)
    assert folder.class_names == ("été 猫",)
    assert folder[0][0].shape == (3, 4, 4)


def test_a_bare_index_gives_the_plain_centre_crop(folder):
    varied = opened(folder, crop="random", flip=True)
    plain = opened(folder)
    for index in range(6):
        assert torch.equal(varied[index][0], plain[index][0])
        assert torch.equal(augmented(plain, index, 5), plain[index][0])


def test_augmentation_is_a_function_of_seed_and_counter_alone(folder):
    first, second = (opened(folder, crop="random", flip=True) for _ in range(2))
    forward = [augmented(first, c % 6, c, seed=3) for c in range(24)]
    random.seed(1)
    torch.manual_seed(1)
    backward = [augmented(second, c % 6, c, seed=3) for c in reversed(range(24))][::-1]
    assert all(torch.equal(a, b) for a, b in zip(forward, backward, strict=True))
    assert not all(torch.equal(forward[c], augmented(first, c % 6, c, seed=4)) for c in range(24))
    assert not all(torch.equal(forward[c], augmented(first, c % 6, c + 24, seed=3)) for c in range(24))


def test_augmentation_leaves_the_global_generators_alone(folder):
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    augmented(opened(folder, crop="random", flip=True), 0, 0)
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])


def test_half_of_the_samples_are_mirrored(folder):
    mirrored = opened(folder, flip=True)
    plain = mirrored[0][0]
    count = 0
    for counter in range(400):
        x0 = augmented(mirrored, 0, counter)
        assert torch.equal(x0, plain) or torch.equal(x0, plain.flip(-1))
        count += torch.equal(x0, plain.flip(-1))
    assert 160 <= count <= 240  # four standard deviations of a fair coin thrown 400 times are 40


# Held-out data


def test_imposed_class_names_set_the_labels(folder):
    held_out = opened(folder, class_names=["wasp", "bee", "ant"])
    assert held_out.class_names == ("wasp", "bee", "ant")
    assert held_out.labels.tolist() == [2, 2, 2, 1, 1, 1]


def test_a_class_that_is_not_among_the_imposed_ones_is_refused(folder):
    with pytest.raises(
        ValueError, match=r"holds 1 classes, 'bee' for one, that are not among the 2 asked for \(ant, cow\)"
    ):
        opened(folder, class_names=["ant", "cow"])


def test_repeated_class_names_are_refused(folder):
    with pytest.raises(ValueError, match="class names must differ from each other: ant, bee, ant"):
        opened(folder, class_names=["ant", "bee", "ant"])


# Folders that cannot be used


def test_a_missing_path_is_refused(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"there is nothing at .*nowhere; expected a folder of images \(one fold"
    ):
        opened(tmp_path / "nowhere")


def test_a_file_as_path_is_refused(tmp_path):
    (tmp_path / "data.7z").touch()
    with pytest.raises(ValueError, match=r"data\.7z is a file of no known format; .*unpack"):
        opened(tmp_path / "data.7z")


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no images in .* it holds no class folders"):
        opened(tmp_path)


def test_images_without_class_folders_are_refused(tmp_path):
    write_image(tmp_path / "a.png")
    write_image(tmp_path / "b.png")
    with pytest.raises(
        ValueError, match=r"holds images \('a\.png' and 1 more\) but no class folders; .*one folder per class"
    ):
        opened(tmp_path)


def test_images_beside_class_folders_are_refused(folder):
    write_image(folder / "stray.png")
    with pytest.raises(ValueError, match=r"images beside its class folders \('stray\.png' and 0 more\)"):
        opened(folder)


def test_an_empty_class_folder_is_refused_by_name(folder):
    (folder / "cow").mkdir()
    with pytest.raises(ValueError, match=r"class folder 'cow' in .* holds no images \(\.jpg, "):
        opened(folder)


def test_an_image_size_below_one_is_refused(folder):
    with pytest.raises(ValueError, match="at least 1, not 0"):
        opened(folder, image_size=0)


# Modes


def test_mixed_modes_are_refused_with_counts_and_two_examples(folder):
    write_image(folder / "bee" / "grey.png", mode="L")
    expected = (
        r"several modes in .*: 6 RGB, 1 L; for example ant/0\.png is RGB and bee/grey\.png is L; --data\.mode RGB"
    )
    with pytest.raises(ValueError, match=expected):
        opened(folder)


@pytest.mark.parametrize(("mode", "channels"), [("RGB", 3), ("L", 1)])
def test_an_explicit_mode_converts_mixed_files(folder, mode, channels):
    write_image(folder / "bee" / "grey.png", mode="L")
    write_image(folder / "bee" / "alpha.png", mode="RGBA")
    converted = opened(folder, mode=mode)
    assert converted.channels == channels
    assert all(converted[index][0].shape == (channels, 4, 4) for index in range(8))


@pytest.mark.parametrize(("mode", "advice"), [("RGBA", "RGB"), ("LA", "L"), ("CMYK", "RGB")])
def test_a_mode_that_is_neither_grey_nor_colour_is_refused_with_advice(tmp_path, mode, advice):
    write_image(tmp_path / "a" / ("0.jpg" if mode == "CMYK" else "0.png"), mode=mode)
    with pytest.raises(ValueError, match=rf"are of mode {mode}, .*--data\.mode {advice} converts them"):
        opened(tmp_path)
    assert opened(tmp_path, mode=advice)[0][0].shape[1:] == (4, 4)


# Broken files


def test_a_broken_header_stops_with_the_files_name_and_the_way_out(folder):
    break_header(folder / "bee" / "1.png")
    unknown = r"bee/1\.png is not a readable image \(its content is of no known image format\)"
    with pytest.raises(ValueError, match=unknown + r".*--data\.on_error skip"):
        opened(folder)


def test_postscript_and_other_formats_behind_a_pictures_name_are_never_decoded(folder, tmp_path, monkeypatch):
    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path / 'ran'}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    for format in ("EPS", "ICO"):
        Image.new("RGB", (16, 16)).save(folder / "bee" / "1.png", format=format)
        kind = rf"bee/1\.png is not a readable image \(its content is of the format {format}, which is not read\)"
        with pytest.raises(ValueError, match=kind):
            opened(folder)[1]
    assert not (tmp_path / "ran").exists()


def test_a_dangling_link_stops_with_its_name(folder):
    (folder / "bee" / "link.png").symlink_to(folder / "gone.png")
    with pytest.raises(ValueError, match=r"No such file .*bee/link\.png.*--data\.on_error skip"):
        opened(folder)
    assert len(opened(folder, on_error="skip")) == 6


def test_broken_headers_can_be_skipped_and_are_named(folder):
    break_header(folder / "bee" / "1.png")
    (folder / "ant" / "0.png").write_bytes(b"")
    kept = opened(folder, on_error="skip")
    assert kept.skipped == (folder / "ant" / "0.png", folder / "bee" / "1.png")
    assert kept.labels.tolist() == [0, 0, 1, 1]


def test_a_class_is_not_lost_by_skipping(folder):
    for path in (folder / "bee").iterdir():
        break_header(path)
    with pytest.raises(ValueError, match="every image of the class 'bee' is broken"):
        opened(folder, on_error="skip")


def test_nothing_readable_is_refused(tmp_path):
    break_header(write_image(tmp_path / "a" / "0.png"))
    with pytest.raises(ValueError, match=r"none of the 1 images in .* can be read; the first is a/0\.png"):
        opened(tmp_path, on_error="skip")


def test_damaged_pixels_stop_with_the_files_name(folder):
    break_pixels(folder / "bee" / "1.png")
    with pytest.raises(ValueError, match=r"bee/1\.png is not a readable image .*--data\.on_error skip"):
        opened(folder)[4]


def test_the_next_of_its_class_stands_in_for_damaged_pixels(folder, caplog):
    break_pixels(folder / "bee" / "2.png")
    kept = opened(folder, on_error="skip", crop="random", flip=True)
    with caplog.at_level(logging.WARNING):
        x0 = augmented(kept, 5, 77)
        augmented(kept, 5, 78)
    assert torch.equal(x0, augmented(kept, 3, 77))  # after bee/2.png comes, around the corner, bee/0.png
    assert kept[5][1] == 1
    assert len(caplog.records) == 1
    assert "bee/2.png" in caplog.text


def test_several_damaged_images_in_a_row_are_passed_over(folder):
    kept = opened(folder, on_error="skip")
    third = kept[5][0]
    break_pixels(folder / "bee" / "0.png")
    assert torch.equal(kept[3][0], kept[4][0])
    break_pixels(folder / "bee" / "1.png")
    assert torch.equal(kept[3][0], third)
    assert torch.equal(kept[4][0], third)


def test_a_class_without_decodable_pixels_is_an_error(folder):
    for path in (folder / "bee").iterdir():
        break_pixels(path)
    with pytest.raises(ValueError, match=r"no image of the class of .*bee/0\.png can be decoded; repair"):
        opened(folder, on_error="skip")[3]


def test_a_vanished_file_is_an_error_even_when_skipping(folder):
    kept = opened(folder, on_error="skip")
    (folder / "bee" / "0.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"could not read an image: No such file or directory: .*bee/0\.png"):
        kept[3]
