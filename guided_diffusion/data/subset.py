"""Subsets of a sequence."""


def evenly_spaced(count: int, *, most: int) -> list[int]:
    """At most `most` of the indices 0 .. count - 1, both ends included."""
    kept = min(most, count)
    return [round(i * (count - 1) / max(1, kept - 1)) for i in range(kept)]
