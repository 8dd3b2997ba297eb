"""Shards: written in the memory there is and in the precision asked for, counted, with a manifest."""

import json
import logging
import threading
import time
from collections import Counter
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from tiny import generate
from torch import Tensor

from guided_diffusion.commands.sample import SampleConfig
from guided_diffusion.data.formats.samples import iterate_shards
from guided_diffusion.diffusion.model import DiffusionModel, load_diffusion
from guided_diffusion.distributed import Tally
from guided_diffusion.generation import shard_writer
from guided_diffusion.generation.shard_writer import Progress
from guided_diffusion.models.precision import EvaluatedNetwork, check_precision
from guided_diffusion.stop_request import StopRequest


def config(out: Path, **changes) -> SampleConfig:
    few = {"num_samples": 10, "batch_size": 10, "shard_size": 6, "steps": 3}
    return tiny.sample_config(out, **(few | changes))


def pixels(directory: Path) -> np.ndarray:
    return np.concatenate([shard.images for shard in iterate_shards(directory)]).astype(int)


def limited(model: DiffusionModel, most: int, sizes: list[int], error: type[RuntimeError] = torch.OutOfMemoryError):
    """The model on a machine whose memory holds so many images."""

    def watch(x_t: Tensor, t: Tensor) -> None:
        sizes.append(len(x_t))
        if len(x_t) > most:
            raise error(f"no room for {len(x_t)} images")

    return tiny.watched(model, watch)


@pytest.mark.parametrize(
    ("most", "tried"), [(5, [6, 3, 3, 3, 1]), (2, [6, 3, 2, 2, 2, 2, 2]), (1, [6, 3, 2, *[1] * 10])]
)
def test_a_batch_that_does_not_fit_is_halved_once_and_for_all(tmp_path, model, caplog, most, tried):
    sizes: list[int] = []
    generate(config(tmp_path / "whole"), model)
    with caplog.at_level(logging.WARNING, logger=shard_writer.__name__):
        generate(config(tmp_path / "halved"), limited(model, most, sizes))
    # A batch that fits is seen at each of the three steps, one that does not at the first alone.
    assert sizes == [size for batch in tried for size in [batch] * (1 if batch > most else 3)]
    assert np.abs(pixels(tmp_path / "whole") - pixels(tmp_path / "halved")).max() <= 1
    told = [record.getMessage() for record in caplog.records]
    halved = [size for before, size in pairwise(tried) if before > most]
    assert told == [f"out of memory: from here on {size} images at a time" for size in halved]


def test_one_image_that_does_not_fit_ends_the_run(tmp_path, model):
    with pytest.raises(torch.OutOfMemoryError, match="no room for 1 images"):
        generate(config(tmp_path), limited(model, 0, []))


def test_other_errors_are_not_taken_for_a_lack_of_memory(tmp_path, model):
    sizes: list[int] = []
    with pytest.raises(RuntimeError, match="no room for 6 images"):
        generate(config(tmp_path), limited(model, 0, sizes, error=RuntimeError))
    assert sizes == [6]


def test_the_end_tells_images_and_evaluations_of_an_image(tmp_path, model, guide, capsys):
    generate(config(tmp_path / "guided"), model, guide)
    assert "; 3 network and 3 classifier evaluations an image" in capsys.readouterr().err
    generate(config(tmp_path / "unguided"), model)
    told = capsys.readouterr().err
    assert "10 images in " in told
    assert "; 3 network evaluations an image" in told
    generate(config(tmp_path / "unguided"), model)
    assert "images in " not in capsys.readouterr().err  # nothing was left to make


def test_a_process_without_work_waits_and_shows_how_far_the_others_are(capsys):
    tally = Tally()

    def other() -> None:
        for _ in range(3):
            time.sleep(0.05)
            tally.add("images", 2)
        tally.add("ended", 1)

    bar = Progress(tally, Counter(), 6, stop=StopRequest(), name="samples", is_shown=True)
    with closing(bar) as progress:
        thread = threading.Thread(target=other)
        thread.start()
        progress.wait_for_all(2)
        assert tally.total("images") == 6
        thread.join()
    assert " 6/6 " in capsys.readouterr().err


