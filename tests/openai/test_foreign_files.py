"""Files of the published layout that are not ADM's released ones: of other projects, wrapped, fine-tuned.

Over 300 lines because the forms are a list, whose helpers they share.

Weights are the stored networks'. Every form is compared with its bare weights under their full flags, or with a network
whose output follows from another's.
"""

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from oracles.golden import arrays, assert_near
from oracles.published import as_command_line, built, released_weights
from oracles.published import stored_flags_and_weights as stored
from torch import Tensor

from guided_diffusion.checkpoint import open_checkpoint, write_tensors
from guided_diffusion.commands.export_openai import ExportConfig, export_openai
from guided_diffusion.commands.import_openai import ImportConfig, import_openai
from guided_diffusion.diffusion.schedules import ChainConfig, make_chain
from guided_diffusion.openai import convert, fingerprint, load_openai
from guided_diffusion.openai.flags import config_of, parse_command_line, read_flags
from guided_diffusion.openai.layout import layout_of
from guided_diffusion.openai.releases import PRESETS

SMALL = "unet_u08_onelevel_dropout"


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("cifar10_uncond_50M_500K", 52.5),
        ("imagenet64_uncond_100M_1500K", 121),
        ("imagenet64_cond_270M_250K", 273),
        ("upsample_cond_500K", 280),
        ("lsun_uncond_100M_2400K_bs64", 114),
        ("ffhq_10m", 93.6),
        ("32x32_classifier", 47.8),
    ],
)
def test_files_that_other_projects_released_have_their_published_size_and_print(name: str, millions: float):
    preset = PRESETS[name]
    shapes = layout_of(preset.kind, config_of(read_flags(preset.flags), preset.kind, num_classes=1000)["network"])
    assert fingerprint(shapes.published) == preset.fingerprint
    assert sum(torch.Size(shape).numel() for shape in shapes.published.values()) / 1e6 == pytest.approx(millions, 0.005)


@pytest.mark.parametrize(
    ("form", "entry"),
    [
        ({"state_dict": "weights"}, "state_dict"),
        ({"network": "weights", "step": 3}, "network"),
        ({"model": "other", "ema": "weights", "opt": {"state": {0: torch.ones(2)}, "param_groups": [{}]}}, "ema"),
        ({"ema_model": {"module": "weights"}, "model": "other"}, "ema_model.module"),
        ({"checkpoint": {"state": {"net": "weights"}}}, "checkpoint.state.net"),
        ("module.", "module"),
        ("_orig_mod.", "_orig_mod"),
        ("model.diffusion_model.", "model.diffusion_model"),
    ],
)
def test_networks_are_found_in_wrappers_and_below_prefixes(form: Any, entry: str, tmp_path: Path):
    flags, weights = stored(SMALL)
    named = {"weights": weights, "other": {key: -tensor for key, tensor in weights.items()}}

    def filled(form: Any) -> Any:
        if isinstance(form, dict):
            return {key: filled(value) for key, value in form.items()}
        return named.get(form, form) if isinstance(form, str) else form

    content = {f"{form}{key}": tensor for key, tensor in weights.items()} if isinstance(form, str) else filled(form)
    loaded, bare = load_openai(_saved(content, tmp_path / "wrapped.pt"), flags), convert(flags, weights)
    assert loaded.config == {**bare.config, "class_names": []}
    assert all(torch.equal(loaded.weights[key], bare.weights[key]) for key in bare.weights)
    assert f'taken from wrapped.pt: its entry "{entry}"' in loaded.notes[0]
    assert ('the averaged weights of "' in loaded.notes[0]) == ("other" in str(form))
    assert loaded.weights_name == ("ema_0.9999" if "ema" in entry else "network")


def test_several_networks_are_never_guessed_between_and_an_entry_takes_any(tmp_path: Path):
    flags, weights = stored(SMALL)
    negative = {key: -tensor for key, tensor in weights.items()}
    file = _saved(
        {"ema": {"0.99": weights, "0.999": negative}, "model": weights, "betas": torch.ones(3)}, tmp_path / "w.pt"
    )
    with pytest.raises(ValueError, match=r'several networks: "ema.0.99", "ema.0.999", "model"; say by --entry'):
        load_openai(file, flags)
    taken = load_openai(file, flags, entry="ema.0.999")
    assert torch.equal(taken.weights["conv_out.weight"], negative["out.2.weight"])
    assert "other tensors are left aside" in taken.notes[0]
    assert load_openai(file, flags, entry="model").weights_name == "network"
    for entry, fault in (("ema", "several"), ("raw", "none")):
        with pytest.raises(ValueError, match=f"--entry {entry} is {fault} of the networks in"):
            load_openai(file, flags, entry=entry)


