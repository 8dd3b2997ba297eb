"""Pipelines of diffusers: networks and samples that agree with ours both ways, and what neither side can say."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.testing import assert_close

from classifiers.model import ClassifierConfig, NoisyClassifier
from classifiers.trained_model import ClassifierModelConfig, load_classifier
from guided_diffusion.checkpoint import save_checkpoint
from guided_diffusion.commands.export_diffusers import ExportDiffusersConfig, export_diffusers
from guided_diffusion.commands.import_diffusers import ImportDiffusersConfig, import_diffusers
from guided_diffusion.config import from_plain, to_plain
from guided_diffusion.diffusers import load_diffusers, write_pipeline
from guided_diffusion.diffusers.unet_config import network_config
from guided_diffusion.diffusion.denoiser import bounded
from guided_diffusion.diffusion.model import DiffusionConfig, load_diffusion
from guided_diffusion.diffusion.noise import SeededNoise
from guided_diffusion.diffusion.schedules import ChainConfig, make_chain, sampling_chain
from guided_diffusion.guidance.classifier import classifier_score
from guided_diffusion.guidance.classifier_free import extrapolated
from guided_diffusion.guidance.score import tilted
from guided_diffusion.models.unet import UNet, UNetConfig
from guided_diffusion.samplers import ddim, ddpm
from guided_diffusion.training.source import open_source

CLASSES = ("dark", "light", "grey")
SMALL: dict[str, Any] = {
    "image_size": 8, "base_channels": 32, "channel_mult": (1, 2), "attention_sizes": (4,), "blocks_per_level": 1,
    "head_channels": 32, "in_channels": 1, "out_channels": 2,
}  # fmt: skip


def config(*, chain: ChainConfig | None = None, **options: Any) -> DiffusionConfig:
    own = {name: options.pop(name) for name in ("prediction", "variance", "class_names") if name in options}
    return DiffusionConfig(
        network=UNetConfig(**(SMALL | options)), chain=chain or ChainConfig(schedule="cosine", num_steps=40), **own
    )


MODELS = {
    "ADM's blocks": config(),
    "convolutions, rescaled steps and classes with a null class": config(
        chain=ChainConfig(schedule="linear", num_steps=2000, rescale_t=True), resample="conv",
        num_classes=3, null_class=True, class_names=CLASSES,
    ),
    "no parameters of resampling, shifts, one head, continuous time": config(
        chain=ChainConfig(schedule="offset_cosine", num_steps=40), resample="plain", modulation="add", out_channels=1,
        head_channels=None, heads=1, attention_sizes=(8, 4), variance="large", prediction="v", dropout=0.1,
    ),
}  # fmt: skip


def randomised(network: nn.Module) -> Any:
    """The network in evaluation mode, all its parameters random and none 0."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            scale = 0.3 if parameter.ndim == 1 else parameter[0].numel() ** -0.5
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    return network.eval()


def exported(model: DiffusionConfig, out: Path) -> nn.Module:
    """A random network of this model, written to `out`."""
    network = randomised(UNet(model.network))
    write_pipeline(out, model, network.state_dict())
    return network


@pytest.fixture(scope="module")
def diffusers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The library, whose copies of loaded code go into a directory of the test's own."""
    os.environ["HF_MODULES_CACHE"] = str(tmp_path_factory.mktemp("modules"))
    pytest.importorskip("diffusers.models", reason="diffusers is not installed")
    import diffusers

    diffusers.utils.logging.disable_progress_bar()
    yield diffusers
    del os.environ["HF_MODULES_CACHE"]


def test_exported_networks_compute_what_ours_do(diffusers, tmp_path: Path):
    for number, model in enumerate(MODELS.values()):
        ours = exported(model, tmp_path / str(number))
        theirs = diffusers.UNet2DModel.from_pretrained(tmp_path / str(number), subfolder="unet")
        k = torch.tensor([0, 11, model.chain.num_steps - 1])
        t = make_chain(model.chain).t[k].float()
        y = torch.tensor([0, 2, 3]) if model.is_conditional else None
        x_t = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))
        for dtype, atol in ((torch.float32, 1e-5), (torch.float64, 1e-13)):
            with torch.no_grad():
                output = theirs.to(dtype)(x_t.to(dtype), k, class_labels=y).sample
                assert_close(output, ours.to(dtype)(x_t.to(dtype), t, y), atol=atol, rtol=0)


