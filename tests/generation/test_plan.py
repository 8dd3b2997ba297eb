"""Which samples a run makes, and what a user may ask for."""

import pytest

from guided_diffusion.generation.plan import Plan, parse_labels

NAMES = ("ant", "bee", "cat")


@pytest.mark.parametrize("shard_size", [1, 3, 10, 17])
def test_shards_hold_every_id_once_in_order(shard_size):
    plan = Plan(num_samples=10, shard_size=shard_size, labels=None)
    shards = [plan.ids(n) for n in range(-(-10 // shard_size))]
    assert [i for shard in shards for i in shard] == list(range(10))


def test_a_label_follows_from_the_id_alone():
    one, other = (Plan(num_samples=n, shard_size=s, labels=(2, 0)) for n, s in ((10, 3), (1000, 7)))
    assert [one.label(i) for i in range(6)] == [2, 0, 2, 0, 2, 0]
    assert [one.label(i) for i in range(10)] == [other.label(i) for i in range(10)]


def test_samples_of_no_class_have_label_minus_one():
    assert Plan(num_samples=1, shard_size=1, labels=None).label(0) == -1


@pytest.mark.parametrize("name", ["num_samples", "shard_size"])
def test_counts_below_one_are_refused_by_name(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        Plan(**({"num_samples": 1, "shard_size": 1, "labels": None} | {name: 0}))


@pytest.mark.parametrize(
    ("spec", "labels"),
    [("all", (0, 1, 2)), ("2", (2,)), ("0,2,0", (0, 2, 0)), ("cat, ant", (2, 0)), ("bee,0", (1, 0))],
)
def test_labels_are_numbers_or_names(spec, labels):
    assert parse_labels(spec, NAMES) == labels


def test_a_number_is_a_label_also_where_classes_are_named_by_numbers():
    assert parse_labels("2", ("2", "1", "0")) == (2,)


@pytest.mark.parametrize("spec", ["3", "-1", "dog", "0,dog", "", "0,,1", "Ant", "1.0"])
def test_a_label_that_is_not_there_is_refused_with_those_that_are(spec):
    with pytest.raises(
        ValueError, match=r"there is no label \".*\": the model has 3 classes, labels 0 to 2 \(ant, bee"
    ):
        parse_labels(spec, NAMES)


def test_of_many_classes_only_some_are_listed():
    with pytest.raises(ValueError, match=r"labels 0 to 999 \(c0, .*, c9, \.\.\)"):
        parse_labels("1000", [f"c{i}" for i in range(1000)])