@pytest.mark.parametrize(
    ("stem", "weights_name", "iteration"),
    [
        ("ema_0.999_000002", "ema_0.999", 2),
        ("model500000", "network", 500000),
        ("model", "ema_0.9999", 0),
    ],
)
def test_a_trainers_file_name_gives_the_weights_their_name_and_iteration(stem, weights_name, iteration, tmp_path: Path):
    flags, weights = stored(SMALL)
    file = _saved(weights, tmp_path / f"{stem}.pt")
    run = import_openai(ImportConfig(file=file, out=tmp_path / "run", flags=as_command_line(flags)))
    checkpoint = open_checkpoint(run, "diffusion")
    assert (checkpoint.weight_names, checkpoint.iteration) == ((weights_name,), iteration)
    assert import_openai(ImportConfig(file=file, out=tmp_path / "run", flags=as_command_line(flags))) == run


def test_an_optimisers_file_is_refused_by_its_name_and_by_its_content(tmp_path: Path):
    state = torch.optim.AdamW([torch.ones(2, requires_grad=True)]).state_dict()
    for name in ("opt500000.pt", "best.pt"):
        with pytest.raises(ValueError, match=r"an optimiser's state, no network; give the model\*.pt or ema_\*.pt"):
            load_openai(_saved(state, tmp_path / name), {})


