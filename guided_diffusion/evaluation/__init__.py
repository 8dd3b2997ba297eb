"""Evaluation: two sets of images, their features, the metrics on these, and the report."""
