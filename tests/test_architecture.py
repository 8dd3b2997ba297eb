"""The rules of docs/architecture.md that a reader would have to check otherwise: who imports whom, what lives where."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("guided_diffusion", "classifiers")

CORE_ORDER = {
    "chain": set(),
    "noise": set(),
    "images": set(),
    "schedules": {"chain"},
    "prediction": {"chain"},
    "guidance": {"chain", "prediction"},
    "losses": {"chain", "prediction"},
    "timesteps": {"chain"},
    "sampling": {"chain", "schedules", "prediction", "guidance", "noise"},
}
"""Each core module and the others that it may import."""

LAYERS = {
    "core": {"core"},
    "models": {"models"},
    "storage": {"core", "models", "storage"},
    "training": {"core", "models", "storage", "training"},
    "generation": {"core", "models", "storage", "generation"},
    "evaluation": {"core", "models", "storage", "evaluation"},
    "classifiers": {"core", "models", "storage", "training", "generation", "evaluation", "classifiers"},
    "public names": {"core", "models", "storage", "training", "generation", "evaluation", "applications"},
    "applications": {"core", "models", "storage", "generation", "evaluation", "classifiers", "applications"},
    "demo": {"core", "models", "storage", "training", "generation", "evaluation", "demo"},
}
"""Each layer and those it may import; drivers do not import one another."""

STORAGE = ("config", "checkpoint", "run_directory", "openai", "data", "device", "model", "guide", "page")

PLACES = {
    "accelerate": ("distributed.py", "training/"),
    "wandb": ("training/tracking.py",),
    "datasets": ("data/huggingface.py",),
    "torchvision": ("data/", "classifiers/"),
    "torchmetrics": ("evaluation/", "classifiers/"),
    "jsonargparse": ("config.py",),
}
"""The only files, or folders, under guided_diffusion/ or classifiers/, that import a library."""

CORE_LIBRARIES = {"torch", "einops"}
OUTSIDE_WORLD = {"os", "io", "pathlib", "shutil", "tempfile", "logging", "random", "secrets", "subprocess", "socket"}
DRAWS = {"rand", "randn", "randint", "randperm", "normal", "multinomial", "bernoulli"}
GLOBAL_STATE = {"manual_seed", "seed", "rand_like", "randn_like", "randint_like", "save", "load", "device_count"}
OPENAI_KEYS = ("input_blocks", "time_embed.", "output_blocks")


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(source: str, package: str) -> set[str]:
    """Absolute names of all modules that a source in `package` imports; of `from a import b` both a and a.b."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return found


def imports(path: Path) -> set[str]:
    return imported_modules(path.read_text(), module_name(path.parent / "__init__.py"))


def is_module(name: str) -> bool:
    place = ROOT / Path(*name.split("."))
    return place.is_dir() or place.with_suffix(".py").exists()


def layer(module: str) -> str:
    """The layer of a module of ours; a file that the tree does not foresee is an error, so that it gets a layer."""
    top, *rest = module.split(".")
    if top == "classifiers":
        return "classifiers"
    name = rest[0] if rest else ""
    if name in CORE_ORDER:
        return "core"
    if name in ("models", "training", "generation", "evaluation", "demo"):
        return name
    if name in STORAGE:
        return "storage"
    if name in ("api", "sweep"):
        return "applications"
    if not name:
        return "public names"
    raise LookupError(f"{module} has no layer: give it one in {Path(__file__).name} and docs/architecture.md")


def test_imports_are_found_in_all_their_forms():
    source = (
        "import a.b\nfrom ..models import unet\nfrom . import ddim\nfrom .ddpm import ddpm\ndef f():\n    import late"
    )
    assert imported_modules(source, "guided_diffusion.samplers") == {
        "a.b",
        "guided_diffusion.models",
        "guided_diffusion.models.unet",
        "guided_diffusion.samplers",
        "guided_diffusion.samplers.ddim",
        "guided_diffusion.samplers.ddpm",
        "guided_diffusion.samplers.ddpm.ddpm",
        "late",
    }


@pytest.mark.parametrize("path", sources(*PACKAGES), ids=relative)
def test_layers_import_only_layers_above_them(path):
    importer = layer(module_name(path))
    for name in imports(path):
        if name.split(".")[0] in PACKAGES and is_module(name):
            # Importing a package of ours by its bare name runs its __init__ alone; what it gives is checked as a.b.
            if name == "guided_diffusion" and importer != "classifiers":
                continue
            assert layer(name) in LAYERS[importer] | {"public names"}, f"{importer} imports {name}"
        assert name.split(".")[0] != "scripts", "a script is imported by nothing"


