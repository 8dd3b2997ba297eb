"""The code of docs/extending.md works as it stands: each file is imported in its package, each row in its table."""

import importlib
import importlib.util
import re
import sys
import types

import numpy as np
import pytest
import tiny
import torch

from guided_diffusion import SeededNoise, classifier_score, ddim, load_diffusion
from guided_diffusion.data import formats
from guided_diffusion.data.image_set import open_image_set
from guided_diffusion.evaluation import metrics, run
from guided_diffusion.evaluation.run import evaluate
from guided_diffusion.samplers import SamplerConfig, guided_sampler

BLOCKS = re.findall(
    r"```python\n# guided_diffusion/(\S+)\n(.*?)```", (tiny.REPOSITORY / "docs" / "extending.md").read_text(), re.DOTALL
)
FILES = {path: code for path, code in BLOCKS if code.startswith('"""')}
ROWS = {path: code for path, code in BLOCKS if path not in FILES}


@pytest.fixture
def member(tmp_path, monkeypatch):
    """Function from the path of a new file to the file as a module of its package."""

    def load(path: str) -> types.ModuleType:
        name = "guided_diffusion." + path.removesuffix(".py").replace("/", ".")
        file = tmp_path / path.replace("/", "-")
        file.write_text(FILES[path])
        spec = importlib.util.spec_from_file_location(name, file)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        return module

    return load


def row(path: str, **new: object) -> object:
    """The new row of a table, evaluated where the table stands: a dictionary, or a tuple."""
    table = importlib.import_module("guided_diffusion." + re.sub(r"(/__init__)?\.py$", "", path).replace("/", "."))
    brackets = "{%s}" if ":" in ROWS[path] else "(%s)"
    return eval(brackets % ROWS[path], vars(table) | new)


@pytest.fixture
def setup(diffusion_run):
    model = load_diffusion(diffusion_run)
    noise = SeededNoise(0, range(4))
    chain = SamplerConfig(steps=10).levels(model.config.chain)
    return model, chain, noise, noise(torch.empty(4, *model.image_shape))


def test_every_file_has_its_row():
    assert len(FILES) == len(ROWS) + 1 == 6  # a command's row is a line of --help


def test_the_sampler_approaches_ddim(setup, member):
    model, chain, noise, x_T = setup
    entry = row("samplers/config.py", plms=member("samplers/plms.py").plms)["plms"]
    sampler = guided_sampler(entry.function, entry.guidance)
    found = sampler(model.denoiser(None), chain, x_T, noise)
    assert (found - ddim(model.denoiser(None), chain, x_T, noise)).abs().mean() < 0.1


def test_the_guidance_acts_where_the_classifier_is_uncertain(setup, member):
    _, chain, _, x_T = setup
    y = torch.tensor([0, 1, 0, 1])
    gated_score = row("guidance/config.py", gated_score=member("guidance/gated.py").gated_score)["gated"]

    def log_prob(x_t, t):
        logits = torch.stack([torch.zeros(4), x_t.mean(dim=(1, 2, 3)) + torch.tensor([8.0, 0.0, 8.0, 8.0])], dim=1)
        return logits.log_softmax(dim=1)

    step = chain.at(5, like=x_T)
    plain, gated = (score(log_prob, y, 2.0)(x_T, step) for score in (classifier_score, gated_score))
    assert torch.equal(gated[:3], plain[:3])
    assert not gated[3].any()
    assert plain[3].any()


def test_the_metric_and_the_extractor_are_reported(class_folder, tmp_path, monkeypatch, member):
    copies = row("evaluation/metrics/__init__.py", COPIES=member("evaluation/metrics/copies.py").COPIES)
    monkeypatch.setattr(run, "METRICS", (*metrics.METRICS, *copies))
    load_pooled_pixels = member("evaluation/extractors/pooled_pixels.py").load_pooled_pixels
    loaders = row("evaluation/extractors/config.py", load_pooled_pixels=load_pooled_pixels)
    extractor = loaders["pooled_pixels"](device=torch.device("cpu"))
    report = evaluate(generated=class_folder, real=class_folder, extractor=extractor, out=tmp_path / "report.json")
    assert report.metrics["copies"] == 1.0
    assert abs(report.metrics["frechet_distance"]) < 1e-6


def test_the_format_is_read(tmp_path, monkeypatch, member):
    images = np.random.default_rng(0).integers(0, 256, (70, 8, 8, 3), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    new = row("data/formats/__init__.py", npy=member("data/formats/npy.py"))
    for name, entry in new.items():
        monkeypatch.setitem(formats.FORMATS, name, entry)
    opened = open_image_set(tmp_path / "images.npy")
    found = torch.cat([batch for batch, _ in opened.batches(50)])
    assert np.array_equal(found.permute(0, 2, 3, 1).numpy(), images)


def test_the_command_counts(class_folder, capsys, member):
    member("commands/count_images.py").main(["--path", str(class_folder)])
    assert capsys.readouterr().out == "20\n"