def test_exported_pipelines_draw_our_samples_from_our_noise(diffusers, tmp_path: Path):
    run, classifier_run = trained(tmp_path)
    model, classifier = load_diffusion(run), load_classifier(classifier_run)
    export_diffusers(ExportDiffusersConfig(run=run, out=tmp_path / "plain"))
    export_diffusers(ExportDiffusersConfig(run=run, out=tmp_path / "fixed", variance="small"))
    export_diffusers(ExportDiffusersConfig(run=run, out=tmp_path / "guided", classifier=classifier_run))
    y = torch.tensor([0, 2])

    def both(pipeline: Any, sampler: str, steps: int, scale: float, **options: Any) -> tuple[Tensor, Tensor]:
        noise, again = SeededNoise(0, (0, 1)), SeededNoise(0, (0, 1))
        pipeline.set_progress_bar_config(disable=True)
        options |= {"class_labels": y.tolist(), "classifier_scale": scale} if scale else {"batch_size": 2}
        shown = pipeline(generator=again.generators, num_inference_steps=steps, output_type="np", **options).images
        x_T, term = noise(torch.zeros(2, 1, 8, 8)), classifier_score(classifier.log_prob, y, scale)
        chain = sampling_chain(model.config.chain, f"{'ddim' * (sampler == 'ddim')}{steps}")
        denoiser = model.denoiser(None)
        if sampler == "ddpm":
            drawn = ddpm(denoiser, chain, x_T, noise, mean_shift=term)
        else:
            drawn = ddim(tilted(denoiser, term), chain, x_T, noise, eta=options["eta"])
        return torch.from_numpy(shown), (drawn / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)

    plain = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "plain")
    assert type(plain) is diffusers.DDPMPipeline
    assert_close(*both(plain, "ddpm", 40, 0.0), atol=1e-4, rtol=0)  # the scheduler computes its chain in float32
    fixed = diffusers.DDPMPipeline.from_pretrained(tmp_path / "fixed")  # of which DDIM's scheduler takes all channels
    steps = diffusers.DDIMPipeline(fixed.unet, diffusers.DDIMScheduler.from_config(fixed.scheduler.config))
    assert_close(*both(steps, "ddim", 10, 0.0, eta=0.0, use_clipped_model_output=True), atol=1e-5, rtol=0)
    guided = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "guided", trust_remote_code=True)
    assert guided.config.id2label == {"0": "dark", "1": "light", "2": "grey"}
    for sampler, steps, options in (
        ("ddpm", 7, {}),
        ("ddim", 10, {"eta": 0.0}),
        ("ddim", 8, {"eta": 1.0}),
    ):
        assert_close(*both(guided, sampler, steps, 3.0, **options), atol=1e-5, rtol=0)
    assert_close(*both(guided, "ddpm", 7, 0.0), atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="guidance_scale needs class_labels, and a network with a label for no class"):
        guided([1], guidance_scale=3.0, num_inference_steps=7)
    options = {"custom_pipeline": "guided_pipeline", "trust_remote_code": True}
    unguided = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "plain", **options)
    with pytest.raises(ValueError, match="class_labels need a classifier, or a network that is conditioned on the cla"):
        unguided([1])


