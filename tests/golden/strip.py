"""Copy what the tests need from the full set: python tests/golden/strip.py SOURCE

Left out, to keep the repository small and every file at 100 KB:
- networks that this project leaves out (spatial pooling, another head count in the decoder) and the runs that they
  guide; half-precision outputs; whatever no test reads;
- of trajectories the second of two samples, which is independent of the first, and all but six states (x_steps says
  which: the first, two neighbours in the middle, the last three) and the last reported x_0. Whole are the two states
  that tests start from;
- of other results all but some elements (`oracles.golden.sampled`): a wrong formula is wrong nearly everywhere;
- of crops, which are held to the bit, all but a SHA-256;
- of the upsampler's images the second.
Inputs are whole. Arrays of one length and type become rows of one array, since each entry of a zip costs 300 bytes.
"""

import io
import json
import shutil
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from oracles.golden import digest, sampled

HERE = Path(__file__).parent
LARGEST = 97_000
"""Bytes of a file."""
NETWORKS_LEFT_OUT = ("unet_u04", "unet_u09", "classifier_c03", "classifier_c04")
WHOLE = ("arch.json.gz", "bpd.npz", "bpd.json", "schedule_samplers.npz")

Arrays = dict[str, np.ndarray]


def load(file: Path) -> Arrays:
    with np.load(file) as stored:
        return {key: stored[key] for key in stored}


def some(array: np.ndarray, count: int) -> np.ndarray:
    return sampled(torch.from_numpy(array), count).numpy()


def save(name: str, arrays: Arrays) -> None:
    """Write NAME.npz, and NAME.1.npz and so on for what is over LARGEST."""
    parts: list[Arrays] = [{}]
    for key, array in arrays.items():
        if sum(map(compressed, (*parts[-1].values(), array))) > LARGEST:
            parts.append({})
        parts[-1][key] = array
    for number, part in enumerate(parts):
        np.savez_compressed(HERE / (f"{name}.{number}.npz" if number else f"{name}.npz"), **as_rows(part))


def compressed(array: np.ndarray) -> int:
    """Bytes that an array takes in a file, where one-dimensional ones become rows."""
    if array.ndim == 1:
        return array.nbytes
    np.savez_compressed(file := io.BytesIO(), array=array)
    return len(file.getvalue()) + 50


def as_rows(arrays: Arrays) -> Arrays:
    """One-dimensional arrays of a type and length as the rows of one, with their names."""
    groups: dict[str, Arrays] = defaultdict(dict)
    for key, array in arrays.items():
        if array.ndim == 1:
            groups[f"{len(array)} {array.dtype}"][key] = array
    alike = {kind: group for kind, group in groups.items() if len(group) > 1}
    rows = {f"rows of {kind}": np.stack(list(group.values())) for kind, group in alike.items()}
    names = {f"names of {kind}": np.array(list(group)) for kind, group in alike.items()}
    grouped = {key for group in alike.values() for key in group}
    return {**{key: array for key, array in arrays.items() if key not in grouped}, **names, **rows}


def chosen(
    arrays: Mapping[str, np.ndarray], *, whole: Iterable[str], count: int, left_out: Iterable[str] = ()
) -> Arrays:
    """Arrays named `whole` as they are, `count` elements of others, but of names with one of `left_out` nothing."""
    whole = set(whole)
    return {
        key: array if key in whole else some(array, count)
        for key, array in arrays.items()
        if key in whole or not any(part in key for part in left_out)
    }


def copy_network(file: Path) -> None:
    kept = {key: array for key, array in load(file).items() if not key.endswith("_half")}
    np.savez_compressed(HERE / file.name, **kept)
    shutil.copy(file.with_suffix(".json"), HERE)


def copy_trajectories(file: Path) -> None:
    described = json.loads(file.with_suffix(".json").read_text())
    guidable = described["classifier"] is not None and described["classifier"]["pool"] in ("attention", "adaptive")
    runs = [run for run in described["runs"] if guidable or run["guidance_scale"] is None]
    if not guidable:
        described |= {"classifier": None, "classifier_weights": None, "classifier_state_dict": None}
    stored = load(file)
    kept = {key: array[:1] for key, array in stored.items() if "/" not in key and key != "noise"}
    longest = max(run["steps"] for run in runs if run["sampler"] != "ddim_reverse")
    kept["noise"] = stored["noise"][:longest, :1]
    for run in runs:
        kept |= states_of(run["name"], stored, run["steps"])
    save(file.stem, kept)
    write_json(file.stem, {**described, "runs": runs})


