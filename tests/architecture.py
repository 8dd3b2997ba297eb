"""The rules of docs/architecture.md as plain functions of source text: each returns the violations that it finds.

Over 300 lines: one rule a function, all of them on one page.
"""

import ast
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import PurePosixPath
from typing import NamedTuple

Tree = Mapping[str, str]
"""Source text by path, relative to the repository's root."""


class Violation(NamedTuple):
    """A place that breaks a rule: a path, followed by the function or name in it if the rule is about those."""

    place: str
    found: str


LIBRARY = ("guided_diffusion/", "classifiers/")

FLOORS: dict[str, tuple[str, ...]] = {
    "diffusion": ("guided_diffusion/diffusion/",),
    "models": ("guided_diffusion/models/",),
    "noisy classifier": ("classifiers/model.py",),
    "samplers": ("guided_diffusion/samplers/",),
    "guidance": ("guided_diffusion/guidance/",),
    "storage": (
        "guided_diffusion/config.py", "guided_diffusion/checkpoint.py", "guided_diffusion/run_directory.py",
        "guided_diffusion/files.py", "guided_diffusion/records.py", "guided_diffusion/stop_request.py",
        "guided_diffusion/standard_streams.py", "guided_diffusion/option_errors.py",
        "guided_diffusion/html.py", "guided_diffusion/distributed.py", "guided_diffusion/memory.py",
        "guided_diffusion/compilation.py", "guided_diffusion/own_code.py", "guided_diffusion/weight_averages.py",
        "guided_diffusion/openai/", "guided_diffusion/diffusers/", "guided_diffusion/data/",
        "guided_diffusion/diffusion/model.py",
        "classifiers/trained_model.py", "classifiers/target_model.py", "classifiers/off_the_shelf.py",
        "classifiers/activations.py",
    ),
    "guidance of a run": (
        "guided_diffusion/guidance/config.py", "guided_diffusion/guidance/compatibility.py",
        "guided_diffusion/guidance/guides.py", "guided_diffusion/guidance/target_guides.py",
        "guided_diffusion/guidance/run.py",
    ),
    "training": ("guided_diffusion/training/",),
    "generation": ("guided_diffusion/generation/",),
    "evaluation": ("guided_diffusion/evaluation/",),
    "classifiers": ("classifiers/",),
    "commands": ("guided_diffusion/commands/", "guided_diffusion/pipeline.py"),
    "public names": ("guided_diffusion/__init__.py", "guided_diffusion/__main__.py"),
    "scripts": ("scripts/", "examples/"),
}  # fmt: skip
"""Each floor and what stands on it, folders with a slash; of two prefixes of a path the longer one counts."""

_CORE = ("diffusion", "models", "noisy classifier", "samplers", "guidance")
_LAYERS = ("models", "noisy classifier")
_LOADED = (*_CORE, "storage", "guidance of a run")
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "diffusion": (),
    "models": (),
    "noisy classifier": ("models",),
    "samplers": ("diffusion", "guidance"),
    "guidance": ("diffusion",),
    "storage": _CORE,
    "guidance of a run": (*_CORE, "storage"),
    "training": _LOADED,
    "generation": _LOADED,
    "evaluation": _LOADED,
    "classifiers": (*_LOADED, "training", "evaluation"),
    "commands": (*_LOADED, "training", "generation", "evaluation", "classifiers"),
    "public names": tuple(FLOORS),
    "scripts": tuple(FLOORS),
}
"""The floors, besides its own, that each may import."""