def test_exported_classifiers_compute_what_ours_do(diffusers, tmp_path: Path):
    model = MODELS["no parameters of resampling, shifts, one head, continuous time"]
    shared = {name: getattr(model.network, name) for name in (*SMALL, "heads", "resample", "modulation")}
    del shared["out_channels"]
    network = ClassifierConfig(**shared, num_classes=3, pooling="adaptive")
    run = tmp_path / "classifier"
    described = ClassifierModelConfig(network=network, chain=model.chain, class_names=CLASSES)
    weights = {"network": randomised(NoisyClassifier(network)).state_dict()}
    save_checkpoint(run, kind="classifier", iteration=0, model=to_plain(described), run={}, weights=weights)
    classifier, unet = load_classifier(run), UNet(model.network).state_dict()
    write_pipeline(tmp_path / "out", model, unet, classifier)
    guided = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "out", trust_remote_code=True)
    x_t, k = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 39])
    with torch.no_grad():
        expected = classifier.network(x_t, make_chain(model.chain).t[k].float())
        assert_close(guided.classifier(x_t, k), expected, atol=1e-5, rtol=0)


def test_an_exported_null_class_guides_as_ours(diffusers, tmp_path: Path):
    model = MODELS["convolutions, rescaled steps and classes with a null class"]
    network, y = exported(model, tmp_path / "out"), torch.tensor([1, 2])
    pipeline = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "out", trust_remote_code=True)
    pipeline.set_progress_bar_config(disable=True)
    noise, again = SeededNoise(0, (0, 1)), SeededNoise(0, (0, 1))
    shown = pipeline([1, 2], guidance_scale=3.0, num_inference_steps=5, generator=again.generators, output_type="pt")
    main, null = (model.denoiser(network, labels, clip=None) for labels in (y, torch.tensor([3, 3])))
    chain, x_T = sampling_chain(model.chain, "5"), noise(torch.zeros(2, 1, 8, 8))
    drawn = ddpm(bounded(extrapolated(main, null, 3.0), 1.0), chain, x_T, noise)
    assert_close(shown.images, (drawn / 2 + 0.5).clamp(0, 1), atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="num_inference_steps 1501 is no whole stride of 2000 steps; 1000 is"):
        pipeline([1], num_inference_steps=1501, eta=0.0)
    with pytest.raises(ValueError, match="num_inference_steps is 1; this model takes from 2 to 2000"):
        pipeline([1], num_inference_steps=1)


def trained(tmp_path: Path) -> tuple[Path, Path]:
    """Runs of a random model with a learned variance, and of a random classifier of its noise."""
    model = replace(MODELS["ADM's blocks"], class_names=CLASSES)
    fields = {name: value for name, value in SMALL.items() if name != "out_channels"}
    network = ClassifierConfig(**fields, num_classes=3)
    classifier = ClassifierModelConfig(network=network, chain=model.chain, class_names=CLASSES)
    for kind, described, built in (
        ("diffusion", model, UNet(model.network)),
        ("classifier", classifier, NoisyClassifier(network)),
    ):
        save_checkpoint(
            tmp_path / kind, kind=kind, iteration=0, model=to_plain(described), run={},
            weights={"network": randomised(built).state_dict()},
        )  # fmt: skip
    return tmp_path / "diffusion", tmp_path / "classifier"


