"""Tiny trained models that several tests share, and the promise that tests run on the CPU alone."""

import gc
import inspect
import os
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

# Before torch is imported; programs that tests start inherit it. The networks here are so small that a second thread
# costs more than it brings: four times the whole suite's duration where cores are shared.
os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["ACCELERATE_USE_CPU"] = "true"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TORCHINDUCTOR_VEC_ISA_OK", "1")  # or each new cache compiles trials of the processor's vectors

import pytest
import tiny

from guided_diffusion.commands.train_classifier import train_classifier
from guided_diffusion.commands.train_diffusion import train_diffusion


def remember_sources_of_classes(read: Callable[[object], str] = inspect.getsource) -> None:
    """Let `inspect` read the source of a class once.

    A command finds the documentation of its options there, which takes most of the time that a refusal takes.
    """
    remembered = cache(read)
    inspect.getsource = lambda found: remembered(found) if isinstance(found, type) else read(found)


remember_sources_of_classes()


def pytest_collection_finish() -> None:
    """Have no collection of garbage look at the libraries and the tests themselves, which stay."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that lives as long as the tests do, the same for all workers. Nobody changes what is in it."""
    root = tmp_path_factory.getbasetemp()
    path = (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / "shared"
    path.mkdir(exist_ok=True)
    return path


@pytest.fixture(scope="session")
def class_folder(shared: Path) -> Path:
    """Class folder of 8x8 grey pictures, ten "dark" and ten "light"."""
    return tiny.made_once(shared / "pictures", tiny.write_class_folder)


@pytest.fixture(scope="session")
def diffusion_run(shared: Path, class_folder: Path) -> Path:
    """Run directory of an unconditional diffusion model."""

    def make(out: Path) -> None:
        train_diffusion(tiny.diffusion_config(out, class_folder, iterations=60, learning_rate=2e-3))

    return tiny.made_once(shared / "diffusion", make)


@pytest.fixture(scope="session")
def conditional_run(shared: Path, class_folder: Path) -> Path:
    """Run directory of a class-conditional diffusion model."""

    def make(out: Path) -> None:
        train_diffusion(tiny.diffusion_config(out, class_folder, class_conditional=True, iterations=2))

    return tiny.made_once(shared / "conditional", make)


@pytest.fixture(scope="session")
def free_run(shared: Path, class_folder: Path) -> Path:
    """Run directory of a class-conditional diffusion model with a null class."""

    def make(out: Path) -> None:
        config = tiny.diffusion_config(out, class_folder, class_conditional=True, iterations=20)
        train_diffusion(replace(config, label_dropout=0.5))

    return tiny.made_once(shared / "free", make)


@pytest.fixture(scope="session")
def classifier_run(shared: Path, class_folder: Path, diffusion_run: Path) -> Path:
    """Run directory of a classifier that knows the noise of `diffusion_run`."""

    def make(out: Path) -> None:
        train_classifier(tiny.classifier_config(out, class_folder, diffusion=diffusion_run, iterations=40))

    return tiny.made_once(shared / "classifier", make)


@pytest.fixture(scope="session")
def judge_run(shared: Path, class_folder: Path) -> Path:
    """Run directory of a classifier of clean images."""

    def make(out: Path) -> None:
        train_classifier(tiny.classifier_config(out, class_folder, heldout=class_folder, iterations=40))

    return tiny.made_once(shared / "judge", make)