@pytest.mark.parametrize("path", sources("guided_diffusion"), ids=relative)
def test_the_library_takes_its_names_from_modules_not_from_its_front_door(path):
    """`from guided_diffusion import ddim` inside the package would import everything, and in a circle."""
    names = {name.removeprefix("guided_diffusion.") for name in imports(path) if name.startswith("guided_diffusion.")}
    assert all(is_module(f"guided_diffusion.{name.split('.')[0]}") for name in names)


def core_sources() -> list[Path]:
    return [path for path in sources("guided_diffusion") if layer(module_name(path)) == "core"]


@pytest.mark.parametrize("path", core_sources(), ids=relative)
def test_core_modules_import_in_their_order(path):
    own = module_name(path).split(".")[1]
    taken = {name.split(".")[1] for name in imports(path) if name.startswith("guided_diffusion.")}
    assert taken - {own} <= CORE_ORDER[own]


@pytest.mark.parametrize("path", [*core_sources(), *sources("guided_diffusion/models")], ids=relative)
def test_core_and_models_need_torch_and_einops_alone(path):
    foreign = {name.split(".")[0] for name in imports(path)} - sys.stdlib_module_names - CORE_LIBRARIES
    assert foreign <= {"guided_diffusion"}


@pytest.mark.parametrize("path", core_sources(), ids=relative)
def test_core_touches_no_file_no_logger_and_no_global_generator(path):
    assert not {name.split(".")[0] for name in imports(path)} & OUTSIDE_WORLD
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        assert called not in ("print", "open"), called
        assert not called.startswith("torch.cuda"), called
        if called.startswith("torch."):
            name = called.removeprefix("torch.")
            assert name not in GLOBAL_STATE, called
            if name in DRAWS:
                assert "generator" in {keyword.arg for keyword in node.keywords}, f"{called} without a generator"


@pytest.mark.parametrize("path", sources(*PACKAGES), ids=relative)
def test_libraries_are_imported_in_their_places_only(path):
    place = relative(path).removeprefix("guided_diffusion/")
    for library in {name.split(".")[0] for name in imports(path)} & PLACES.keys():
        assert any(
            place == allowed or (allowed[-1] == "/" and place.startswith(allowed)) for allowed in PLACES[library]
        )


@pytest.mark.parametrize("path", sources("tests"), ids=relative)
def test_no_test_imports_a_script(path):
    assert not {name for name in imports(path) if name.split(".")[0] == "scripts"}


@pytest.mark.parametrize("path", sources("scripts"), ids=relative)
def test_scripts_are_at_most_30_lines(path):
    assert len(path.read_text().splitlines()) <= 30


@pytest.mark.parametrize("path", sources(*PACKAGES, "scripts", "tests", "benchmarks"), ids=relative)
def test_a_file_over_300_lines_gives_its_reason_first(path):
    text = path.read_text()
    if len(text.splitlines()) > 300:
        comments = [line for line in text.splitlines() if line.startswith("#")]
        first = ast.get_docstring(ast.parse(text)) or "".join(comments[:1])
        assert "lines" in first, f"{len(text.splitlines())} lines and no reason in the first comment"


@pytest.mark.parametrize("path", sources(*PACKAGES, "scripts", "benchmarks"), ids=relative)
def test_published_key_names_stay_at_the_border(path):
    if not relative(path).startswith("guided_diffusion/openai/"):
        text = path.read_text()
        assert not [key for key in OPENAI_KEYS if key in text]


@pytest.mark.parametrize("path", sources(*PACKAGES, "scripts"), ids=relative)
def test_reading_never_unpickles(path):
    """`torch.load` executes what a file says unless told `weights_only=True`; numpy must not be told `allow_pickle`.

    The border to published files may name pickle's errors.
    """
    if not relative(path).startswith("guided_diffusion/openai/"):
        assert not {"pickle", "dill", "joblib"} & {name.split(".")[0] for name in imports(path)}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            assert given.get("allow_pickle", "False") == "False"
            if ast.unparse(node.func) == "torch.load":
                assert given.get("weights_only") == "True", f"torch.load at line {node.lineno}"
