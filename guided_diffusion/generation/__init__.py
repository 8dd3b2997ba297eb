"""Sampling runs: which samples, from which models, into which files."""
