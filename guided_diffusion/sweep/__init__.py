"""Scales, samplers and steps against each other: every combination sampled from the same seeds and evaluated."""
