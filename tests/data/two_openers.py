"""Started once per process by test_index: opens the sets at arguments 1 and 2, and writes what it met into directory 3.

The first set is sound, and read twice: for a training, and for an evaluation.
"""

import os
import sys
from pathlib import Path

from guided_diffusion.data.config import DataConfig
from guided_diffusion.data.image_set import open_image_set, open_training_set

sound, broken, out = map(Path, sys.argv[1:])
rank, opens, errors = os.environ["RANK"], list[str](), list[str]()


def watch(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open" and str(arguments[0]).startswith(f"{sound}/") and str(arguments[0]).endswith(".png"):
        opens.append(str(arguments[0]))


sys.addaudithook(watch)
trained = open_training_set(DataConfig(path=sound, mode="RGB"), image_size=4)
(out / f"opened-{rank}").write_text("\0".join(opens), errors="surrogateescape")
evaluated = open_image_set(sound, channels=3, image_size=4)
told = [(images.paths, images.labels.tolist(), images.headers.sizes.tolist()) for images in (trained, evaluated)]
(out / f"facts-{rank}").write_text(repr([told, trained.pixels(3).tolist()]))
for path in (broken, out / "absent"):
    for attempt in (lambda path: open_training_set(DataConfig(path=path), image_size=4), open_image_set):
        try:
            attempt(path)
        except (ValueError, OSError) as error:
            errors.append(f"{type(error).__name__}: {error}")
(out / f"errors-{rank}").write_text("\n".join(errors))
