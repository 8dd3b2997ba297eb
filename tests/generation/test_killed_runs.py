"""Sampling runs that are killed lose at most what they were about to write."""

from killing_samples import killed_equals_undisturbed


def test_a_run_killed_at_random_moments_ends_with_the_bytes_of_one_undisturbed(tmp_path, diffusion_run, classifier_run):
    outcomes = killed_equals_undisturbed(tmp_path, diffusion_run, classifier_run, kills=2, seed=0)
    assert outcomes["finished first"] < 2
    assert outcomes["shards there before the last start"] > 0
