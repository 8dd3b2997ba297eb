"""Copy what the tests of networks and trajectories need from the full set: python tests/golden/strip.py SOURCE

Left out, to keep the repository small: networks that this project leaves out (spatial pooling, another head count in
the decoder) and the runs that they guide; half-precision outputs; and of every trajectory all but six states (x_steps
says which: the first, two neighbours in the middle, the last three) and all but the last reported x_0. What is kept is
unchanged.
"""

import json
import shutil
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
NETWORKS_LEFT_OUT = ("unet_u04", "unet_u09", "classifier_c03", "classifier_c04")
WHOLE = ("arch.json.gz", "bpd.npz", "bpd.json", "training.npz")


def copy_network(file: Path) -> None:
    with np.load(file) as stored:
        np.savez_compressed(HERE / file.name, **{key: stored[key] for key in stored if not key.endswith("_half")})
    shutil.copy(file.with_suffix(".json"), HERE)


def copy_trajectories(file: Path) -> None:
    sidecar = json.loads(file.with_suffix(".json").read_text())
    guidable = sidecar["classifier"] is not None and sidecar["classifier"]["pool"] in ("attention", "adaptive")
    runs = [run for run in sidecar["runs"] if guidable or run["guidance_scale"] is None]
    if not guidable:
        sidecar |= {"classifier": None, "classifier_weights": None, "classifier_state_dict": None}
    kept: dict[str, np.ndarray] = {}
    with np.load(file) as stored:
        kept |= {key: stored[key] for key in stored if "/" not in key}
        kept["noise"] = kept["noise"][: max(run["steps"] for run in runs if run["sampler"] != "ddim_reverse")]
        for run in runs:
            kept |= states_of(run["name"], {key: stored[key] for key in stored}, run["steps"])
    np.savez_compressed(HERE / file.name, **kept)
    (HERE / file.with_suffix(".json").name).write_text(json.dumps({**sidecar, "runs": runs}, separators=(",", ":")))


def states_of(run: str, stored: dict[str, np.ndarray], steps: int) -> dict[str, np.ndarray]:
    middle = steps // 2
    x_steps = np.array([0, middle, middle + 1, steps - 3, steps - 2, steps - 1])
    kept = {f"{run}/x": stored[f"{run}/x"][x_steps], f"{run}/x_steps": x_steps}
    for name in ("pred_xstart", "pred_xstart_steps"):
        kept[f"{run}/{name}"] = stored[f"{run}/{name}"][-1:]
    names = [f"{run}/{name}" for name in ("timestep_map", "unet_t", "classifier_t")]
    return kept | {name: stored[name] for name in names if name in stored}


def main(source: Path) -> None:
    for name in WHOLE:
        shutil.copy(source / name, HERE)
    training = json.loads((source / "training.json").read_text())
    (HERE / "training.json").write_text(json.dumps(training, separators=(",", ":")))
    for file in sorted([*source.glob("unet_*.npz"), *source.glob("classifier_*.npz")]):
        if not file.name.startswith(NETWORKS_LEFT_OUT):
            copy_network(file)
    for file in sorted(source.glob("sampling_*.npz")):
        copy_trajectories(file)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
