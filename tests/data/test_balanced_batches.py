"""Balanced streams of training samples: classes drawn equally often."""

from itertools import islice

import pytest
import tiny
import torch

from guided_diffusion.data.batches import Batch, EndlessBatches, balanced_order
from guided_diffusion.data.image_set import ImageSet, open_training_set
from guided_diffusion.data.summary import repetitions


@pytest.fixture(scope="module")
def dataset(class_folder) -> ImageSet:
    return open_training_set(tiny.data(class_folder), image_size=8)


def drawn(count: int, dataset: ImageSet, **cut: int) -> list[Batch]:
    """The first micro-batches of a balanced stream with batches of 6."""
    batches = EndlessBatches(dataset, batch_size=6, seed=1, num_workers=0, balanced=True)
    return list(islice(batches.micro_batches(**cut), count))


def test_a_balanced_stream_draws_every_class_equally_often_and_every_image_of_it():
    labels = torch.tensor([4] * 30 + [1] * 3 + [2] * 7)  # classes 0 and 3 have no images
    index = balanced_order(labels, seed=0)
    drawn = [index(counter) for counter in range(3 * 210)]
    rounds = [tuple(labels[drawn[start : start + 3]].tolist()) for start in range(0, len(drawn), 3)]
    assert all(sorted(one) == [1, 2, 4] for one in rounds)
    counts = torch.tensor(drawn).bincount(minlength=40)
    assert counts.tolist() == [7] * 30 + [70] * 3 + [30] * 7  # 210 draws of each class
    # 6 orders, 35 of each expected; chi-square with 5 degrees of freedom is below 20.5 in 999 of 1,000 cases.
    observed = torch.tensor([rounds.count(order) for order in set(rounds)], dtype=torch.float64)
    assert len(observed) == 6
    assert float(((observed - 35) ** 2 / 35).sum()) < 20.5


def test_a_class_is_gone_through_in_another_order_each_time():
    index = balanced_order(torch.tensor([0] * 20 + [1] * 20), seed=3)
    drawn = [index(counter) for counter in range(80)]
    epochs = [[one for one in drawn[start : start + 40] if one < 20] for start in (0, 40)]
    assert all(sorted(epoch) == [*range(20)] for epoch in epochs)
    assert epochs[0] != epochs[1]
    others = [one - 20 for one in drawn[:40] if one >= 20]
    assert others != epochs[0]  # classes of one size have orders of their own
    assert [balanced_order(torch.tensor([0] * 20 + [1] * 20), seed=4)(counter) for counter in range(80)] != drawn


def test_a_balanced_batch_does_not_depend_on_how_it_is_cut_or_where_it_begins(dataset):
    whole = drawn(4, dataset)
    cut = [drawn(8, dataset, rank=rank, world_size=2, micro_size=2) for rank in (0, 1)]
    for iteration, expected in enumerate(whole):
        pieces = [piece for rank in cut for piece in rank[2 * iteration : 2 * iteration + 2]]
        assert torch.equal(torch.cat([piece.counter for piece in pieces]), expected.counter)
        assert torch.equal(torch.cat([piece.x0 for piece in pieces]), expected.x0)
        assert torch.cat([piece.y for piece in pieces]).bincount().tolist() == [3, 3]
    (resumed,) = drawn(1, dataset, start_iteration=3)
    assert torch.equal(resumed.x0, whole[3].x0)


def test_balancing_needs_classes(class_folder):
    unlabelled = open_training_set(tiny.data(class_folder), image_size=8, is_labelled=False)
    with pytest.raises(ValueError, match=r"--data.balance draws classes .* images of .* have no classes; leave it out"):
        drawn(1, unlabelled)


def test_the_repetition_of_the_smallest_class_is_told(tmp_path):
    for file in sorted((tiny.write_class_folder(tmp_path) / "dark").iterdir())[3:]:
        file.unlink()
    images = open_training_set(tiny.data(tmp_path), image_size=8)
    assert repetitions(images, samples=240) == (
        "classes are drawn equally often: each of the 3 images of dark is drawn 40 times, each of the 10 images of "
        "light is drawn 12 times"
    )