LIBRARY_PLACES: dict[str, tuple[str, ...]] = {
    "PIL": (
        "guided_diffusion/data/", "guided_diffusion/evaluation/extractors/dinov2.py",
        "guided_diffusion/commands/make_digits.py",
    ),
    "accelerate": ("guided_diffusion/distributed.py",),
    "datasets": ("guided_diffusion/data/formats/huggingface.py",),
    "diffusers": ("guided_diffusion/diffusers/",),
    "jsonargparse": ("guided_diffusion/config.py",),
    "markupsafe": ("guided_diffusion/html.py",),
    "torchmetrics": ("guided_diffusion/evaluation/",),
    "torchvision": ("classifiers/off_the_shelf.py",),
    "wandb": ("guided_diffusion/training/",),
}  # fmt: skip
"""The only files or folders that import each of these libraries."""

OUTSIDE_WORLD = {"os", "io", "pathlib", "shutil", "tempfile", "logging", "random", "secrets", "subprocess", "socket"}
DRAWS = {"rand", "randn", "randint", "randperm", "normal", "multinomial", "bernoulli"}
GLOBAL_STATE = {"manual_seed", "seed", "rand_like", "randn_like", "randint_like", "save", "load", "device_count"}
PUBLISHED_KEYS = {
    "guided_diffusion/openai/": ("input_blocks", "time_embed.", "output_blocks"),
    "guided_diffusion/diffusers/": ("down_blocks", "up_blocks", "mid_block", "time_embedding."),
}
"""Names in the state dicts of others, by the package that is the border to them."""

MAX_FILE_LINES = 300
MAX_FUNCTION_LINES = 40
MAX_PARAMETERS = 8
MAX_SCRIPT_LINES = 10
MAX_FILES_OF_A_NAME = 2
MAX_TOTAL_LINES = 26_250

SHARED_BASENAMES = {"__init__", "config", "run", "model"}
ODD_OPENING = re.compile(r"(What|Who|Whose|Whom|Which|How|Whether|Where|Those)\b")
ODD_MODULE_NAME = re.compile(r"(^|_)(what|who|which|how|whether|where|given|told|knowing|begun|beside)(_|$)")
NOT_OF_ITSELF = re.compile(
    r"\b(this|last|next|an earlier|a later) session\b|\bissue #?\d|\bpull request\b|\bTODO\b(?!\(\w+\))"
    r"|\bFIXME\b|\bformerly\b|\bused to be\b|\bpreviously called\b",
    re.IGNORECASE,
)


@cache
def parsed(text: str) -> ast.Module:
    return ast.parse(text)


@cache
def _nodes(text: str) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(parsed(text)))


def under(tree: Tree, *prefixes: str) -> Iterator[tuple[str, str]]:
    return ((path, text) for path, text in tree.items() if path.endswith(".py") and path.startswith(prefixes))


def floor(path: str) -> str:
    """The floor that a library file stands on.

    Raises:
        LookupError: a file that the house has no floor for.
    """
    fits = [(len(prefix), name) for name, prefixes in FLOORS.items() for prefix in prefixes if path.startswith(prefix)]
    if not fits:
        raise LookupError(f"{path} stands on no floor: give it one in FLOORS and in docs/architecture.md")
    return max(fits)[1]


def imported_names(path: str, text: str) -> set[str]:
    """Absolute names of all that a file imports, a module or a name in it: of `from a import b` a.b."""
    return _names_of(path, _nodes(text))


def _names_of(path: str, nodes: Iterable[ast.AST]) -> set[str]:
    found: set[str] = set()
    package = path.split("/")[:-1]
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            found |= {".".join([*above, *filter(None, [node.module]), alias.name]) for alias in node.names}
    return found


def libraries(path: str, text: str) -> set[str]:
    ours = {"guided_diffusion", "classifiers"}
    return {name.split(".")[0] for name in imported_names(path, text)} - sys.stdlib_module_names - ours


def file_of(tree: Tree, name: str) -> str | None:
    """The file of the module of ours that a name means, or that it stands in; None for other libraries' names."""
    for module in (name, name.rpartition(".")[0]):
        stem = module.replace(".", "/")
        for path in (f"{stem}.py", f"{stem}/__init__.py"):
            if path in tree:
                return path
    return None


