"""Published .pt files: which they are, what is refused, and the way to a checkpoint and back."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from oracles.golden import arrays, assert_near
from oracles.published import ARCHITECTURES, RELEASED, as_command_line, released_model, released_weights
from oracles.published import stored_flags_and_weights as stored
from torch import Tensor

from classifiers.trained_model import load_classifier
from guided_diffusion.checkpoint import open_checkpoint
from guided_diffusion.commands.export_openai import ExportConfig, export_openai
from guided_diffusion.commands.import_openai import ImportConfig, import_openai
from guided_diffusion.data.labels import imagenet_class_names
from guided_diffusion.diffusion.model import load_diffusion
from guided_diffusion.openai import convert, load_openai, revert
from guided_diffusion.openai.releases import PRESETS


@pytest.mark.parametrize("architecture", RELEASED)
def test_released_file_is_recognised_by_its_keys_and_shapes_and_name(architecture: str, tmp_path: Path):
    preset = PRESETS[RELEASED[architecture]]
    weights = released_weights(architecture, "cpu")
    file = _saved(weights, tmp_path / f"{RELEASED[architecture]}.pt")
    loaded = load_openai(file)
    names = list(imagenet_class_names()) if preset.classes == "imagenet" else []
    assert (loaded.kind, loaded.config) == (
        preset.kind,
        {**released_model(architecture).config, "class_names": names},
    )
    assert loaded.config["network"]["dropout"] == ARCHITECTURES[architecture]["hyperparameters"]["dropout"]


def test_released_file_is_recognised_under_another_name(tmp_path: Path):
    file = _saved(released_weights("lsun_cat", "cpu"), tmp_path / "model.pt")
    assert load_openai(file).config["class_names"] == list(imagenet_class_names())
    file = _saved(released_weights("classifier_128", "cpu"), tmp_path / "lsun_cat.pt")
    assert load_openai(file).kind == "classifier"


def test_classes_under_given_flags_are_imagenets_or_named_by_their_labels(tmp_path: Path):
    flags, weights = stored("unet_u03")
    file = _saved(weights, tmp_path / "own.pt")
    assert load_openai(file, flags).config["class_names"] == [str(label) for label in range(7)]
    file = _saved(released_weights("classifier_256", "cpu"), tmp_path / "own.pt")
    assert load_openai(file, PRESETS["256x256_classifier"].flags).config["class_names"] == list(imagenet_class_names())


def test_imagenet_classes_have_a_thousand_names_in_label_order():
    names = imagenet_class_names()
    assert len(set(names)) == 1000
    assert (names[0], names[1], names[207], names[999]) == ("tench", "goldfish", "golden retriever", "toilet tissue")


def test_an_unknown_file_is_refused_naming_the_nearest_and_the_first_difference(tmp_path: Path):
    weights = released_weights("imagenet128_class_cond", "cpu")
    weights["input_blocks.0.0.weight"] = torch.zeros(()).expand(256, 4, 3, 3)
    file = _saved(weights, tmp_path / "odd.pt")
    wanted = (
        r"odd.pt is none of the released files: nearest is 128x128_diffusion.pt, with 492 of its 493 tensors among "
        r'these 493; the first difference is "input_blocks.0.0.weight" '
        r"\(here \(256, 4, 3, 3\), there \(256, 3, 3, 3\)\)"
    )
    with pytest.raises(ValueError, match=wanted):
        load_openai(file)


def test_a_file_that_would_run_code_is_refused_and_runs_none(tmp_path: Path):
    trace = tmp_path / "trace"

    class Payload:
        def __reduce__(self) -> tuple[Any, tuple[str, str]]:
            return _leave_trace, (str(trace), "ran")

    file = tmp_path / "payload.pt"
    torch.save({"weight": Payload()}, file)
    with pytest.raises(
        ValueError,
        match=r"payload.pt holds no state dict that can be read without running its code \([\w.]+_leave_trace\); where",
    ):
        load_openai(file)
    assert not trace.exists()
    torch.load(file, weights_only=False)  # the payload is live: unrestricted unpickling runs it
    assert trace.exists()


def _leave_trace(path: str, text: str) -> None:
    Path(path).write_text(text)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and nothing", b"not a pickle", b"\x80\x02X"])
def test_a_file_that_torch_cannot_read_is_refused(content: bytes, tmp_path: Path):
    file = tmp_path / "broken.pt"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"broken.pt is damaged, or was written neither by torch.save nor as safeten"):
        load_openai(file)


@pytest.mark.parametrize("content", [[1, 2], {"step": 3}, torch.zeros(2)])
def test_a_file_without_tensors_by_name_is_refused(content: object, tmp_path: Path):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"other.pt must hold tensors by name"):
        load_openai(tmp_path / "other.pt")


def test_a_missing_file_is_refused(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"no file .*64x64_diffusion.pt; give a published .pt file"):
        load_openai(tmp_path / "64x64_diffusion.pt")


@pytest.mark.parametrize("zipped", [True, False])
def test_files_of_new_and_old_torch_are_read_and_not_written_to(zipped: bool, tmp_path: Path):
    flags, weights = stored("unet_u01")
    torch.save(weights, tmp_path / "u.pt", _use_new_zipfile_serialization=zipped)
    before = (tmp_path / "u.pt").read_bytes()
    loaded, converted = load_openai(tmp_path / "u.pt", flags), convert(flags, weights)
    assert all(torch.equal(loaded.weights[key], converted.weights[key]) for key in converted.weights)
    assert (tmp_path / "u.pt").read_bytes() == before


def test_imported_diffusion_model_gives_the_published_output_and_exports_to_the_same_file(tmp_path: Path):
    run, back, numbers = _imported("unet_u01", tmp_path), tmp_path / "back.pt", arrays("unet_u01")
    model = load_diffusion(run)
    assert model.weights == "ema_0.9999"
    assert_near(model.network(numbers["x"], numbers["t"], numbers["y"]), numbers["output"], 1e-5)
    export_openai(ExportConfig(run=run, out=back))
    exported, weights = torch.load(back, weights_only=True), stored("unet_u01")[1]
    assert list(exported) == list(weights)
    assert all(torch.equal(exported[key], weights[key]) for key in weights)
    assert [file.name for file in tmp_path.glob(".partial*")] == []


@pytest.mark.parametrize("name", ["unet_u02", "classifier_c06_adaptive_nonsquare"])
def test_a_model_of_the_new_attention_order_is_exported_in_it(name: str, tmp_path: Path, capsys):
    flags, weights = stored(name)
    assert flags.get("use_new_attention_order", flags.get("classifier_use_new_attention_order"))
    export_openai(ExportConfig(run=_imported(name, tmp_path), out=tmp_path / "back.pt"))
    exported = torch.load(tmp_path / "back.pt", weights_only=True)
    assert list(exported) == list(weights)
    assert all(torch.equal(exported[key], weights[key]) for key in weights)
    assert "use_new_attention_order True" in capsys.readouterr().out.splitlines()[-1]


def test_flags_of_a_far_larger_network_are_refused_before_it_is_built(tmp_path: Path):
    flags, weights = stored("unet_u01")
    for huge in ({"num_res_blocks": 10**6}, {"num_channels": 32 * 10**3}):
        with pytest.raises(
            ValueError, match=r"the flags describe a unet of .* parameters or more, but the weights have"
        ):
            load_openai(_saved(weights, tmp_path / "u.pt"), {**flags, **huge})


def test_exported_flags_import_the_same_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = _imported("unet_u02", tmp_path)
    capsys.readouterr()
    export_openai(ExportConfig(run=run, out=tmp_path / "back.pt"))
    flags = capsys.readouterr().out.splitlines()[-1]
    again = import_openai(ImportConfig(file=tmp_path / "back.pt", out=tmp_path / "again", flags=flags))
    checkpoints = [open_checkpoint(path, "diffusion") for path in (run, again)]
    assert checkpoints[0].model == checkpoints[1].model
    assert checkpoints[0].weights_file().read_bytes() == checkpoints[1].weights_file().read_bytes()


@pytest.mark.parametrize("setting", ["prediction=v", "chain.schedule=offset_cosine", "network.null_class=yes"])
def test_what_has_no_published_flags_is_refused_on_export(setting: str):
    converted = convert(*stored("unet_u03"))
    (name, value), config = setting.split("="), {**converted.config}
    part, _, key = name.rpartition(".")
    config |= {part: {**config[part], key: value}} if part else {key: value}
    with pytest.raises(ValueError, match=f"no published flag stands for {name}"):
        revert(replace(converted, config=config))


def test_imported_classifier_gives_the_published_logits(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    numbers = arrays("classifier_c01_attention")
    classifier = load_classifier(_imported("classifier_c01_attention", tmp_path))
    assert classifier.weights == "network"
    last = classifier.class_names[-1]
    assert f"kind classifier, {len(classifier.class_names)} classes named 0 to {last};" in capsys.readouterr().out
    assert_near(classifier.network(numbers["x"], numbers["t"]), numbers["logits"], 1e-5)


def test_imported_upsampler_is_a_checkpoint_of_its_own_kind(tmp_path: Path):
    checkpoint = open_checkpoint(_imported("unet_u05_superres", tmp_path), "upsampler")
    assert checkpoint.weight_names == ("ema_0.9999",)
    assert checkpoint.model["network"]["low_res_size"] == 16
    with pytest.raises(ValueError, match='kind "upsampler", but kind "diffusion" is needed'):
        open_checkpoint(checkpoint.path, "diffusion")


def test_an_import_into_a_run_with_another_checkpoint_is_refused(tmp_path: Path):
    run = _imported("unet_u08_onelevel_dropout", tmp_path)
    flags, weights = stored("unet_u08_onelevel_dropout")
    again = ImportConfig(file=tmp_path / "published.pt", out=run, flags=as_command_line(flags))
    others = [replace(again, flags=f"{again.flags} --dropout 0.5")]
    _saved({**weights, "out.2.bias": weights["out.2.bias"] + 1}, tmp_path / "other.pt")
    others += [replace(again, file=tmp_path / "other.pt")]
    for other in others:
        with pytest.raises(ValueError, match="already; give --out a new run directory"):
            import_openai(other)


def test_the_same_import_again_finds_its_result_whole(tmp_path: Path, capsys):
    run = _imported("unet_u08_onelevel_dropout", tmp_path)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    assert _imported("unet_u08_onelevel_dropout", tmp_path) == run
    assert "is this import, whole already" in capsys.readouterr().out
    weights = run / "checkpoint-0000000/ema_0.9999.safetensors"
    assert before[weights] == weights.stat().st_mtime_ns
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ValueError, match="ema_0.9999.safetensors is damaged"):
        _imported("unet_u08_onelevel_dropout", tmp_path)


def test_class_names_can_be_taken_from_a_class_folder(tmp_path):
    flags, weights = stored("unet_u01")
    folder = tmp_path / "train"
    for name in "jihgfedcba":
        (folder / f"n{name}").mkdir(parents=True)
    config = ImportConfig(
        file=_saved(weights, tmp_path / "published.pt"),
        out=tmp_path / "run",
        flags=as_command_line(flags),
        classes=folder,
    )
    assert load_diffusion(import_openai(config)).config.class_names == tuple(f"n{name}" for name in "abcdefghij")
    (folder / "nk").mkdir()
    with pytest.raises(ValueError, match="holds 11 class folders, but the model knows 10 classes"):
        import_openai(replace(config, out=tmp_path / "other"))


def _saved(weights: dict[str, Tensor], file: Path) -> Path:
    torch.save(weights, file)
    return file


def _imported(name: str, directory: Path) -> Path:
    """Run directory of a small published network."""
    flags, weights = stored(name)
    file = _saved(weights, directory / "published.pt")
    import_openai(ImportConfig(file=file, out=directory / "run", flags=as_command_line(flags)))
    return directory / "run"
