"""Which samples a run makes."""

import pytest

from guided_diffusion.generation.label_rules import InTurn
from guided_diffusion.generation.plan import Plan, cut


@pytest.mark.parametrize("shard_size", [1, 3, 10, 17])
def test_shards_hold_every_id_once_in_order(shard_size):
    plan = Plan(num_samples=10, shard_size=shard_size, labels=None)
    shards = [plan.ids(n) for n in range(-(-10 // shard_size))]
    assert [i for shard in shards for i in shard] == list(range(10))


def test_a_label_follows_from_the_id_alone():
    one, other = (Plan(num_samples=n, shard_size=s, labels=InTurn((2, 0))) for n, s in ((10, 3), (1000, 7)))
    assert [one.label(i) for i in range(6)] == [2, 0, 2, 0, 2, 0]
    assert [one.label(i) for i in range(10)] == [other.label(i) for i in range(10)]


def test_samples_of_no_class_have_label_minus_one():
    assert Plan(num_samples=1, shard_size=1, labels=None).label(0) == -1


@pytest.mark.parametrize("name", ["num_samples", "shard_size"])
def test_counts_below_one_are_refused_by_name(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        Plan(**({"num_samples": 1, "shard_size": 1, "labels": None} | {name: 0}))


def test_a_cut_holds_every_id_once_in_order():
    assert list(cut(range(3, 10), 3)) == [range(3, 6), range(6, 9), range(9, 10)]
