"""Tiny trained models that several tests share, and the promise that tests run on the CPU alone."""

import os
from dataclasses import replace
from pathlib import Path

# Before torch is imported; programs that tests start inherit it. The networks here are so small that a second thread
# costs more than it brings: four times the whole suite's duration where cores are shared.
os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["ACCELERATE_USE_CPU"] = "true"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import tiny

from guided_diffusion.commands.train_classifier import train_classifier
from guided_diffusion.commands.train_diffusion import train_diffusion


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that lives as long as the tests do. Nobody changes what is in it."""
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="session")
def class_folder(shared: Path) -> Path:
    """Class folder of 8x8 grey pictures, ten "dark" and ten "light"."""
    return tiny.write_class_folder(shared / "pictures")


@pytest.fixture(scope="session")
def diffusion_run(shared: Path, class_folder: Path) -> Path:
    """Run directory of an unconditional diffusion model."""
    train_diffusion(tiny.diffusion_config(shared / "diffusion", class_folder, iterations=60, learning_rate=2e-3))
    return shared / "diffusion"


@pytest.fixture(scope="session")
def conditional_run(shared: Path, class_folder: Path) -> Path:
    """Run directory of a class-conditional diffusion model."""
    out = shared / "conditional"
    train_diffusion(tiny.diffusion_config(out, class_folder, class_conditional=True, iterations=2))
    return out


@pytest.fixture(scope="session")
def free_run(shared: Path, class_folder: Path) -> Path:
    """Run directory of a class-conditional diffusion model with a null class."""
    out = shared / "free"
    config = tiny.diffusion_config(out, class_folder, class_conditional=True, iterations=20)
    train_diffusion(replace(config, label_dropout=0.5))
    return out


@pytest.fixture(scope="session")
def classifier_run(shared: Path, class_folder: Path, diffusion_run: Path) -> Path:
    """Run directory of a classifier that knows the noise of `diffusion_run`."""
    out = shared / "classifier"
    train_classifier(tiny.classifier_config(out, class_folder, diffusion=diffusion_run, iterations=40))
    return out


@pytest.fixture(scope="session")
def judge_run(shared: Path, class_folder: Path) -> Path:
    """Run directory of a classifier of clean images."""
    out = shared / "judge"
    train_classifier(tiny.classifier_config(out, class_folder, heldout=class_folder, iterations=40))
    return out