def imports_across_floors(tree: Tree) -> Iterator[Violation]:
    """A file imports its own floor and those that MAY_IMPORT allows. Nothing imports scripts or the public names."""
    for path, text in under(tree, *LIBRARY, "scripts/", "examples/"):
        own = floor(path)
        for target in sorted({file_of(tree, name) for name in imported_names(path, text)} - {None}):
            to = floor(target)
            if to != own and to not in MAY_IMPORT[own]:
                yield Violation(path, f"on the floor {own!r} imports {target}, on the floor {to!r}")


def imports_in_a_circle(tree: Tree) -> Iterator[Violation]:
    """No module needs itself to be imported; imports inside functions may come back."""
    needs = {
        path: {file_of(tree, name) for name in _names_of(path, parsed(text).body)} - {None}
        for path, text in under(tree, *LIBRARY)
    }
    for path in needs:
        reached, rest = set(), [path]
        while rest:
            new = needs.get(rest.pop(), set()) - reached
            reached |= new
            rest += new
        if path in reached:
            yield Violation(path, "imports itself through what it imports")


def imports_by_another_style(tree: Tree) -> Iterator[Violation]:
    """Imports are relative inside a package, absolute between the two."""
    for path, text in under(tree, *LIBRARY):
        own = path.split("/")[0]
        for node in _nodes(text):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            for name in names:
                if name.split(".")[0] == own:
                    yield Violation(path, f"imports {name} by its absolute name")


def libraries_out_of_place(tree: Tree) -> Iterator[Violation]:
    """Each library of LIBRARY_PLACES is imported in its places only, and every place does import it."""
    unused = {(library, place) for library, places in LIBRARY_PLACES.items() for place in places}
    for path, text in under(tree, *LIBRARY):
        for library in libraries(path, text) & LIBRARY_PLACES.keys():
            place = next((place for place in LIBRARY_PLACES[library] if path.startswith(place)), None)
            if place is None:
                yield Violation(path, f"imports {library}")
            unused.discard((library, place or ""))
    for library, place in sorted(unused):
        yield Violation(place, f"is allowed to import {library} but does not")


def _core(tree: Tree) -> Iterator[tuple[str, str]]:
    return ((path, text) for path, text in under(tree, *LIBRARY) if floor(path) in _CORE)


def core_beyond_torch(tree: Tree) -> Iterator[Violation]:
    """The core needs torch and einops alone, and touches no file, logger, device or global generator.

    Layers draw their initial weights as torch's own layers do.
    """
    for path, text in _core(tree):
        foreign = libraries(path, text) - {"torch", "einops"}
        outside = {name.split(".")[0] for name in imported_names(path, text)} & OUTSIDE_WORLD
        for name in sorted(foreign | outside):
            yield Violation(path, f"imports {name}")
        for node in _nodes(text):
            if isinstance(node, ast.Call) and (reason := _impurity(node, may_draw=floor(path) in _LAYERS)):
                yield Violation(path, f"line {node.lineno}: {reason}")


def _impurity(call: ast.Call, *, may_draw: bool) -> str | None:
    called = ast.unparse(call.func)
    name = called.removeprefix("torch.")
    if called in ("print", "open") or called.startswith("torch.cuda"):
        return f"calls {called}"
    if called.startswith("torch.") and name in GLOBAL_STATE:
        return f"calls {called}"
    has_generator = "generator" in {keyword.arg for keyword in call.keywords}
    if called.startswith("torch.") and name in DRAWS and not has_generator and not may_draw:
        return f"calls {called} without a generator"
    return None


