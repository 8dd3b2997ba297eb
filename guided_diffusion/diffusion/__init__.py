"""The chain, what networks estimate along it, losses, noise, and a trained model as a whole."""