def _with_channels(weights: Mapping[str, Tensor], channels: int) -> dict[str, Tensor]:
    """The network of colour images for images of 1 channel, shown thrice, or of 4, the last one ignored."""
    first, scale, shift = (weights[key] for key in ("input_blocks.0.0.weight", "out.2.weight", "out.2.bias"))
    if channels == 1:
        first = first.sum(dim=1, keepdim=True)
        scale, shift = scale[::3], shift[::3]
    else:
        first = torch.cat([first, torch.zeros_like(first[:, :1])], dim=1)
        rows = [0, 1, 2, 2, 3, 4, 5, 5][: 4 * len(scale) // 3]
        scale, shift = scale[rows], shift[rows]
    return {**weights, "input_blocks.0.0.weight": first, "out.2.weight": scale, "out.2.bias": shift}


@pytest.mark.parametrize(
    ("channels", "name"), [(1, "unet_u01"), (4, "unet_u06_nonsquare")]
)  # the first learns a variance
def test_images_of_other_channels_give_what_colour_images_imply(channels: int, name: str, tmp_path: Path):
    flags, weights = stored(name)
    weights = _with_channels(weights, channels)
    file = _saved(weights, tmp_path / "own.pt")
    loaded, numbers = load_openai(file, flags), arrays(name)
    x, y = numbers["x"], [numbers["y"]] if "y" in numbers else []
    grey = x[:, :1].expand_as(x)
    expected = built(convert(*stored(name)))(grey if channels == 1 else x, numbers["t"], *y)
    mine = built(loaded)(x[:, :1] if channels == 1 else torch.cat([x, x[:, :1]], dim=1), numbers["t"], *y)
    shown = [0, 3] if channels == 1 else [0, 1, 2, 2, 3, 4, 5, 5]
    assert_near(mine, expected[:, shown[: mine.shape[1]]], 1e-5)
    assert loaded.config["variance"] == ("learned_range" if mine.shape[1] == 2 * channels else "large")
    run = import_openai(ImportConfig(file=file, out=tmp_path / "run", flags=as_command_line(flags)))
    _assert_exports_to(weights, run, tmp_path)


def _assert_exports_to(weights: Mapping[str, Tensor], run: Path, directory: Path) -> None:
    export_openai(ExportConfig(run=run, out=directory / "back.pt"))
    back = torch.load(directory / "back.pt", weights_only=True)
    assert list(back) == list(weights)
    assert all(torch.equal(back[key], weights[key]) for key in weights)


def test_a_file_of_two_kinds_asks_which_and_is_read_as_either(tmp_path: Path):
    flags, weights = stored("unet_u05_superres")
    file = _saved(weights, tmp_path / "ema_0.9999_000100.pt")
    which = (
        r"a U-Net of 6-channel images whose variance is not learned, or of an upsampler of 3-.*--kind unet or --kind"
    )
    with pytest.raises(ValueError, match=which):
        load_openai(file, {"num_heads": 4})
    with pytest.raises(ValueError, match='shows the size of its images: give it by --flags, as "--small_size 64"'):
        load_openai(file, {"large_size": 32}, kind="upsampler")
    sizes = {"large_size": 32, "small_size": 16}
    upsampler, numbers = load_openai(file, sizes), arrays("unet_u05_superres")
    assert upsampler.config == {**convert(flags, weights).config, "class_names": list("0123456789")}
    assert_near(
        built(upsampler)(numbers["x"], numbers["t"], numbers["y"], low_res=numbers["low_res"]), numbers["output"], 1e-5
    )
    image_model = load_openai(file, {"image_size": 32})
    assert (image_model.kind, image_model.config["network"]["in_channels"]) == ("unet", 6)
    with pytest.raises(ValueError, match="holds no classifier; its tensors fit unet or upsampler"):
        load_openai(file, sizes, kind="classifier")


def test_what_no_tensor_shows_is_noted_with_its_flag_unless_it_was_given(tmp_path: Path):
    flags, weights = stored("unet_u02")
    file = _saved(weights, tmp_path / "own.pt")
    with pytest.raises(ValueError, match=r'no tensor of .*own.pt shows the size of its images: .*"--image_size 64"'):
        load_openai(file)
    (note,) = load_openai(file, {"image_size": 32}).notes
    assumed = (
        "--num_heads 4 --use_new_attention_order False --dropout 0.0 --noise_schedule linear --diffusion_steps 1000 "
        "--rescale_timesteps False --predict_xstart False --sigma_small False"
    )
    assert f"no tensor shows these flags, assumed at the defaults of guided-diffusion: {assumed};" in note
    (note,) = load_openai(file, flags).notes
    assert "heads" not in note
    assert "--noise_schedule linear" in note


def test_improved_diffusions_defaults_are_had_by_its_name(tmp_path: Path):
    flags, weights = stored("unet_u02")
    text = f"improved-diffusion {as_command_line(flags)} --diffusion_steps 4000 --rescale_learned_sigmas True"
    loaded = load_openai(_saved(weights, tmp_path / "own.pt"), parse_command_line(text))
    assert loaded.config["chain"] == {"schedule": "linear", "num_steps": 4000, "rescale_t": True}
    t = make_chain(ChainConfig(**loaded.config["chain"])).t
    assert torch.equal(t, torch.arange(4000, dtype=torch.float64) * (1000 / 4000))
    numbers = arrays("unet_u02")
    assert_near(built(loaded)(numbers["x"], numbers["t"]), numbers["output"], 1e-5)
    assert read_flags({"family": "improved-diffusion", "rescale_timesteps": False}).rescale_timesteps is False
    with pytest.raises(ValueError, match=r"flags cannot be read \(No closing quotation\), got --image_size '64"):
        parse_command_line("--image_size '64")
    with pytest.raises(ValueError, match='of no known family "diffusers"; known are guided-diffusion, improved'):
        read_flags({"family": "diffusers"})


def test_a_fine_tuned_file_of_a_released_architecture_gets_the_released_files_flags(tmp_path: Path):
    weights = released_weights("classifier_64", "cpu")
    for key in ("out.2.c_proj.weight", "out.2.c_proj.bias"):
        weights[key] = torch.zeros(()).expand(10, *weights[key].shape[1:])
    loaded = load_openai(_saved(weights, tmp_path / "model010000.pt"))
    assert loaded.config["class_names"] == [str(label) for label in range(10)]
    assert loaded.config["chain"]["schedule"] == "cosine"
    assert loaded.config["network"]["image_size"] == 64
    assert (loaded.weights_name, loaded.iteration) == ("network", 10000)
    assumed = "assumed as of 64x64_classifier.pt, whose architecture it has: --classifier_num_head_channels 64"
    assert assumed in loaded.notes[0]  # its learned positions show the image size


@pytest.mark.parametrize(("name", "size"), [("ffhq_10m", 256), ("cifar10_uncond_50M_500K", 32)])
def test_a_network_of_the_default_width_is_known_by_its_architecture_too(name: str, size: int, tmp_path: Path):
    preset = PRESETS[name]
    network = config_of(read_flags(preset.flags), "unet", num_classes=1, in_channels=1)["network"]
    shapes = layout_of("unet", network).published
    loaded = load_openai(_saved({key: torch.zeros(()).expand(shape) for key, shape in shapes.items()}, tmp_path / "1"))
    assert (loaded.config["network"]["in_channels"], loaded.config["network"]["image_size"]) == (1, size)
    assert f"assumed as of {name}.pt, whose architecture it has: --image_size {size}" in loaded.notes[0]


def test_a_depth_that_is_given_settles_what_the_tensors_leave_open(tmp_path: Path):
    options = {"classifier_attention_resolutions": "16", "classifier_num_heads": 1, "classifier_channel_mult": "1,1,1"}
    flags = {"image_size": 8, "classifier_width": 32, "classifier_pool": "adaptive", **options}
    network = config_of(read_flags(flags), "classifier", num_classes=2)["network"]
    shapes = layout_of("classifier", network).published
    file = _saved({key: torch.zeros(shape) for key, shape in shapes.items()}, tmp_path / "c.pt")
    with pytest.raises(ValueError, match="fit 2 or 8 residual blocks a level; give it by --flags, as --classifier_dep"):
        load_openai(file, {"image_size": 8, "classifier_num_heads": 1})
    loaded = load_openai(file, {"image_size": 8, "classifier_num_heads": 1, "classifier_depth": 2})
    assert loaded.config["network"] == network


def test_options_beside_the_tensors_are_read_and_a_model_of_latents_is_refused(tmp_path: Path):
    flags, weights = stored(SMALL)
    parameters = {key: torch.nn.Parameter(tensor) for key, tensor in weights.items()}
    content = {"args": Namespace(lr=1e-4, dims=(1, 2)), "state_dict": parameters}
    loaded, bare = load_openai(_saved(content, tmp_path / "own.pt"), flags), convert(flags, weights)
    assert all(torch.equal(loaded.weights[key], bare.weights[key]) for key in bare.weights)
    content = {"model.diffusion_model": weights, "first_stage_model.conv.bias": torch.ones(1)}
    with pytest.raises(ValueError, match=r'is of latents, with an autoencoder \("first_stage_model.conv.bias"\)'):
        load_openai(_saved(content, tmp_path / "own.pt"), flags)
    with pytest.raises(ValueError, match=r"--entry ema is none of the networks in .*own.pt: the file itself"):
        load_openai(_saved(weights, tmp_path / "own.pt"), flags, entry="ema")
    with pytest.raises(ValueError, match=r'none of the released files: .*"conv.bias", are of another layout'):
        load_openai(_saved({"conv.bias": torch.ones(1)}, tmp_path / "own.pt"), flags)


def test_the_kind_of_a_fine_tuned_file_is_that_of_the_only_released_one_of_its_architecture(tmp_path: Path):
    weights = released_weights("upsampler_64_to_256", "cpu")
    weights["label_emb.weight"] = torch.zeros(()).expand(5, weights["label_emb.weight"].shape[1])
    loaded = load_openai(_saved(weights, tmp_path / "own.pt"))
    assert (loaded.kind, loaded.config["network"]["num_classes"]) == ("upsampler", 5)
    assert "as of 64_256_upsampler.pt, whose architecture it has: --large_size 256" in loaded.notes[0]
    file = _saved(released_weights("upsampler_64_to_256", "cpu"), tmp_path / "64_256_upsampler.pt")
    with pytest.raises(ValueError, match="holds no classifier; its tensors fit unet or upsampler"):
        load_openai(file, kind="classifier")


def test_numbers_that_are_not_finite_or_not_real_are_refused_by_the_tensors_name(tmp_path: Path):
    flags, weights = stored(SMALL)
    for bad in (torch.tensor([1.0, torch.nan, 1]), torch.tensor([1.0, -torch.inf, 1])):
        with pytest.raises(ValueError, match=r'"out.2.bias" in .*w.pt has numbers that are not finite'):
            load_openai(_saved({**weights, "out.2.bias": bad}, tmp_path / "w.pt"), flags)
    with pytest.raises(ValueError, match=r'"out.2.bias" in .*w.pt is of type torch.int8; give a file of'):
        load_openai(_saved({**weights, "out.2.bias": torch.ones(3, dtype=torch.int8)}, tmp_path / "w.pt"), flags)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_files_are_read_as_what_they_hold(dtype: torch.dtype, tmp_path: Path):
    flags, weights = stored(SMALL)
    half = {key: tensor.to(dtype) for key, tensor in weights.items()}
    loaded = load_openai(_saved(half, tmp_path / "half.pt"), flags)
    expected = convert(flags, {key: tensor.float() for key, tensor in half.items()})
    assert all(torch.equal(loaded.weights[key], expected.weights[key]) for key in expected.weights)


@pytest.mark.parametrize("name", ["own.safetensors", "own.pt"])
def test_safetensors_are_read_whatever_their_files_name(name: str, tmp_path: Path):
    flags, weights = stored(SMALL)
    write_tensors({f"module.{key}": tensor for key, tensor in weights.items()}, tmp_path / name)
    loaded = load_openai(tmp_path / name, flags)
    assert torch.equal(loaded.weights["conv_out.bias"], weights["out.2.bias"])


def test_an_import_of_a_wrapped_file_in_the_new_order_exports_to_its_bare_weights(tmp_path: Path):
    flags, weights = stored("unet_u02")
    file = _saved({"state_dict": {f"module.{key}": tensor for key, tensor in weights.items()}}, tmp_path / "own.pt")
    run = import_openai(ImportConfig(file=file, out=tmp_path / "run", flags=as_command_line(flags)))
    _assert_exports_to(weights, run, tmp_path)


def _saved(content: object, file: Path) -> Path:
    torch.save(content, file)
    return file