def scripts_with_a_life_of_their_own(tree: Tree) -> Iterator[Violation]:
    """scripts/X.py is a few lines and imports commands/X.py alone; every command with a `main` has a script."""
    for path, text in under(tree, "scripts/"):
        stem = PurePosixPath(path).stem
        own = f"guided_diffusion.commands.{stem}"
        if foreign := imported_names(path, text) - {f"{own}.main"}:
            yield Violation(path, f"imports {', '.join(sorted(foreign))}")
        if len(text.splitlines()) > MAX_SCRIPT_LINES:
            yield Violation(path, f"has {len(text.splitlines())} lines")
    for path, text in under(tree, "guided_diffusion/commands/"):
        names = {getattr(node, "name", "") for node in parsed(text).body}
        names |= {ast.unparse(target) for node in parsed(text).body for target in getattr(node, "targets", [])}
        has_main = "main" in names
        if has_main and f"scripts/{PurePosixPath(path).name}" not in tree:
            yield Violation(path, "has a main, but no script")


def tests_that_import_scripts(tree: Tree) -> Iterator[Violation]:
    """No test imports a script: what is worth testing belongs into the library."""
    for path, text in under(tree, "tests/"):
        if any(name.split(".")[0] == "scripts" for name in imported_names(path, text)):
            yield Violation(path, "imports a script")


def tests_of_private_names(tree: Tree) -> Iterator[Violation]:
    """Tests bind to public names: they import no `_name` of ours."""
    for path, text in under(tree, "tests/"):
        for node in _nodes(text):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(("guided_diffusion", "classifiers")):
                for alias in node.names:
                    if alias.name.startswith("_") and not alias.name.startswith("__"):
                        yield Violation(path, f"imports {node.module}.{alias.name}")


def long_files(tree: Tree) -> Iterator[Violation]:
    """A file over 300 lines gives its reason in its first docstring, where it speaks of its lines."""
    for path, text in under(tree, *LIBRARY, "scripts/", "examples/", "tests/", "benchmarks/"):
        length = len(text.splitlines())
        if length > MAX_FILE_LINES and "lines" not in (ast.get_docstring(parsed(text)) or ""):
            yield Violation(path, f"has {length} lines and no reason in its first docstring")


def _functions(text: str) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in _nodes(text) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def long_functions(tree: Tree) -> Iterator[Violation]:
    """A function has at most 40 lines, docstring included, and 8 parameters besides self."""
    for path, text in under(tree, *LIBRARY, "scripts/", "examples/", "benchmarks/"):
        for function in _functions(text):
            length = (function.end_lineno or 0) - function.lineno + 1
            if length > MAX_FUNCTION_LINES:
                yield Violation(f"{path} {function.name}", f"has {length} lines")
            count = len(parameters(function))
            if count > MAX_PARAMETERS:
                yield Violation(f"{path} {function.name}", f"has {count} parameters")


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    given = function.args
    rest = [argument for argument in (given.vararg, given.kwarg) if argument is not None]
    names = [argument.arg for argument in (*given.posonlyargs, *given.args, *given.kwonlyargs, *rest)]
    return names[1:] if names[:1] in (["self"], ["cls"]) else names


def shared_basenames(tree: Tree) -> Iterator[Violation]:
    """No two library modules share a name, but for commands, which are named as scripts."""
    paths = [path for path, _ in under(tree, *LIBRARY) if not path.startswith("guided_diffusion/commands/")]
    count = Counter(PurePosixPath(path).stem for path in paths)
    for path in paths:
        stem = PurePosixPath(path).stem
        if count[stem] > 1 and stem not in SHARED_BASENAMES:
            yield Violation(path, f"shares the name {stem} with another module")
        if ODD_MODULE_NAME.search(stem):
            yield Violation(path, f"{stem} is no noun of the field")


def docstrings(text: str) -> Iterator[str]:
    """Docstrings of modules, classes, functions and, under an assignment, of fields and constants."""
    for node in _nodes(text):
        body = getattr(node, "body", None)
        if not isinstance(body, list):
            continue
        for before, statement in zip([None, *body], body, strict=False):
            documents = isinstance(before, ast.Assign | ast.AnnAssign) or (
                before is None and isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            )
            match statement:
                case ast.Expr(value=ast.Constant(value=str(said))) if documents:
                    yield said.strip()