def test_a_pipeline_that_diffusers_saved_computes_the_same_here(diffusers, tmp_path: Path):
    # The architecture and the scheduler of diffusers' own training example, with fewer levels and channels.
    unet = diffusers.UNet2DModel(
        sample_size=16, layers_per_block=2, block_out_channels=(32, 32, 64), flip_sin_to_cos=False,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    diffusers.DDPMPipeline(randomised(unet), diffusers.DDPMScheduler()).save_pretrained(tmp_path / "saved")
    path = import_diffusers(ImportDiffusersConfig(folder=tmp_path / "saved", out=tmp_path / "run"))
    assert import_diffusers(ImportDiffusersConfig(folder=tmp_path / "saved", out=tmp_path / "run")) == path
    model = load_diffusion(path)
    assert (model.config.chain, model.config.variance) == (ChainConfig(schedule="linear", num_steps=1000), "small")
    x_t = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    t = torch.tensor([0, 700])
    with torch.no_grad():
        assert_close(model.network.double()(x_t, t.float()), unet.double()(x_t, t).sample, atol=1e-13, rtol=0)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_comes_back_to_the_bit(name: str, tmp_path: Path):
    model = MODELS[name]
    weights = exported(model, tmp_path / "out").state_dict()
    back = load_diffusers(tmp_path / "out")
    network = {"resample": "conv"} if model.network.resample == "plain" else {}  # which became convolutions
    expected = replace(model, network=replace(model.network, **network))
    returned = from_plain(DiffusionConfig, back.config, source="the import")
    assert replace(returned, network=replace(returned.network, **heads(model))) == replace(
        expected, network=replace(expected.network, **heads(model))
    )
    assert all(torch.equal(back.weights[key], tensor) for key, tensor in weights.items())
    assert (back.weights.keys() == weights.keys()) == (not network)


def heads(model: DiffusionConfig) -> dict[str, Any]:
    """Fields that say the same of heads and sizes in two ways."""
    network = model.network
    return {"heads": network.heads, "head_channels": network.head_channels, "attention_sizes": network.attention_sizes}


CANNOT_EXPORT = {
    "a UNet2DModel embeds timesteps in as many channels as its first level has, here 32, and this network in 64": {
        "base_channels": 64, "channel_mult": (0.5, 1),
    },
    "network.heads 2 makes heads of [16, 32] channels, and all heads of a UNet2DModel are of one size": {
        "head_channels": None, "heads": 2, "attention_sizes": (8, 4),
    },
    'DDPMScheduler has no form of prediction "mean", only of eps, x0, v': {"prediction": "mean"},
    'DDPMScheduler has no form of variance "learned", only of learned_range, small, large': {"variance": "learned"},
}  # fmt: skip


@pytest.mark.parametrize("says", CANNOT_EXPORT)
def test_a_model_that_diffusers_cannot_say_is_refused_before_anything_is_written(says: str, tmp_path: Path):
    model = config(**CANNOT_EXPORT[says])
    with pytest.raises(ValueError, match=re.escape(says)):
        write_pipeline(tmp_path / "out", model, {})
    assert not (tmp_path / "out").exists()


CIFAR10 = {  # google/ddpm-cifar10-32, as diffusers 0.0.4 wrote it
    "block_out_channels": [128, 256, 256, 256], "sample_size": 32, "attention_head_dim": None, "freq_shift": 1,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"], "norm_eps": 1e-6,
    "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"], "downsample_padding": 0,
    "flip_sin_to_cos": False,
}  # fmt: skip
EXAMPLE = {  # the default network of diffusers' train_unconditional.py
    "block_out_channels": [128, 128, 256, 256, 512, 512], "sample_size": 64, "in_channels": 3, "out_channels": 3,
    "down_block_types": [*["DownBlock2D"] * 4, "AttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "AttnUpBlock2D", *["UpBlock2D"] * 4],
}  # fmt: skip
CONSISTENCY = {  # the network of the consistency models of ImageNet 64, which is ADM's
    "sample_size": 64, "layers_per_block": 3, "num_class_embeds": 1000, "block_out_channels": [192, 384, 576, 768],
    "attention_head_dim": 64, "down_block_types": ["ResnetDownsampleBlock2D", *["AttnDownBlock2D"] * 3],
    "up_block_types": [*["AttnUpBlock2D"] * 3, "ResnetUpsampleBlock2D"], "resnet_time_scale_shift": "scale_shift",
    "attn_norm_num_groups": 32, "upsample_type": "resnet", "downsample_type": "resnet",
}  # fmt: skip


def test_networks_of_well_known_pipelines_are_read_or_refused_by_their_differences():
    assert from_plain(UNetConfig, network_config(EXAMPLE), source="the example") == UNetConfig(
        image_size=64, base_channels=128, channel_mult=(1, 1, 2, 2, 4, 4), attention_sizes=(4,), head_channels=8,
        resample="conv", modulation="add", out_channels=3,
    )  # fmt: skip
    assert from_plain(UNetConfig, network_config(CONSISTENCY), source="the consistency model") == UNetConfig(
        image_size=64, base_channels=192, channel_mult=(1, 2, 3, 4), attention_sizes=(32, 16, 8), blocks_per_level=3,
        out_channels=3, num_classes=1000,
    )  # fmt: skip
    with pytest.raises(ValueError, match="freq_shift is 1, here 0; downsample_padding is 0, here 1; norm_eps is 1e-06"):
        network_config(CIFAR10)


SCHEDULER, UNET, INDEX = "scheduler/scheduler_config.json", "unet/config.json", "model_index.json"
CANNOT_IMPORT: list[tuple[str, dict[str, Any], str]] = [
    (INDEX, {"vqvae": ["diffusers", "VQModel"]}, "is no pipeline of a UNet2DModel on pixels and a scheduler; it has "
     "scheduler DDPMScheduler, unet UNet2DModel, vqvae VQModel"),
    (INDEX, {"unet": ["diffusers", "UNet2DConditionModel"]}, "it has scheduler DDPMScheduler, unet UNet2DCond"),
    (UNET, {"down_block_types": ["SkipDownBlock2D", "AttnDownBlock2D"]}, "SkipDownBlock2D is no block of this "
     "project's U-Net, which can compute AttnDownBlock2D, ResnetDownsampleBlock2D, DownBlock2D"),
    (UNET, {"norm_eps": 1e-6, "act_fn": "gelu"}, "this project's U-Net cannot compute what this UNet2DModel does: "
     "act_fn is gelu, here silu; norm_eps is 1e-06, here 1e-05"),
    (UNET, {"upsample_type": "conv", "up_block_types": ["AttnUpBlock2D", "UpBlock2D"]},
     "the kind of changes of size is conv and resnet, here conv or resnet"),
    (UNET, {"up_block_types": ["ResnetUpsampleBlock2D"] * 2},
     "attention of up_block_types is [False, False], here [False, True]"),
    (UNET, {"attn_norm_num_groups": None}, "attn_norm_num_groups is None, here 32"),
    (UNET, {"time_embedding_type": "fourier"}, "time_embedding_type is fourier, here positional or learned"),
    (UNET, {"resnet_time_scale_shift": "spatial"}, "resnet_time_scale_shift is spatial, here scale_shift or default"),
    (UNET, {"sample_size": [8, 4]}, "sample_size is [8, 4], here one number"),
    (UNET, {"layers_per_block": 2}, "the weights do not fit the UNet2DModel's config.json: "),
    (UNET, {"out_channels": 1}, "network.out_channels is 1; images of 1 channels with variance "),
    (SCHEDULER, {"_class_name": "CMStochasticIterativeScheduler"}, "CMStochasticIterativeScheduler follows no chain "
     "of this project's; the schedulers that do are DDPM, DDIM, PNDM"),
    (SCHEDULER, {"prediction_type": "flow"}, 'has prediction_type "flow", and models here epsilon, sample'),
    (SCHEDULER, {"variance_type": "fixed_large_log"}, 'has variance_type "fixed_large_log", and models here learned_'),
    (SCHEDULER, {"trained_betas": None, "beta_schedule": "scaled_linear"}, "the scheduler's betas are scaled_linear, "
     "and here linear, squaredcos_cap_v2"),
    (SCHEDULER, {"rescale_betas_zero_snr": True}, "betas are squaredcos_cap_v2, rescale_betas_zero_snr"),
    (SCHEDULER, {"trained_betas": None, "num_train_timesteps": -1}, "chain.num_steps is -1; a chain needs at least 2"),
    (SCHEDULER, {"trained_betas": 3}, "scheduler_config.json is damaged: trained_betas is 3"),
    (UNET, {"block_out_channels": []}, "block_out_channels is []; a UNet2DModel has one or more levels"),
    (INDEX, {"unet": []}, "is no pipeline of a UNet2DModel on pixels and a scheduler; it has scheduler DDPMScheduler"),
    (SCHEDULER, {"trained_betas": None, "beta_schedule": "linear", "beta_end": 0.012}, "the scheduler's 40 betas, "
     "0.0001 to 0.012, are no chain of this project's, linear (0.0025 to 0.5 for that many) or cosine"),
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported pipeline, whose files a test changes for itself."""
    out = tmp_path_factory.mktemp("pipelines") / "out"
    exported(config(), out)
    return out


@pytest.mark.parametrize(("file", "changes", "says"), CANNOT_IMPORT)
def test_a_pipeline_that_no_model_here_can_say_is_refused(file: str, changes: dict[str, Any], says: str, folder: Path):
    original = (folder / file).read_text()
    (folder / file).write_text(json.dumps(json.loads(original) | changes))
    try:
        with pytest.raises(ValueError, match=re.escape(says)):
            load_diffusers(folder)
    finally:
        (folder / file).write_text(original)


def test_schedules_are_known_by_name_and_old_pipelines_have_all_files_in_one_folder(folder: Path, tmp_path: Path):
    flat = tmp_path / "flat"
    flat.mkdir()
    (flat / INDEX).write_text((folder / INDEX).read_text())
    scheduler = json.loads((folder / SCHEDULER).read_text())
    scheduler |= {"trained_betas": None, "beta_schedule": "squaredcos_cap_v2", "variance_type": None}
    (flat / "scheduler_config.json").write_text(json.dumps(scheduler | {"_class_name": "DDIMScheduler"}))
    (flat / "config.json").write_text((folder / UNET).read_text())
    weights = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    old = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    for present, name in old.items():
        weights = {key.replace(present, name): tensor for key, tensor in weights.items()}
    torch.save(weights, flat / "diffusion_pytorch_model.bin")
    new, same = load_diffusers(folder), load_diffusers(flat)
    assert same.config == new.config
    assert all(torch.equal(same.weights[key], tensor) for key, tensor in new.weights.items())


def test_names_of_classes_go_by_their_labels_and_those_of_a_classifier_are_its_own(tmp_path: Path):
    guide, unconditional = load_classifier(trained(tmp_path)[1]), config(class_names=("other",))
    write_pipeline(tmp_path / "guided", unconditional, UNet(unconditional.network).state_dict(), guide)
    id2label = json.loads((tmp_path / "guided" / INDEX).read_text())["id2label"]
    assert id2label == {"0": "dark", "1": "light", "2": "grey"}
    assert load_diffusers(tmp_path / "guided").config["class_names"] == []  # they are not of the model's data
    names = [f"class {label}" for label in range(12)]
    model = config(num_classes=12, class_names=tuple(names))
    exported(model, tmp_path / "out")
    index = json.loads((tmp_path / "out" / INDEX).read_text())
    (tmp_path / "out" / INDEX).write_text(json.dumps(index, sort_keys=True))  # as diffusers writes it
    assert load_diffusers(tmp_path / "out").config["class_names"] == names
    del index["id2label"]["3"]
    (tmp_path / "out" / INDEX).write_text(json.dumps(index))
    with pytest.raises(ValueError, match="id2label in model_index.json has 11 names, but none of label 3"):
        load_diffusers(tmp_path / "out")


def test_weights_that_are_not_finite_or_not_real_are_refused_by_name(folder: Path, tmp_path: Path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    file = copy / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    for bad in (weights["conv_out.bias"] / 0, weights["conv_out.bias"].int()):
        save_file({**weights, "conv_out.bias": bad}, file)
        with pytest.raises(ValueError, match="the weights conv_out.bias are not finite real numbers"):
            load_diffusers(copy)


def test_a_training_begins_from_a_pipeline(folder: Path):
    source, pipeline = open_source(folder, "diffusion"), load_diffusers(folder)
    assert (source.model, source.record["name"]) == (pipeline.config, "out")
    assert all(torch.equal(source.weights[key], tensor) for key, tensor in pipeline.weights.items())
    with pytest.raises(ValueError, match='out holds a model of kind "diffusion", but kind "classifier" is needed here'):
        open_source(folder, "classifier")
