"""The rules of docs/architecture.md hold, and each of them notices what breaks it."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_type_hints

import architecture
import pytest
from architecture import RULES, Tree, Violation, names_all_over_the_place

from guided_diffusion.data.formats import FORMATS
from guided_diffusion.evaluation.extractors.config import EXTRACTORS
from guided_diffusion.evaluation.metrics import NUMBERS
from guided_diffusion.guidance.config import CLASSIFIER_SCORES, GuidanceConfig
from guided_diffusion.samplers.config import SAMPLERS

ROOT = Path(__file__).parents[1]
FOLDERS = ("guided_diffusion", "classifiers", "scripts", "examples", "tests", "benchmarks", "docs")

WELL_KEPT = {
    "guided_diffusion/diffusion/chain.py": "import torch\nx = torch.randn(3, generator=g)",
    "guided_diffusion/samplers/ddim.py": '"""DDIM (2010.02502)."""\nfrom ..diffusion.chain import Step',
    "guided_diffusion/commands/sample.py": "def main() -> None: ...",
    "scripts/sample.py": "from guided_diffusion.commands.sample import main",
} | {
    place if place.endswith(".py") else f"{place}{library}_{number}.py": f"import {library}"
    for library, places in architecture.LIBRARY_PLACES.items()
    for number, place in enumerate(places)
}
BUDGETS = "| `guided_diffusion/` | 1,000 |\n| `classifiers/` | 500 |\n| `scripts/` | 100 |\n"
LISTED = "\n".join(
    f"### `{path.rpartition('/')[0]}/`\n| `{Path(path).name}` | x |"
    for path in WELL_KEPT
    if not path.startswith("scripts")
)
WELL_KEPT["docs/architecture.md"] = BUDGETS + LISTED
"""A tree that follows every rule; violations are planted in it."""

PLANTED: list[tuple[str, str, str]] = [
    ("imports_across_floors", "guided_diffusion/samplers/ddim.py", "from ..commands.sample import main"),
    ("imports_across_floors", "guided_diffusion/samplers/ddim.py", "from ..commands import sample"),
    ("imports_across_floors", "guided_diffusion/diffusion/chain.py", "def f():\n    from ..samplers import ddim"),
    ("imports_across_floors", "guided_diffusion/training/loop.py", "from scripts.sample import main"),
    ("imports_across_floors", "guided_diffusion/generation/run.py", "import guided_diffusion.commands.sample"),
    ("imports_in_a_circle", "guided_diffusion/diffusion/chain.py", "from ..samplers import ddim"),
    ("imports_by_another_style", "guided_diffusion/training/loop.py", "from guided_diffusion.config import parse"),
    ("imports_by_another_style", "classifiers/report.py", "import classifiers.model"),
    ("libraries_out_of_place", "guided_diffusion/samplers/ddim.py", "from accelerate import Accelerator"),
    ("libraries_out_of_place", "guided_diffusion/config.py", "import json"),
    ("core_beyond_torch", "guided_diffusion/samplers/ddim.py", "import numpy as np"),
    ("core_beyond_torch", "guided_diffusion/samplers/ddim.py", "import logging"),
    ("core_beyond_torch", "guided_diffusion/guidance/score.py", "import torch\nx = torch.randn(3)"),
    ("core_beyond_torch", "guided_diffusion/guidance/score.py", "import torch\ntorch.manual_seed(0)"),
    ("core_beyond_torch", "classifiers/model.py", "import torch\ntorch.cuda.synchronize()"),
    ("core_beyond_torch", "guided_diffusion/models/unet.py", "print('hello')"),
    ("scripts_with_a_life_of_their_own", "scripts/sample.py", "import argparse"),
    ("scripts_with_a_life_of_their_own", "scripts/sample.py", "from guided_diffusion.commands.sweep import main"),
    ("scripts_with_a_life_of_their_own", "scripts/sample.py", "\n" * 11),
    ("scripts_with_a_life_of_their_own", "guided_diffusion/commands/sweep.py", "def main(): ..."),
    ("scripts_with_a_life_of_their_own", "guided_diffusion/commands/sweep.py", "main = partial(run_command, C, f)"),
    ("tests_that_import_scripts", "tests/test_sample.py", "from scripts.sample import main"),
    ("tests_of_private_names", "tests/test_chain.py", "from guided_diffusion.diffusion.chain import _scaled"),
    ("long_files", "tests/test_chain.py", "x = 1\n" * 301),
    ("long_functions", "guided_diffusion/config.py", "def f():\n" + "    x = 1\n" * 40),
    ("long_functions", "classifiers/model.py", "def f(a, b, c, d, /, e, f, g, *, h, i): ..."),
    ("long_functions", "classifiers/model.py", "class C:\n    def f(self, a, b, c, d, e, f, g, *h, **i): ..."),
    ("shared_basenames", "guided_diffusion/training/ddim.py", ""),
    ("shared_basenames", "guided_diffusion/training/how_often.py", ""),
    ("odd_docstring_openings", "guided_diffusion/files.py", '"""What is written."""'),
    ("odd_docstring_openings", "guided_diffusion/files.py", "class A:\n    x: int\n    '''Whether it is.'''"),
    ("odd_docstring_openings", "tests/test_files.py", "def f():\n    '''How it is done.'''"),
    ("other_forms_of_raises", "guided_diffusion/files.py", "def f():\n    '''X.\n\n    Raises ValueError.\n    '''"),
    ("other_forms_of_raises", "guided_diffusion/files.py", "def f():\n    '''X.\n\n    Raises: ValueError\n    '''"),
    (
        "other_forms_of_raises",
        "guided_diffusion/files.py",
        "def f():\n    '''X.\n\n    Raises:\n        if so.\n    '''",
    ),
    ("fields_without_documentation", "guided_diffusion/config.py", "class AConfig:\n    steps: int = 3  # steps"),
    ("packages_over_budget", "classifiers/model.py", "x = 1\n" * 501),
    ("packages_over_budget", "docs/architecture.md", BUDGETS.replace("500", "0")),
    ("packages_over_budget", "docs/architecture.md", BUDGETS.replace("1,000", "25,700")),
    ("files_that_the_document_misses", "guided_diffusion/files.py", ""),
    ("files_that_the_document_misses", "docs/architecture.md", LISTED + "\n| `gone.py` | x |"),
    ("published_keys_inside", "guided_diffusion/checkpoint.py", "KEY = 'input_blocks.0'"),
    ("published_keys_inside", "guided_diffusion/openai/files.py", "KEY = 'down_blocks.0'"),
    ("unpickling", "guided_diffusion/checkpoint.py", "import pickle"),
    ("unpickling", "guided_diffusion/openai/files.py", "torch.load(path)"),
    ("unpickling", "guided_diffusion/files.py", "np.load(path, allow_pickle=True)"),
    ("talk_of_its_making", "docs/guidance.md", "As found in an earlier session."),
    ("talk_of_its_making", "guided_diffusion/files.py", "# TODO: faster"),
    ("talk_of_its_making", "guided_diffusion/files.py", "# see issue #12"),
]
"""A rule, a file, and a source that breaks it there."""


@pytest.fixture(scope="module")
def repository() -> Tree:
    paths = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".md")]
    paths += ROOT.glob("*.md")
    return {path.relative_to(ROOT).as_posix(): path.read_text() for path in sorted(paths)}


def by_place(violations: Iterable[Violation]) -> dict[str, list[str]]:
    found = defaultdict(list)
    for violation in violations:
        found[violation.place].append(violation.found)
    return dict(found)


@pytest.mark.parametrize("rule", RULES)
def test_the_repository_follows_the_rule(rule, repository):
    assert by_place(RULES[rule](repository)) == {}


def member_names() -> set[str]:
    """Names of members and of their own options, from the tables of their families.

    Left out are words that mean something else as well: ddim and ddpm, of which encoding and RePaint are variants, the
    plain score, and the metrics accuracy, precision, recall, density and coverage; and eta, which the manifests of all
    samplers hold.
    """
    options = {option for entry in SAMPLERS.values() for option in entry.options}
    hints = get_type_hints(GuidanceConfig)
    kinds = {field.name for field in fields(GuidanceConfig) if is_dataclass(hints[field.name])}
    names = options | kinds | {*SAMPLERS, *CLASSIFIER_SCORES, *NUMBERS, *EXTRACTORS, *FORMATS}
    return names - {"ddim", "ddpm", "eta", "plain", "accuracy", "precision", "recall", "density", "coverage"}


def test_a_members_name_stands_in_its_own_file_and_the_table(repository):
    names = sorted(member_names())
    assert len(names) > 20
    assert by_place(names_all_over_the_place(repository, names)) == {}


@pytest.mark.parametrize("source", ["x = 'heun'", "x.heun", "f(heun=1)", "def f(heun): ...", "class C:\n    heun: int"])
def test_a_members_name_in_a_third_file_is_noticed(source):
    two = WELL_KEPT | {"guided_diffusion/samplers/heun.py": source, "guided_diffusion/samplers/config.py": source}
    assert not list(names_all_over_the_place(two, ["heun"]))
    assert list(names_all_over_the_place(two | {"guided_diffusion/training/log.py": source}, ["heun"]))


def test_stored_numbers_are_small():
    large = [path.name for path in (ROOT / "tests" / "golden").rglob("*.npz") if path.stat().st_size > 102_400]
    assert not large, "tests/golden/strip.py keeps every case with fewer elements"


@pytest.mark.parametrize(("rule", "path", "source"), PLANTED)
def test_a_violation_is_noticed(rule, path, source):
    assert not list(RULES[rule](WELL_KEPT))
    assert list(RULES[rule](WELL_KEPT | {path: source}))


def test_every_rule_has_been_seen_to_notice():
    assert {rule for rule, _, _ in PLANTED} == RULES.keys()