def odd_docstring_openings(tree: Tree) -> Iterator[Violation]:
    """A docstring opens with a noun phrase or an imperative."""
    for path, text in under(tree, *LIBRARY, "scripts/", "examples/", "tests/", "benchmarks/"):
        for docstring in docstrings(text):
            if ODD_OPENING.match(docstring):
                yield Violation(path, f"a docstring opens with {' '.join(docstring.split()[:6])!r}")


def other_forms_of_raises(tree: Tree) -> Iterator[Violation]:
    """A docstring lists errors under a line `Raises:`, each as an indented `Name: when`."""
    for path, text in under(tree, *LIBRARY, "scripts/", "examples/", "tests/", "benchmarks/"):
        for docstring in docstrings(text):
            lines = docstring.splitlines()
            for line, below in zip(lines, [*lines[1:], ""], strict=True):
                is_form = line.strip() == "Raises:" and re.match(r"\s+[\w.]+(, [\w.]+)*: \S", below)
                if re.match(r"\s*Raises\b", line) and not is_form:
                    yield Violation(path, f"{line.strip()!r} is not the form of Raises:")


def fields_without_documentation(tree: Tree) -> Iterator[Violation]:
    """Each field of a config class is documented by a string under it, which `--help` shows."""
    for path, text in under(tree, *LIBRARY):
        for node in _nodes(text):
            if isinstance(node, ast.ClassDef) and node.name.endswith("Config"):
                for field, after in zip(node.body, [*node.body[1:], None], strict=True):
                    documented = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                    if isinstance(field, ast.AnnAssign) and not documented and "ClassVar" not in ast.unparse(field):
                        yield Violation(f"{path} {node.name}.{ast.unparse(field.target)}", "has no string under it")


@cache
def names_said(text: str) -> frozenset[str]:
    """The names that a source says: as a string, an attribute, a keyword, a parameter of a function or a field."""
    said = set[str]()
    for node in _nodes(text):
        match node:
            case ast.Constant(value=str(value)):
                said.add(value)
            case ast.Attribute(attr=name) | ast.keyword(arg=str(name)) | ast.AnnAssign(target=ast.Name(id=name)):
                said.add(name)
            case ast.FunctionDef():
                said |= {*parameters(node)}
    return frozenset(said)


def names_all_over_the_place(tree: Tree, names: Sequence[str]) -> Iterator[Violation]:
    """A member's or an option's own name stands in at most 2 library files: its own, and the family's table or config.

    A file says a name as a string, an attribute, a keyword, a parameter or a field. An import of a member's function is
    use of it and does not count. Neither do files that exist to pass names on: public names, the pipeline, the table of
    renamed options, the adapters of published flags and of diffusers; nor the demo, which is a user of some members.
    """
    passing = (
        "guided_diffusion/__init__.py", "guided_diffusion/pipeline.py", "guided_diffusion/option_errors.py",
        "guided_diffusion/openai/", "guided_diffusion/diffusers/", "guided_diffusion/commands/demo",
    )  # fmt: skip
    for name in names:
        files = [
            path
            for path, text in under(tree, *LIBRARY)
            if not path.startswith(passing) and not path.endswith("__init__.py") and name in names_said(text)
        ]
        if len(files) > MAX_FILES_OF_A_NAME:
            yield Violation(name, f"stands in {', '.join(files)}")


def budgets(document: str) -> dict[str, int]:
    """Lines that each package may have, from the table rows `| \\`package/\\` | 1,234 |` of docs/architecture.md."""
    rows = re.findall(r"^\| `([\w/.*]+)` \| ([\d,]+) \|", document, re.MULTILINE)
    return {place: int(lines.replace(",", "")) for place, lines in rows}


