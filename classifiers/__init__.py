"""Classifiers of noisy images: the network, its training, and whether it is any good."""