def test_the_manifest_lists_what_computed_the_samples_and_never_compares_it(tmp_path, model):
    def environments() -> list[dict]:
        return json.loads((tmp_path / "manifest.json").read_text())["environments"]

    generate(config(tmp_path), model)
    (first,) = environments()
    assert first["torch"] == torch.__version__.split("+")[0]
    assert (first["batch_size"], first["cpu_threads"], first["compile"]) == (10, 1, "auto")
    generate(config(tmp_path, batch_size=3), model)  # all there: nothing was computed
    assert environments() == [first]
    (tmp_path / "shard-00001.npz").unlink()
    generate(config(tmp_path, batch_size=3), model)
    assert environments() == [first, first | {"batch_size": 3}]
    (tmp_path / "shard-00001.npz").unlink()
    generate(config(tmp_path), model)
    assert len(environments()) == 2


def test_networks_compute_in_the_precision_asked_for_and_answer_in_their_inputs(model):
    seen: list[torch.dtype] = []
    layer = torch.nn.Linear(4, 4)

    def network(x_t: Tensor) -> Tensor:
        h = layer(x_t)
        seen.append(h.dtype)
        return h

    evaluations: Counter[str] = Counter()
    x_t = torch.ones(2, 4)
    counted = {"counter": evaluations, "counted_as": "network"}
    exact = EvaluatedNetwork(network, precision="float32", **counted)(x_t)
    rounded = EvaluatedNetwork(network, precision="bfloat16", **counted)(x_t)
    assert seen == [torch.float32, torch.bfloat16]
    assert exact.dtype == rounded.dtype == torch.float32
    assert torch.equal(exact, layer(x_t))
    assert not torch.equal(exact, rounded)
    torch.testing.assert_close(exact, rounded, rtol=0.02, atol=0.02)
    assert evaluations == {"network": 4}


def test_bfloat16_moves_pixels_a_little_and_is_recorded(tmp_path, model, guide):
    generate(config(tmp_path / "exact"), model, guide)
    generate(config(tmp_path / "rounded", precision="bfloat16"), model, guide)
    assert json.loads((tmp_path / "rounded" / "manifest.json").read_text())["precision"] == "bfloat16"
    difference = np.abs(pixels(tmp_path / "exact") - pixels(tmp_path / "rounded"))
    assert difference.any()
    assert difference.mean() < 3  # grey levels; other noise would move them by some 30
    with pytest.raises(ValueError, match='precision: "float32" there, "bfloat16" now'):
        generate(config(tmp_path / "exact", precision="bfloat16"), model, guide)


def test_float16_without_a_gpu_is_refused_before_anything_is_written(tmp_path, model):
    with pytest.raises(ValueError, match="precision float16 needs a GPU; take bfloat16 or float32 here"):
        generate(config(tmp_path / "out", precision="float16"), model)
    assert not (tmp_path / "out").exists()
    check_precision("float16", torch.device("cuda"))


def test_labels_of_every_policy_reach_shards_and_manifest(tmp_path, conditional_run):
    model = load_diffusion(conditional_run)
    (tmp_path / "labels.txt").write_text("light\nlight\ndark\n")
    for name, labels in {"file": f"file:{tmp_path / 'labels.txt'}", "uniform": "uniform"}.items():
        generate(config(tmp_path / name, labels=labels), model)
        asked = np.concatenate([shard.labels for shard in iterate_shards(tmp_path / name)]).tolist()
        record = json.loads((tmp_path / name / "manifest.json").read_text())["labels"]
        assert record["policy"] == name
        assert asked == [1, 1, 0, 1, 1, 0, 1, 1, 0, 1] if name == "file" else set(asked) == {0, 1}
    with pytest.raises(ValueError, match=r"labels.policy: \"uniform\" there, absent now|labels: "):
        generate(config(tmp_path / "uniform"), model)