def packages_over_budget(tree: Tree) -> Iterator[Violation]:
    """Every library file is in one row of docs/architecture.md's table of line budgets, and no row has more lines."""
    allowed = budgets(tree["docs/architecture.md"])
    used = dict.fromkeys(allowed, 0)
    for path, text in under(tree, *LIBRARY, "scripts/"):
        fits = [place for place in allowed if path.startswith(place) or path == place]
        if not fits:
            yield Violation(path, "is in no row of the table of budgets")
            continue
        used[max(fits, key=len)] += len(text.splitlines())
    for place, lines in used.items():
        if lines > allowed[place]:
            yield Violation(place, f"has {lines} lines, and its budget is {allowed[place]}")
    if sum(allowed.values()) > MAX_TOTAL_LINES:
        yield Violation("docs/architecture.md", f"budgets sum to {sum(allowed.values())}, over {MAX_TOTAL_LINES}")


def files_that_the_document_misses(tree: Tree) -> Iterator[Violation]:
    """docs/architecture.md lists every library file, in the table under its package's heading, and no other."""
    document = tree["docs/architecture.md"]
    listed = {
        package + file
        for package, section in re.findall(r"^### `([\w/]+/)`$(.*?)(?=^##|\Z)", document, re.MULTILINE | re.DOTALL)
        for file in re.findall(r"^\| `([\w/]+\.py)` \|", section, re.MULTILINE)
    }
    paths = {path for path, _ in under(tree, *LIBRARY) if not path.endswith("/__init__.py")}
    for path in sorted(paths ^ listed):
        yield Violation(path, "is not listed in docs/architecture.md" if path in paths else "is listed, but not there")


def published_keys_inside(tree: Tree) -> Iterator[Violation]:
    """Others' key names stay in the package that is the border to them, where they become ours."""
    for path, text in under(tree, *LIBRARY, "scripts/", "examples/", "benchmarks/"):
        for border, keys in PUBLISHED_KEYS.items():
            if not path.startswith(border):
                for key in keys:
                    if key in text:
                        yield Violation(path, f"names {key}")


def unpickling(tree: Tree) -> Iterator[Violation]:
    """Reading never unpickles: torch.load is given `weights_only=True`, numpy never `allow_pickle`.

    The border to published files may name pickle's errors.
    """
    for path, text in under(tree, *LIBRARY, "scripts/", "examples/"):
        if not path.startswith("guided_diffusion/openai/"):
            for name in sorted(
                {"pickle", "dill", "joblib"} & {name.split(".")[0] for name in imported_names(path, text)}
            ):
                yield Violation(path, f"imports {name}")
        for node in _nodes(text):
            if isinstance(node, ast.Call):
                given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                unsafe = ast.unparse(node.func) == "torch.load" and given.get("weights_only") != "True"
                if unsafe or given.get("allow_pickle", "False") != "False":
                    yield Violation(path, f"line {node.lineno}: {ast.unparse(node)}")


def talk_of_its_making(tree: Tree) -> Iterator[Violation]:
    """Code and documents speak of what is, not of how it came to be, and leave no TODO without an owner."""
    for path, text in tree.items():
        if path in ("CHANGELOG.md", "tests/architecture.py", "tests/test_architecture.py"):
            continue
        for number, line in enumerate(text.splitlines(), start=1):
            if found := NOT_OF_ITSELF.search(line):
                yield Violation(path, f"line {number}: {found[0]!r}")


RULES = {
    rule.__name__: rule
    for rule in (
        imports_across_floors, imports_in_a_circle, imports_by_another_style, libraries_out_of_place, core_beyond_torch,
        scripts_with_a_life_of_their_own, tests_that_import_scripts, tests_of_private_names, long_files, long_functions,
        shared_basenames, odd_docstring_openings, other_forms_of_raises, fields_without_documentation,
        packages_over_budget, files_that_the_document_misses, published_keys_inside, unpickling, talk_of_its_making,
    )
}  # fmt: skip
"""Every rule of a tree alone, by name; `names_all_over_the_place` needs the names as well."""