def states_of(run: str, stored: Arrays, steps: int) -> Arrays:
    middle = steps // 2
    x_steps = np.array([0, middle, middle + 1, steps - 3, steps - 2, steps - 1])
    x = stored[f"{run}/x"][x_steps, :1]
    networks = [f"{run}/{name}" for name in ("unet_t", "classifier_t")]
    return {
        f"{run}/x": np.stack([some(state, 96) for state in x]),
        f"{run}/x_steps": x_steps,
        f"{run}/starts": x[[1, 3]],
        f"{run}/pred_xstart": some(stored[f"{run}/pred_xstart"][-1, :1], 96),
        f"{run}/pred_xstart_steps": stored[f"{run}/pred_xstart_steps"][-1:],
        f"{run}/timestep_map": stored[f"{run}/timestep_map"],
        **{name: stored[name][:, :1] for name in networks if name in stored},
    }


def copy_data(source: Path) -> None:
    """Pictures, digests of their crops, and what an upsampler makes of them."""
    arrays = load(source / "data.npz")
    exact = ("center", "random", "dataset_")
    kept = {key: digest(array).numpy() for key, array in arrays.items() if key.startswith(exact)}
    kept |= {key: array for key, array in arrays.items() if key.startswith(("image", "gray_image"))}
    for key, array in arrays.items():
        if key.startswith("sr_"):
            kept[key] = some(array[:1], 256) if key.endswith("_upsampled_bilinear") else array[:1]
    save("data", kept)
    shutil.copy(source / "data.json", HERE)


def write_json(name: str, described: object) -> None:
    (HERE / f"{name}.json").write_text(json.dumps(described, separators=(",", ":")))


def main(source: Path) -> None:
    for name in WHOLE:
        shutil.copy(source / name, HERE)
    for name in ("evaluator", "schedules", "schedule_samplers", *(f"diffusion_{letter}" for letter in "ABC")):
        shutil.copy(source / f"{name}.json", HERE)
    for file in sorted([*source.glob("unet_*.npz"), *source.glob("classifier_*.npz")]):
        if not file.name.startswith(NETWORKS_LEFT_OUT):
            copy_network(file)
    for file in sorted(source.glob("sampling_*.npz")):
        copy_trajectories(file)
    copy_data(source)
    for letter in "ABC":
        arrays = load(source / f"diffusion_{letter}.npz")
        for key in [key for key in arrays if key.startswith("grad/")]:  # the two halves differ in magnitude
            arrays[f"{key}/prediction"], arrays[f"{key}/variance"] = np.split(arrays.pop(key), 2, axis=1)
        whole = {"x_start", "noise", "t", "model_t", "model_output", "x_t"} | {
            key for key, array in arrays.items() if key.startswith("eps_from_xstart") or array.size <= 4
        }
        save(f"diffusion_{letter}", chosen(arrays, whole=whole, count=48, left_out=("denoised_fn",)))
    schedules = load(source / "schedules.npz")
    subsets = [key for key in schedules if key.endswith("/timesteps")]
    small = {key: array.astype(np.int16) for key, array in schedules.items() if key in subsets}
    save("schedules", chosen(schedules | small, whole=subsets, count=24, left_out=("alphas_cumprod_next",)))
    evaluator = load(source / "evaluator.npz")
    unread = ("half_", "single_distances", "softmax_weight", "ref_spatial", "sample_spatial")
    covariances = ("ref_pool_sigma", "sample_pool_sigma")  # tests compute them from the features
    whole = [key for key in evaluator if not key.startswith(unread) or "spatial_" in key]
    save("evaluator", chosen(evaluator, whole=set(whole) - set(covariances), count=256, left_out=unread))
    ops = load(source / "ops.npz")
    results = ("up_", "down_", "attn_new", "attn_legacy", "gn_out", "temb_int_", "temb_float_")
    save("ops", chosen(ops, whole=[key for key in ops if not key.startswith(results)], count=96))
    training = load(source / "training.npz")
    save("training", chosen(training, whole=[key for key in training if not key.startswith("final")], count=256))
    write_json("training", json.loads((source / "training.json").read_text()))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
