"""The names of ImageNet's 1,000 classes, in the order of their labels."""

import runpy
from collections import Counter
from importlib.util import find_spec
from pathlib import Path


def imagenet_class_names() -> tuple[str, ...]:
    """torchvision's names, label 0 being the first of the sorted WordNet ids ("tench", n01440764).

    A name that occurs again gets its occurrence after it ("crane", "crane 2"), so that names tell classes apart.
    """
    # Importing torchvision takes a second and 170 MB; the list alone is in a file that imports nothing.
    package = find_spec("torchvision")
    assert package is not None
    assert package.origin is not None
    seen: Counter[str] = Counter()
    names = []
    for name in runpy.run_path(str(Path(package.origin).parent / "models" / "_meta.py"))["_IMAGENET_CATEGORIES"]:
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name} {seen[name]}")
    return tuple(names)
